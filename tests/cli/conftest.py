"""A tree of sources, a trained model, and the choice of kernels put back after every test."""

import pytest
from tiny_run import tiny, write_sources

import tinygpt
from tinygpt import kernels
from tinygpt.kernels import threads
from tinygpt.train.loop import train


@pytest.fixture(autouse=True)
def _compute():
    """A command may change the kernels and the threads of the process: it ends with the command."""
    n = tinygpt.get_num_threads()
    with kernels.use(), threads.fixed(n):
        yield


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """A folder of small files that tests must not change."""
    return write_sources(tmp_path_factory.mktemp("cli") / "sources")


@pytest.fixture(scope="session")
def run(sources, tmp_path_factory):
    """A run directory: 60 steps, enough that samples differ from noise."""
    out = tmp_path_factory.mktemp("cli") / "run"
    train(tiny(sources, out, steps=60, lr=1e-2, eval_every=30))
    return out
