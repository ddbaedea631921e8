"""Sum a gradient over all ranks in buckets, each as soon as backward has completed it.

Parameters lie in one array, so a bucket is a slice of it: no gradient is copied to be sent. Backward completes
parameters from the last block to the first, and every completed bucket is reduced while the pass continues.

Design
- A bucket has BUCKET_FLOATS values or one parameter that is larger. Smaller buckets start earlier, but each costs a
  round of messages.
- All ranks complete the parameters of one model in the same order, so they start the same collectives in that order.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from tinygpt.distributed.communicator import Communicator, Pending

BUCKET_FLOATS = 2**18  # 1 MB


def buckets(extents: Sequence[slice], size: int, most: int = BUCKET_FLOATS) -> list[slice]:
    """Cut an arena into consecutive slices of whole parameters.

    Parameters
    ----------
    extents : sequence of slice
        Place of every parameter, in order.
    size : int
        Length of the arena.
    most : int
        Floats after which a bucket ends.

    Returns
    -------
    list of slice
        They cover the arena, with the gaps between parameters.
    """
    starts = [0]
    for extent in extents:
        if extent.start - starts[-1] >= most:
            starts.append(extent.start)
    return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], size], strict=True)]


def parts(length: int, size: int, align: int = 16) -> list[int]:
    """Divide `length` floats among `size` ranks as evenly as multiples of `align` allow.

    Returns
    -------
    list of int
        Length of the part of each rank; the last ones may be empty.
    """
    cells = -(-length // align)
    ends = [min(length, align * (cells * (rank + 1) // size)) for rank in range(size)]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


class Reduction:
    """Sum of a gradient over all ranks by all-reduce: every rank receives all of it.

    Parameters
    ----------
    comm : Communicator
    grad : float32 array, shape (n,)
        Gradients of all parameters; replaced by the sum.
    extents : sequence of slice
        Place of every parameter in `grad`, in order.
    most : int
        Floats after which a bucket ends.

    Attributes
    ----------
    started : float
        Time at which the first bucket of this step was started, in seconds of `time.perf_counter`; 0 if none was.
    waited : float
        Seconds of this step that backward did not hide.
    """

    def __init__(self, comm: Communicator, grad: np.ndarray, extents: Sequence[slice], most: int = BUCKET_FLOATS):
        self.comm, self.grad = comm, grad
        self.buckets = buckets(extents, len(grad), most)
        starts = np.array([bucket.start for bucket in self.buckets])
        # Start of a parameter -> its bucket.
        self._bucket = {e.start: int(np.searchsorted(starts, e.start, side="right")) - 1 for e in extents}
        self.started = self.waited = 0.0
        self._missing: list[int] = []  # parameters of each bucket that backward has not completed
        self._pending: dict[int, Pending] = {}
        self.begin()

    def begin(self) -> None:
        """Begin a step: no bucket is complete."""
        self._missing = [0] * len(self.buckets)
        for bucket in self._bucket.values():
            self._missing[bucket] += 1
        self._pending = {}
        self.started = self.waited = 0.0

    def complete(self, start: int) -> None:
        """Note that the gradient of the parameter at `start` is complete; starts its bucket if that is complete too."""
        bucket = self._bucket[start]
        self._missing[bucket] -= 1
        if self._missing[bucket] == 0:
            self._begin_bucket(bucket)
        for pending in self._pending.values():
            pending.test()

    def finish(self) -> None:
        """Reduce what was not started, and wait for everything."""
        began = time.perf_counter()
        for bucket in reversed(range(len(self.buckets))):
            if bucket not in self._pending:
                self._begin_bucket(bucket)
        for bucket, pending in self._pending.items():
            pending.wait()
            self._finish_bucket(bucket)
        self.waited = time.perf_counter() - began

    def _begin_bucket(self, bucket: int) -> None:
        self.started = self.started or time.perf_counter()
        self._pending[bucket] = self._start(bucket)

    def _start(self, bucket: int) -> Pending:
        """Start the reduction of a bucket."""
        return self.comm.all_reduce(self.grad[self.buckets[bucket]])

    def _finish_bucket(self, bucket: int) -> None:
        """Finish a bucket whose collective is complete."""


class ReduceScatter(Reduction):
    """Sum of a gradient over all ranks by reduce-scatter: every rank receives its own part of every bucket.

    Attributes
    ----------
    owned : list of slice
        This rank's part of every bucket.
    """

    def __init__(self, comm: Communicator, grad: np.ndarray, extents: Sequence[slice], most: int = BUCKET_FLOATS):
        self._received: dict[int, np.ndarray] = {}
        super().__init__(comm, grad, extents, most)
        self._counts = [parts(bucket.stop - bucket.start, comm.size) for bucket in self.buckets]
        self.owned = []
        for bucket, counts in zip(self.buckets, self._counts, strict=True):
            start = bucket.start + sum(counts[: comm.rank])
            self.owned.append(slice(start, start + counts[comm.rank]))

    def _start(self, bucket: int) -> Pending:
        """Start the reduction of a bucket into memory of its own, because MPI cannot write it in place."""
        counts = self._counts[bucket]
        self._received[bucket] = out = np.empty(counts[self.comm.rank], np.float32)
        return self.comm.reduce_scatter(self.grad[self.buckets[bucket]], counts, out)

    def _finish_bucket(self, bucket: int) -> None:
        """Copy the sum to its place."""
        self.grad[self.owned[bucket]] = self._received.pop(bucket)

    def gather(self, array: np.ndarray, to_first: bool = False) -> None:
        """Fill an array of the arena's layout with the parts of all ranks; with `to_first`, on rank 0 alone."""
        start = self.comm.collect if to_first else self.comm.all_gather
        pending = [start(array[one], counts) for one, counts in zip(self.buckets, self._counts, strict=True)]
        for one in pending:
            one.wait()
