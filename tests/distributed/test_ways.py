"""Sharded, compressed, deterministic and outer sums, on ranks that are threads."""

import ml_dtypes
import numpy as np
import pytest
from thread_ranks import run_ranks

from tinygpt.distributed import tree
from tinygpt.distributed.compression import Compressed, rounded
from tinygpt.distributed.outer import OuterSteps
from tinygpt.distributed.reduction import ReduceScatter
from tinygpt.distributed.tree import FixedTree, remaining

EXTENTS = [slice(0, 40), slice(48, 50), slice(64, 164), slice(176, 177)]
SIZE = 192


def gradient(*key):
    return np.random.default_rng(key).standard_normal(SIZE).astype(np.float32)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_rank_gets_its_part(ranks):
    """Catches a part that two ranks or none owns, and one that is the sum of other elements."""

    def work(comm):
        grad = gradient(comm.rank)
        one = ReduceScatter(comm, grad, EXTENTS, most=48)
        one.complete(176)
        one.finish()
        sums = np.full(SIZE, np.nan, np.float32)
        for part in one.owned:
            sums[part] = grad[part]
        everywhere, on_first = sums.copy(), sums.copy()
        one.gather(everywhere)
        one.gather(on_first, to_first=True)
        return sums, everywhere, on_first

    results = run_ranks(ranks, work)
    wanted = sum(gradient(rank).astype(np.float64) for rank in range(ranks))
    assert np.sum([~np.isnan(sums) for sums, _, _ in results], axis=0).tolist() == [1] * SIZE
    for sums, everywhere, on_first in results:
        np.testing.assert_allclose(everywhere, wanted, atol=1e-5)
        np.testing.assert_array_equal(on_first, everywhere if sums is results[0][0] else sums)


def test_rounding_keeps_what_it_takes():
    """Catches a residual with the wrong sign or that is dropped, and one that stays infinite after a bad step."""
    residual = np.zeros(SIZE, np.float32)
    values = gradient(1)
    sent = sum(rounded(values, residual).astype(np.float64) for _ in range(100))
    np.testing.assert_allclose(sent + residual, 100 * values.astype(np.float64), rtol=1e-5)
    once = values.astype(ml_dtypes.bfloat16).astype(np.float64)
    assert np.abs(sent / 100 - values).max() < np.abs(once - values).max() / 10
    bad = values.copy()
    bad[3] = np.inf
    assert np.isinf(rounded(bad, residual)[3])
    assert np.isfinite(residual).all()


@pytest.mark.parametrize("ranks", [2, 3])
def test_compressed_sums_add_up(ranks):
    """Catches ranks that end with different sums, and error feedback that does not reach the sum."""
    steps = 30

    def work(comm):
        grad = np.zeros(SIZE, np.float32)
        one = Compressed(comm, grad, EXTENTS, most=48)
        total = np.zeros(SIZE)
        for step in range(steps):
            one.begin()
            grad[...] = gradient(comm.rank)
            if step % 2:
                one.complete(176)
            one.finish()
            total += grad
        one.forget()
        grad[...] = gradient(comm.rank)
        one.begin()
        one.finish()
        return total, grad.copy()

    results = run_ranks(ranks, work)
    wanted = sum(gradient(rank).astype(np.float64) for rank in range(ranks))
    for total, last in results:
        np.testing.assert_array_equal(total, results[0][0])
        np.testing.assert_allclose(total / steps, wanted, atol=2e-3)
        np.testing.assert_allclose(last, wanted, atol=0.1)
    assert np.abs(results[0][1] - wanted).max() > 2e-3  # one sum by itself is rounded


@pytest.mark.parametrize("leaves", [1, 2, 6, 12, 16, 30])
def test_the_tree_has_the_same_bits_for_any_number_of_ranks(monkeypatch, leaves):
    """Catches an order of additions that depends on where one rank ends and the next begins."""
    monkeypatch.setattr(tree, "BUCKET_FLOATS", 50)  # several pieces, the last one short

    def work(comm):
        grad = np.zeros(SIZE, np.float32)
        one = FixedTree(comm, grad, leaves)
        sums = []
        for step in range(2):
            for leaf in range(one.first, one.stop):
                grad[...] = gradient(step, leaf)
                one.add()
            one.finish()
            sums.append(grad.copy())
        return np.concatenate(sums)

    found = {r: run_ranks(r, work) for r in (1, 2, 3, 4, 5, 6, 15) if leaves % r == 0}
    for results in found.values():
        for one in results:
            assert one.tobytes() == found[1][0].tobytes()
    wanted = np.concatenate([np.sum([gradient(s, leaf) for leaf in range(leaves)], 0, np.float64) for s in (0, 1)])
    np.testing.assert_allclose(found[1][0], wanted, atol=1e-5)


def test_remaining_nodes():
    """Catches nodes that are not those which adding one leaf after the other leaves behind."""
    for first in range(20):
        for stop in range(first + 1, 40):
            nodes = []
            for leaf in range(first, stop):
                tree.add_node(nodes, (leaf, 1), np.ones(1, np.float32))
            assert [node for node, _ in nodes] == remaining(first, stop)
            assert [float(value[0]) for _, value in nodes] == [size for _, size in remaining(first, stop)]


def test_outer_steps_by_the_formula():
    """Catches a change of the wrong sign, momentum that is not Nesterov's, and ranks that drift apart."""
    lr, mu, rounds = 0.7, 0.9, 3

    def work(comm):
        weights, momentum = gradient(9), np.zeros(SIZE, np.float32)
        outer = OuterSteps(comm, weights, momentum, lr, mu)
        for step in range(rounds):
            weights -= 0.1 * gradient(step, comm.rank)
            outer.step()
        return weights

    w, b = gradient(9).astype(np.float64), np.zeros(SIZE)
    for step in range(rounds):
        d = 0.1 * np.mean([gradient(step, rank) for rank in range(3)], axis=0)
        b = mu * b + d
        w = w - lr * (d + mu * b)
    for found in run_ranks(3, work):
        np.testing.assert_allclose(found, w, atol=1e-6)
