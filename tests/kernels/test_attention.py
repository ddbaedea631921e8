"""csrc/attention.pyx: TQ = 32 queries meet TK = 32 keys at a time."""

import dataclasses

import numpy as np
import pytest

from tinygpt.kernels import registry
from tinygpt.testing import attention_backward_case, attention_case, check, run

TILE = 32
attention, attention_backward = pytest.mark.op("attention"), pytest.mark.op("attention_backward")
# (T, S): tiles of queries and keys with an edge, one query against a cache, a chunk of queries in the middle of a tile.
LENGTHS = [(1, 1), (2, 2), (7, 7), (TILE - 1, TILE - 1), (TILE, TILE), (TILE + 1, TILE + 1), (67, 67)]
CACHED = [(1, 2), (1, TILE), (1, TILE + 1), (1, 71), (5, TILE), (5, TILE + 3), (TILE, 67), (TILE + 1, 2 * TILE + 1)]
# (H, G): as many key heads as query heads, groups of two, one for all.
HEADS = [(1, 1), (2, 2), (4, 2), (3, 1)]


@attention
@pytest.mark.parametrize("lengths", LENGTHS + CACHED, ids=str)
@pytest.mark.parametrize("weights", [False, True])
def test_lengths(function, threads, make, lengths, weights):
    """Catches a mask that is off by one at the edge of a tile, and a cache whose queries count from its start."""
    T, S = lengths
    check(function, make("attention", B=2, T=T, S=S, H=2, D=5, weights=weights), threads)


@attention_backward
@pytest.mark.parametrize("lengths", LENGTHS + CACHED, ids=str)
def test_backward_lengths(function, threads, make, lengths):
    """Catches keys without a gradient because no query of the first tile sees them, and gradients not set to zero."""
    T, S = lengths
    check(function, make("attention_backward", B=2, T=T, S=S, H=2, D=5), threads)


@attention
@pytest.mark.parametrize("D", [1, 7, 8, 9, 15, 16, 17, 31, 33, 64])
def test_head_widths(function, threads, make, D):
    """Catches a head width that is taken for a multiple of the vector width."""
    check(function, make("attention", B=1, T=9, H=2, D=D, weights=True), threads)


@attention_backward
@pytest.mark.parametrize("D", [1, 7, 8, 9, 15, 16, 17, 31, 33, 64])
def test_backward_head_widths(function, threads, make, D):
    """Catches a head width that is taken for a multiple of the vector width."""
    check(function, make("attention_backward", B=1, T=9, H=2, D=D), threads)


@attention
@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("layout", ["plain", "fused", "cache"])
def test_heads_and_layouts(function, threads, make, heads, layout):
    """Catches h % G for h // (H // G), and a stride that is taken from the shape: the views lie in wider rows."""
    H, G = heads
    check(function, make("attention", B=2, T=TILE + 3, H=H, G=G, D=6, layout=layout, weights=True), threads)


@attention_backward
@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("layout", ["plain", "fused", "cache"])
def test_backward_heads_and_layouts(function, threads, make, heads, layout):
    """Catches a group whose last head replaces the others' gradients, and writes between the heads of a fused row."""
    H, G = heads
    check(function, make("attention_backward", B=2, T=TILE + 3, H=H, G=G, D=6, layout=layout), threads)


@attention
@pytest.mark.parametrize("shape", [(0, 3, 2, 4, 3), (2, 0, 2, 4, 0), (2, 0, 2, 4, 3)], ids=str)
def test_nothing_to_do(function, threads, make, shape):
    """Catches a crash, or a division by zero, for no sequence or no query."""
    B, T, H, D, S = shape
    check(function, make("attention", B=B, T=T, H=H, D=D, S=S, weights=True), threads)


@attention_backward
@pytest.mark.parametrize("shape", [(0, 3, 2, 4, 3), (2, 0, 2, 4, 0), (2, 0, 2, 4, 3)], ids=str)
def test_backward_nothing_to_do(function, threads, make, shape):
    """Catches a crash for no sequence, and keys that no query sees keeping what was in memory."""
    B, T, H, D, S = shape
    check(function, make("attention_backward", B=B, T=T, H=H, D=D, S=S), threads)


@attention
@pytest.mark.parametrize("size", [30.0, 1000.0])
def test_scores_far_apart(function, threads, make, size):
    """Catches exp of something positive, and an output that is not rescaled when a later tile has a larger score."""
    check(function, make("attention", B=1, T=2 * TILE + 5, H=2, D=8, size=size, weights=True), threads)


@attention_backward
def test_backward_scores_far_apart(function, threads, make):
    """Catches weights that are computed from the scores without lse: their exponentials overflow."""
    check(function, make("attention_backward", B=1, T=TILE + 5, H=2, D=8, size=30.0), threads)


@attention
def test_equal_keys_share_evenly(function, threads):
    """Catches weights that depend on where a key stands: with equal keys, query t gives 1 / (t + 1) to each."""
    case = attention_case(1, TILE + 5, 1, 4, weights=True)
    k = np.broadcast_to(case.inputs["k"][:, :1], case.inputs["k"].shape).copy()
    weights = run(function, dataclasses.replace(case, inputs=case.inputs | {"k": k}), threads)["weights"][0, 0]
    wanted = np.tril(1 / np.arange(1, TILE + 6)[:, None] * np.ones(TILE + 5))
    assert (abs(weights - wanted) <= case.bounds["weights"].max() * (wanted > 0)).all()


@attention
@pytest.mark.parametrize("length", [7, TILE + 1, 2 * TILE + 3])
def test_future_has_no_influence(function, threads, length):
    """Catches a mask that lets a little through: what follows a query is made huge, and nothing may change."""
    case = attention_case(1, length, 2, 4)
    keep = length // 2
    later = {name: case.inputs[name].copy() for name in ("k", "v")}
    for x in later.values():
        x[:, keep:] = 1e18
    before = run(function, case, threads)
    after = run(function, dataclasses.replace(case, inputs=case.inputs | later), threads)
    np.testing.assert_array_equal(before["out"][:, :keep], after["out"][:, :keep])
    np.testing.assert_array_equal(before["lse"][:, :, :keep], after["lse"][:, :, :keep])


@attention_backward
def test_lse_of_any_rung_serves(function, threads):
    """Catches an lse without the scale, to base 2, or in another order: every rung's lse is right, and serves here."""
    for rung in registry.rungs("attention"):
        saved = check(registry.function("attention", rung), attention_case(2, TILE + 3, 4, 8, G=2), threads)
        check(function, attention_backward_case(2, TILE + 3, 4, 8, G=2, saved=saved), threads)


@attention
def test_misaligned(function, make):
    """Catches aligned vector loads and stores."""
    check(function, make("attention", B=1, T=TILE + 3, H=2, D=16, layout="fused", weights=True), 2, 4)


@attention_backward
def test_backward_misaligned(function, make):
    """Catches aligned vector loads and stores."""
    check(function, make("attention_backward", B=1, T=TILE + 3, H=2, D=16, layout="fused"), 2, 4)
