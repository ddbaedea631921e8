"""Sums over ranks that are threads: buckets, their order, errors that all ranks agree on."""

import numpy as np
import pytest
from thread_ranks import run_ranks

from tinygpt.distributed.reduction import Reduction, buckets, parts

EXTENTS = [slice(0, 40), slice(48, 50), slice(64, 164), slice(176, 177)]
SIZE = 192


def test_buckets_cover_the_arena():
    """Catches a gap, an overlap, and a parameter that two buckets share."""
    for most in (1, 50, 64, 1000):
        found = buckets(EXTENTS, SIZE, most)
        assert [b.start for b in found] == [0, *(b.stop for b in found[:-1])]
        assert found[-1].stop == SIZE
        assert all(any(b.start <= e.start and e.stop <= b.stop for b in found) for e in EXTENTS)
    assert len(buckets(EXTENTS, SIZE, 1)) == len(EXTENTS)
    assert len(buckets(EXTENTS, SIZE, 1000)) == 1


@pytest.mark.parametrize("length", [0, 1, 16, 177, 1024])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_parts_are_even(length, size):
    """Catches floats that no rank or two ranks have, and a rank with much more than its share."""
    found = parts(length, size)
    assert (len(found), sum(found)) == (size, length)
    assert min(found) >= 0
    assert max(found) <= -(-length // size) + 16


def gradients(rank):
    return np.random.default_rng(rank).standard_normal(SIZE).astype(np.float32)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("order", [[176, 64, 48, 0], [0, 48, 64, 176], [64, 176], []])
def test_the_sum_of_all_ranks(order, late):
    """Catches a bucket that is reduced twice or never, too early, or not waited for."""

    def work(comm):
        grad = np.zeros(SIZE, np.float32)
        one = Reduction(comm, grad, EXTENTS, most=48)
        for _ in range(2):  # the second step must not remember the first
            one.begin()
            grad[:] = np.nan
            for start in order:  # a parameter has its gradient only when it is complete
                extent = next(e for e in EXTENTS if e.start == start)
                grad[extent] = gradients(comm.rank)[extent]
                one.complete(start)
            for extent in EXTENTS:
                if extent.start not in order:
                    grad[extent] = gradients(comm.rank)[extent]
            one.finish()
        return grad, comm.started

    results = run_ranks(3, work, late)
    wanted = sum(gradients(rank).astype(np.float64) for rank in range(3))
    for grad, started in results:
        for extent in EXTENTS:
            np.testing.assert_allclose(grad[extent], wanted[extent], rtol=1e-6)
        assert grad.tobytes() == results[0][0].tobytes()
        assert started == results[0][1]
        assert len(started) == 2 * len(buckets(EXTENTS, SIZE, 48))


def test_a_bucket_starts_when_it_is_complete():
    """Catches buckets that all wait for the end of backward."""

    def work(comm):
        one = Reduction(comm, np.zeros(SIZE, np.float32), EXTENTS, most=1)
        seen = []
        for start in (176, 64, 48, 0):
            one.complete(start)
            seen.append(len(comm.started))
        return seen

    assert run_ranks(2, work) == [[1, 2, 3, 4]] * 2


def test_an_error_of_one_rank_is_raised_on_all():
    """Catches ranks that wait for one that has failed, and a reason that gets lost."""

    def work(comm):
        try:
            with comm.agreed():
                if comm.rank == 1:
                    raise FileNotFoundError("no\nfile")
        except (FileNotFoundError, ValueError) as error:
            return type(error).__name__, str(error), comm.settled
        return None

    found = run_ranks(3, work)
    assert found[0] == found[2] == ("ValueError", "rank 1: no file", True)
    assert found[1] == ("FileNotFoundError", "no\nfile", True)
