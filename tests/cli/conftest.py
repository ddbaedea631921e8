"""Fixtures: a tree of sources, a trained model, and kernels and threads restored after every test."""

import pytest
from tiny_run import tiny, write_sources

import tinygpt
from tinygpt import kernels
from tinygpt.kernels import threads
from tinygpt.train.loop import train


@pytest.fixture(autouse=True)
def _compute():
    """Restore the kernels and the number of threads, which a command may change for the whole process."""
    n = tinygpt.get_num_threads()
    with kernels.use(), threads.fixed(n):
        yield


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """A folder of small source files, shared by all tests; they must not change it."""
    return write_sources(tmp_path_factory.mktemp("cli") / "sources")


@pytest.fixture(scope="session")
def run(sources, tmp_path_factory):
    """A run directory of 60 training steps, enough that samples differ from noise."""
    out = tmp_path_factory.mktemp("cli") / "run"
    train(tiny(sources, out, steps=60, lr=1e-2, eval_every=30))
    return out
