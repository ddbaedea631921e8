"""Communicator of a job: one process alone, or the processes that mpiexec started.

The base class is a job of one process: every collective operation returns what this process gave. `Mpi` runs the same
operations over mpi4py. All ranks must call the collective operations in the same order.

Design
- Arrays travel through MPI's nonblocking collectives on buffers, so that backward continues meanwhile. Small Python
  objects (an error, a score) are pickled by mpi4py.
- MPICH moves data only while a rank is inside MPI, unless a progress thread runs. `Pending.test` enters it briefly.
  Rejected: the progress thread (MPICH_ASYNC_PROGRESS), because it takes a core from the kernels.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")
GRACE = 1.0  # seconds that a failing rank waits for rank 0 to report the same failure


@dataclass(frozen=True)
class Pending:
    """A collective operation that was started.

    Attributes
    ----------
    test : callable
        Lets the operation progress; returns whether it is complete.
    wait : callable
        Returns when the operation is complete.
    """

    test: Callable[[], bool] = lambda: True
    wait: Callable[[], object] = lambda: None


class Communicator:
    """A job of one process, and the interface of all jobs.

    Attributes
    ----------
    rank : int
        Number of this process, 0 to size - 1.
    size : int
        Number of processes, called the world size.
    host : str
        Name of this machine.
    settled : bool
        All ranks know of the error that ends this process, so that none waits for it.
    """

    rank, size = 0, 1
    settled = False
    library = "one process"  # name and version of the MPI library

    def __init__(self) -> None:
        self.host = socket.gethostname()

    @property
    def first(self) -> bool:
        """True if this is rank 0, which alone writes files and prints."""
        return self.rank == 0

    @property
    def launcher(self) -> list[str]:
        """Words that start a job of this size, in front of a command."""
        return [] if self.size == 1 else ["mpiexec", "-n", str(self.size)]

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks in order of rank, on every rank."""
        return [value]

    def from_first(self, compute: Callable[[], T]) -> T:
        """Call `compute` on rank 0 alone, and return its result on every rank."""
        return compute()

    def any(self, flag: bool) -> bool:
        """Tell whether the flag is set on at least one rank."""
        return flag

    def all_reduce(self, array: np.ndarray) -> Pending:
        """Start replacing a contiguous array by its sum over all ranks."""
        return Pending()

    def reduce_scatter(self, array: np.ndarray, counts: Sequence[int], out: np.ndarray) -> Pending:
        """Start summing an array over all ranks; `out` receives the part of this rank.

        Parameters
        ----------
        array : array, shape (sum(counts),)
            Must not change before the operation is complete.
        counts : sequence of int
            Length of the part of each rank, in order of rank.
        out : array, shape (counts[rank],)
        """
        out[...] = array
        return Pending()

    def all_gather(self, array: np.ndarray, counts: Sequence[int]) -> Pending:
        """Start filling an array with the parts of all ranks; this rank's part already holds its values."""
        return Pending()

    def collect(self, array: np.ndarray, counts: Sequence[int]) -> Pending:
        """Start `all_gather` on rank 0 alone; the array of other ranks stays as it is."""
        return Pending()

    def all_to_all(
        self, sent: np.ndarray, sent_counts: Sequence[int], received: np.ndarray, received_counts: Sequence[int]
    ) -> Pending:
        """Start sending part j of `sent` to rank j; `received` gets the parts for this rank in order of rank."""
        received[...] = sent
        return Pending()

    def abort(self, status: int) -> None:
        """End all processes of the job at once."""

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """Run a block on every rank; an error on one rank is raised on all of them at the end of the block.

        Raises
        ------
        Exception
            The rank's own error, or a ValueError with that of the lowest rank that has one.
        """
        own: Exception | None = None
        try:
            yield
        except Exception as error:  # noqa: BLE001 - raised again below
            own = error
        errors = self.gather(None if own is None else " ".join(str(own).split()) or type(own).__name__)
        failed = [rank for rank, text in enumerate(errors) if text is not None]
        if not failed:
            return
        self.settled = True
        if own is not None:
            raise own
        raise ValueError(f"rank {failed[0]}: {errors[failed[0]]}")

    def leave(self, say: Callable[[], object], status: int) -> None:
        """End the job because of an error that the other ranks do not know.

        Parameters
        ----------
        say : callable
            Prints the reason. Of several failing ranks the lowest is the first to print, and ends the others.
        status : int
            Exit status.
        """
        time.sleep(GRACE * min(self.rank, 2))
        say()
        self.abort(status)


class Mpi(Communicator):
    """The processes that mpiexec started.

    Parameters
    ----------
    mpi : module
        ``mpi4py.MPI``.
    """

    def __init__(self, mpi: Any):
        super().__init__()
        self._mpi, self._world = mpi, mpi.COMM_WORLD
        self.rank, self.size = self._world.Get_rank(), self._world.Get_size()
        self.library = " ".join(mpi.Get_library_version().split()[:3]).replace(" Version:", "")

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks; floats travel as they are, other values pickled."""
        if isinstance(value, float):
            found = np.empty(self.size)
            self._world.Allgather(np.array([value]), found)
            return found.tolist()  # type: ignore[return-value]  # T is float here
        return self._world.allgather(value)

    def from_first(self, compute: Callable[[], T]) -> T:
        """Return the result of rank 0, pickled on the way."""
        return self._world.bcast(compute() if self.rank == 0 else None, root=0)

    def any(self, flag: bool) -> bool:
        """Take the maximum of the flags."""
        out = np.array([flag], np.int32)
        self._world.Allreduce(self._mpi.IN_PLACE, out, op=self._mpi.MAX)
        return bool(out[0])

    def all_reduce(self, array: np.ndarray) -> Pending:
        """Start MPI_Iallreduce in place."""
        return self._pending(self._world.Iallreduce(self._mpi.IN_PLACE, array, op=self._mpi.SUM))

    def reduce_scatter(self, array: np.ndarray, counts: Sequence[int], out: np.ndarray) -> Pending:
        """Start MPI_Ireduce_scatter."""
        return self._pending(self._world.Ireduce_scatter(array, out, list(counts), op=self._mpi.SUM))

    def all_gather(self, array: np.ndarray, counts: Sequence[int]) -> Pending:
        """Start MPI_Iallgatherv in place."""
        return self._pending(self._world.Iallgatherv(self._mpi.IN_PLACE, [array, list(counts)]))

    def collect(self, array: np.ndarray, counts: Sequence[int]) -> Pending:
        """Start MPI_Igatherv to rank 0, in place there."""
        if self.rank == 0:
            return self._pending(self._world.Igatherv(self._mpi.IN_PLACE, [array, list(counts)], root=0))
        start = sum(counts[: self.rank])
        return self._pending(self._world.Igatherv(array[start : start + counts[self.rank]], None, root=0))

    def all_to_all(
        self, sent: np.ndarray, sent_counts: Sequence[int], received: np.ndarray, received_counts: Sequence[int]
    ) -> Pending:
        """Start MPI_Ialltoallv."""
        return self._pending(self._world.Ialltoallv([sent, list(sent_counts)], [received, list(received_counts)]))

    def abort(self, status: int) -> None:
        """Call MPI_Abort."""
        self._world.Abort(status)

    @staticmethod
    def _pending(request: Any) -> Pending:
        return Pending(request.Test, request.Wait)
