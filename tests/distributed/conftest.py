"""MPI is optional on a user's machine and required where TINYGPT_REQUIRE_MPI=1, which CI sets."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import write_sources

SECONDS = 60  # after which a job hangs


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """A folder of small files that tests must not change."""
    return write_sources(tmp_path_factory.mktemp("distributed") / "sources")


@pytest.fixture(scope="session")
def mpiexec():
    """A function that runs or starts a command of tinygpt under mpiexec, without capturing where `start` is given."""
    beside = Path(sys.executable).with_name("mpiexec")
    program = str(beside) if beside.exists() else shutil.which("mpiexec")
    if program is None or importlib.util.find_spec("mpi4py") is None:
        assert os.environ.get("TINYGPT_REQUIRE_MPI") != "1", "mpi4py and mpiexec must be installed"
        pytest.skip("mpi4py or mpiexec is missing")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("PMI", "TINYGPT_NUM"))}

    def run(n, *words, other=(), **options):
        """Run `n` ranks of tinygpt; `other` is a program in Python that takes the place of one more rank."""
        command = [program, "-n", str(n), sys.executable, "-m", "tinygpt", *map(str, words)]
        if other:
            command += [":", "-n", "1", sys.executable, "-c", other, *map(str, words)]
        if options.pop("start", False):
            return subprocess.Popen(command, env=plain, text=True, **options)
        return subprocess.run(
            command, env=plain, text=True, capture_output=True, timeout=SECONDS, check=False, **options
        )

    return run
