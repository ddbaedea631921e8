"""Detection of a start under mpiexec, without starting anything."""

import subprocess
import sys

import pytest

from tinygpt.distributed import launch
from tinygpt.distributed.communicator import Communicator


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        ({"PMI_RANK": "2", "PMI_SIZE": "4"}, (2, 4)),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "3"}, (0, 3)),
        ({"PMIX_RANK": "1"}, (1, None)),
        ({"MV2_COMM_WORLD_RANK": "1", "MV2_COMM_WORLD_SIZE": "2"}, (1, 2)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, None),
        ({"PMI_RANK": "x"}, None),
    ],
)
def test_the_place_of_a_process(environment, found):
    """Catches a launcher that is not known, and Slurm's variables taken for a start under MPI."""
    assert launch.place(environment) == found
    assert launch.is_first(environment) == (found is None or found[0] == 0)


def test_no_launcher_no_mpi():
    """Catches an import of mpi4py, which starts MPI, in a process that mpiexec did not start."""
    program = (
        "import sys; from tinygpt.distributed.launch import open_job; job = open_job(); "
        "print(job.size, job.first, 'mpi4py' in sys.modules)"
    )
    plain = {"PATH": "/usr/bin"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=plain, check=True)
    assert done.stdout.split() == ["1", "True", "False"]


def test_a_missing_mpi4py_is_named(monkeypatch):
    """Catches a traceback, and a message that does not say what to install."""
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ImportError, match=r"pip install 'tinygpt\[mpi\]'"):
        launch.open_job()


def test_one_process_alone():
    """Catches a job of one process that changes values, or that does not raise its own error."""
    job = Communicator()
    assert (job.first, job.gather(3), job.from_first(lambda: 4), job.any(True), job.launcher) == (
        True, [3], 4, True, [],
    )  # fmt: skip
    with pytest.raises(KeyError, match="own"), job.agreed():
        raise KeyError("own")
    assert job.settled
