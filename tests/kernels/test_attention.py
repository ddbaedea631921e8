"""Tests of csrc/attention.pyx: TQ = 32 queries meet TK = 32 keys at a time; in simd up to 96 queries meet 64 keys."""

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
# The same for simd: up to FEW queries go one by one, more in whole registers of 4, 8 or 16; QUERIES and KEYS a tile.
FEW, QUERIES, KEYS = 4, 96, 64
VECTORS = [(FEW, FEW), (FEW, KEYS + 3), (FEW + 1, FEW + 1), (FEW + 1, KEYS + 3), (16, 16), (17, 17), (17, KEYS + 1)]
VECTORS += [(47, 48), (48, 48), (49, 50), (KEYS - 1, KEYS), (KEYS, KEYS), (KEYS + 1, 2 * KEYS + 1)]
VECTORS += [(QUERIES - 1, 2 * KEYS), (QUERIES, 2 * KEYS + 5), (QUERIES + 1, QUERIES + 1), (2 * QUERIES + 1, 203)]
# (H, G): as many key heads as query heads, groups of two, one for all.
HEADS = [(1, 1), (2, 2), (4, 2), (3, 1)]


@attention
@pytest.mark.parametrize("lengths", LENGTHS + CACHED + VECTORS, ids=str)
@pytest.mark.parametrize("weights", [False, True])
def test_lengths(function, threads, make, lengths, weights):
    """Catches a mask that is off by one at the edge of a tile, and queries after a cache that count from position 0."""
    T, S = lengths
    check(function, make("attention", B=2, T=T, S=S, H=2, D=5, weights=weights), threads)


@attention_backward
@pytest.mark.parametrize("lengths", LENGTHS + CACHED + VECTORS, ids=str)
def test_backward_lengths(function, threads, make, lengths):
    """Catches keys of the last tiles that get no gradient, and gradients that are not set to zero first."""
    T, S = lengths
    check(function, make("attention_backward", B=2, T=T, S=S, H=2, D=5), threads)


@attention
@pytest.mark.parametrize("D", [1, 7, 8, 9, 15, 16, 17, 31, 33, 64])
def test_head_widths(function, threads, make, D):
    """Catches a head width that is assumed to be a multiple of the vector width."""
    check(function, make("attention", B=1, T=9, H=2, D=D, weights=True), threads)


@attention
@pytest.mark.parametrize("D", [1, 3, 4, 5, 16, 17, 31, 48, 64, 65, 130])
@pytest.mark.parametrize("lengths", [(1, 1), (1, 50), (FEW, 37)], ids=str)
def test_few_queries_of_any_width(function, threads, make, lengths, D):
    """Catches lanes past the last key or the head's width that enter a maximum, a sum or an output."""
    T, S = lengths
    check(function, make("attention", B=1, T=T, S=S, H=2, D=D, weights=True), threads)


@attention_backward
@pytest.mark.parametrize("D", [1, 7, 8, 9, 15, 16, 17, 31, 33, 64])
def test_backward_head_widths(function, threads, make, D):
    """Catches a head width that is assumed to be a multiple of the vector width."""
    check(function, make("attention_backward", B=1, T=9, H=2, D=D), threads)


@attention
@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("layout", ["plain", "fused", "cache"])
def test_heads_and_layouts(function, threads, make, heads, layout):
    """Catches h % G instead of h // (H // G), and strides computed from the shape: arrays are views of wider ones."""
    H, G = heads
    check(function, make("attention", B=2, T=TILE + 3, H=H, G=G, D=6, layout=layout, weights=True), threads)


@attention_backward
@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("layout", ["plain", "fused", "cache"])
def test_backward_heads_and_layouts(function, threads, make, heads, layout):
    """Catches a group whose last head overwrites the gradients, and writes between the heads of a fused row."""
    H, G = heads
    check(function, make("attention_backward", B=2, T=TILE + 3, H=H, G=G, D=6, layout=layout), threads)


@attention
@pytest.mark.parametrize("D", [17, 32])
@pytest.mark.parametrize("layout", ["fused", "cache"])
def test_layouts_over_several_tiles(function, threads, make, layout, D):
    """Catches a second tile located by the head width instead of the stride, and writes past a row."""
    check(function, make("attention", B=2, T=QUERIES + 5, H=2, G=1, D=D, layout=layout), threads)


@attention_backward
@pytest.mark.parametrize("D", [17, 32])
@pytest.mark.parametrize("layout", ["fused", "cache"])
def test_backward_layouts_over_several_tiles(function, threads, make, layout, D):
    """Catches a later tile, or a later head of the group, that overwrites dk and dv instead of adding."""
    check(function, make("attention_backward", B=2, T=QUERIES + 5, H=3, G=1, D=D, layout=layout), threads)


@attention
@pytest.mark.parametrize("shape", [(0, 3, 2, 4, 3), (2, 0, 2, 4, 0), (2, 0, 2, 4, 3)], ids=str)
def test_empty_arrays(function, threads, make, shape):
    """Catches a crash or a division by zero without sequences or queries."""
    B, T, H, D, S = shape
    check(function, make("attention", B=B, T=T, H=H, D=D, S=S, weights=True), threads)


@attention_backward
@pytest.mark.parametrize("shape", [(0, 3, 2, 4, 3), (2, 0, 2, 4, 0), (2, 0, 2, 4, 3)], ids=str)
def test_backward_of_empty_arrays(function, threads, make, shape):
    """Catches a crash without sequences, and gradients of unused keys that are left uninitialised."""
    B, T, H, D, S = shape
    check(function, make("attention_backward", B=B, T=T, H=H, D=D, S=S), threads)


@attention
@pytest.mark.parametrize("size", [30.0, 1000.0])
def test_scores_far_apart(function, threads, make, size):
    """Catches an exponential that overflows, and an output that is not rescaled when a larger score follows."""
    check(function, make("attention", B=1, T=2 * TILE + 5, H=2, D=8, size=size, weights=True), threads)


@attention_backward
def test_backward_scores_far_apart(function, threads, make):
    """Catches weights recomputed without lse, whose exponentials overflow."""
    check(function, make("attention_backward", B=1, T=TILE + 5, H=2, D=8, size=30.0), threads)


@attention
def test_equal_keys_get_equal_weights(function, threads):
    """Catches weights that depend on a key's position: with equal keys, query t gives each the weight 1 / (t + 1)."""
    case = attention_case(1, TILE + 5, 1, 4, weights=True)
    k = np.broadcast_to(case.inputs["k"][:, :1], case.inputs["k"].shape).copy()
    weights = run(function, dataclasses.replace(case, inputs=case.inputs | {"k": k}), threads)["weights"][0, 0]
    wanted = np.tril(1 / np.arange(1, TILE + 6)[:, None] * np.ones(TILE + 5))
    assert (abs(weights - wanted) <= case.bounds["weights"].max() * (wanted > 0)).all()


@attention
@pytest.mark.parametrize("length", [3, 7, TILE + 1, 2 * TILE + 3, QUERIES + 9])
def test_future_has_no_influence(function, threads, length):
    """Catches a mask that does not hide everything: later keys and values become huge, and nothing may change."""
    check_future(function, threads, length, 1e18)


@pytest.mark.op("attention", without=[registry.OWN])  # NumPy multiplies whole matrices, and 0 NaN is NaN
@pytest.mark.parametrize("length", [3, 7, TILE + 1, 2 * TILE + 3, QUERIES + 9])
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_nan_in_the_future_has_no_influence(function, threads, length, value):
    """Catches values of hidden keys that are multiplied by 0: 0 times infinity is NaN."""
    check_future(function, threads, length, value)


def check_future(function, threads, length, value):
    case = attention_case(1, length, 2, 4)
    keep = length // 2
    later = {name: case.inputs[name].copy() for name in ("k", "v")}
    for x in later.values():
        x[:, keep:] = value
    before = run(function, case, threads)
    after = run(function, dataclasses.replace(case, inputs=case.inputs | later), threads)
    for name, seen in (("out", np.s_[:, :keep]), ("lse", np.s_[:, :, :keep])):
        # With NaN in a tile simd goes through its queries one by one: the same sums in another order.
        allowed = 0 if np.isfinite(value) else 2 * case.bounds[name][seen]
        assert (abs(before[name][seen] - after[name][seen]) <= allowed).all()


@attention
@pytest.mark.parametrize("length", [3, TILE + 9, QUERIES + 9])
def test_nan_stays_nan(function, threads, length):
    """Catches a NaN that is lost, or that reaches queries which do not see its key."""
    case = attention_case(1, length, 2, 4)
    place = length // 2
    k = case.inputs["k"].copy()
    k[0, place, 1, 2] = np.nan
    found = run(function, dataclasses.replace(case, inputs=case.inputs | {"k": k}), threads)
    assert np.isnan(found["out"][0, place:, 1]).all()
    assert np.isnan(found["lse"][0, 1, place:]).all()
    assert np.isfinite(found["out"][0, :, 0]).all()
    assert np.isfinite(found["out"][0, :place, 1]).all()


@attention_backward
@pytest.mark.parametrize("length", [3, TILE + 9])
def test_backward_nan_stays_nan(function, threads, length):
    """Catches weights of 0 instead of NaN, and a NaN that reaches another head."""
    case = attention_backward_case(1, length, 2, 4)
    place = length // 2
    q = case.inputs["q"].copy()
    q[0, place, 1, 2] = np.nan
    found = run(function, dataclasses.replace(case, inputs=case.inputs | {"q": q}), threads)
    assert np.isnan(found["dq"][0, place, 1]).all()
    assert np.isnan(found["dk"][0, : place + 1, 1]).all()
    assert all(np.isfinite(found[name][0, :, 0]).all() for name in ("dq", "dk", "dv"))


@attention_backward
def test_backward_accepts_the_lse_of_every_rung(function, threads):
    """Catches an lse without the scale, to base 2, or with swapped axes: backward must accept every rung's lse."""
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
