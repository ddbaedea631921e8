"""Detect a start under mpiexec, and open the communicator of the job.

Launchers tell a process its place in environment variables. Without one of them mpi4py is never imported.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinygpt.distributed.communicator import Communicator

# Variables with the rank and, except for PMIx, the world size: MPICH and Intel MPI (also under Slurm's pmi2), Open MPI,
# PMIx (Slurm's pmix, Open MPI from version 5), MVAPICH. SLURM_PROCID is not among them, because srun sets it for
# programs without MPI too.
PLACES = (
    ("PMI_RANK", "PMI_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMIX_RANK", None),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
)


def place(environment: Mapping[str, str] = os.environ) -> tuple[int, int | None] | None:
    """Return rank and world size as the launcher tells them; None if no launcher started this process.

    Parameters
    ----------
    environment : mapping

    Returns
    -------
    tuple of int and int or None, or None
        The size is None under PMIx, which does not tell it.
    """
    for rank, size in PLACES:
        if environment.get(rank, "").isdecimal():
            count = environment.get(size, "") if size else ""
            return int(environment[rank]), int(count) if count.isdecimal() else None
    return None


def is_first(environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether this process is the one that prints: rank 0, or started without a launcher."""
    found = place(environment)
    return found is None or found[0] == 0


def open_job() -> Communicator:
    """Join the job that this process belongs to.

    Returns
    -------
    Communicator
        One process if no launcher started this one, or if it started no other.

    Raises
    ------
    ImportError
        mpi4py or the MPI library is missing; the message names the extra.
    ValueError
        The launcher belongs to another MPI than mpi4py, so that the processes do not know each other.
    """
    from tinygpt.distributed.communicator import Communicator, Mpi

    found = place()
    if found is None or found[1] == 1:
        return Communicator()
    try:
        import mpi4py

        mpi4py.rc.thread_level = "funneled"  # kernels have threads, but only this one calls MPI
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py finds no MPI library
        reason = " ".join(str(error).split())
        raise ImportError(f"mpiexec needs mpi4py and an MPI library: pip install 'tinygpt[mpi]' ({reason})") from None
    job = Mpi(MPI)
    if found[1] is not None and found[1] != job.size:
        raise ValueError(
            f"the launcher started {found[1]} processes, but the MPI library of mpi4py ({job.library}) finds "
            f"{job.size}; use the mpiexec of that library"
        )
    return job if job.size > 1 else Communicator()
