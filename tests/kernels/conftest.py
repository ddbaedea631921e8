"""Every kernel test runs on every rung that its op has, with 1, 2 and 3 threads."""

import functools

import pytest

from tinygpt import testing
from tinygpt.kernels import registry


def pytest_configure(config):
    config.addinivalue_line("markers", "op(name): the op whose rungs the fixtures `rung` and `function` go through")


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc):
    """Rungs and threads vary fastest, so that one case serves them all while it is cached; see `make`."""
    marker = metafunc.definition.get_closest_marker("op")
    if marker is not None:
        metafunc.parametrize("rung", registry.rungs(*marker.args))
    if "threads" in metafunc.fixturenames:
        metafunc.parametrize("threads", (1, 2, 3))


@pytest.fixture
def function(request, rung):
    """The function of the op that the test is marked with, at the rung that it runs for."""
    (op,) = request.node.get_closest_marker("op").args
    return registry.function(op, rung)


@pytest.fixture(scope="session")
def make():
    """`testing.make`, which remembers the cases that the next rungs will ask for."""
    return functools.lru_cache(maxsize=64)(testing.make)
