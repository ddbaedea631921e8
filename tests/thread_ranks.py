"""A job whose ranks are threads of this process, for tests of what ranks exchange."""

import threading

import numpy as np

from tinygpt.distributed.communicator import Communicator, Pending


class ThreadRank(Communicator):
    """One rank of a job of threads; every collective meets the other ranks before it returns.

    `late` leaves the result of every started operation unknown until it is waited for, as a slow network does.
    """

    def __init__(self, rank, shared, late=False):
        super().__init__()
        self.rank, self.size, self.shared, self.late = rank, shared.size, shared, late
        self.floats_sent = 0
        self.started = []  # name and length of every array operation, in order

    def gather(self, value):
        self.shared.values[self.rank] = value
        self.shared.barrier.wait()
        found = list(self.shared.values)
        self.shared.barrier.wait()
        return found

    def from_first(self, compute):
        return self.gather(compute() if self.rank == 0 else None)[0]

    def any(self, flag):
        return any(self.gather(flag))

    def all_reduce(self, array):
        self.started.append(("all_reduce", len(array)))
        total = np.sum(self.gather(array.copy()), axis=0, dtype=np.float64)
        return self._pending(array, total)

    def reduce_scatter(self, array, counts, out):
        self.started.append(("reduce_scatter", len(array)))
        total = np.sum(self.gather(array.copy()), axis=0, dtype=np.float64)
        start = sum(counts[: self.rank])
        return self._pending(out, total[start : start + counts[self.rank]])

    def all_gather(self, array, counts):
        self.started.append(("all_gather", len(array)))
        start = sum(counts[: self.rank])
        whole = np.concatenate(self.gather(array[start : start + counts[self.rank]].copy()))
        return self._pending(array, whole)

    def collect(self, array, counts):
        copy = array.copy()
        self.all_gather(copy, counts).wait()
        return self._pending(array, copy if self.rank == 0 else array.copy())

    def all_to_all(self, sent, sent_counts, received, received_counts):
        self.started.append(("all_to_all", len(sent)))
        ends = np.cumsum(sent_counts)
        everything = self.gather([sent[end - n : end].copy() for end, n in zip(ends, sent_counts, strict=True)])
        mine = np.concatenate([parts[self.rank] for parts in everything])
        assert [len(parts[self.rank]) for parts in everything] == list(received_counts)
        return self._pending(received, mine)

    def _pending(self, out, value):
        if not self.late:
            out[...] = value
            return Pending()
        return Pending(lambda: False, lambda: np.copyto(out, value.astype(out.dtype)))


class _Shared:
    def __init__(self, size):
        self.size, self.barrier, self.values = size, threading.Barrier(size, timeout=30), [None] * size


def run_ranks(size, work, late=False):
    """Call ``work(comm)`` on `size` threads; returns the results in order of rank, or raises the first error."""
    shared, results, errors = _Shared(size), [None] * size, []

    def body(rank):
        try:
            results[rank] = work(ThreadRank(rank, shared, late))
        except BaseException as error:  # noqa: BLE001 - raised again by the test's own thread
            errors.append(error)
            shared.barrier.abort()

    workers = [threading.Thread(target=body, args=(rank,)) for rank in range(size)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise next((e for e in errors if not isinstance(e, threading.BrokenBarrierError)), errors[0])
    return results
