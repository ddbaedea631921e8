"""Every kernel test runs on every rung that its op has, simd at every instruction set, with 1, 2 and 3 threads."""

import functools

import pytest

from tinygpt import testing
from tinygpt.kernels import isa, registry


def pytest_configure(config):
    text = "op(name, without=()): the op whose rungs, all or all but some, `rung` and `function` go through"
    config.addinivalue_line("markers", text)


def every(op):
    """The rungs of `op`, simd once for each instruction set of this machine, as in simd-avx2."""
    simd = [f"simd-{name}" for name in isa.available()]
    return [name for rung in registry.rungs(op) for name in (simd if rung == "simd" else [rung])]


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc):
    """Rungs and threads vary fastest, so that one case serves them all while it is cached; see `make`."""
    marker = metafunc.definition.get_closest_marker("op")
    if marker is not None:
        left_out = marker.kwargs.get("without", ())
        metafunc.parametrize("rung", [rung for rung in every(*marker.args) if rung not in left_out])
    if "threads" in metafunc.fixturenames:
        metafunc.parametrize("threads", (1, 2, 3))


@pytest.fixture
def function(request, rung):
    """The function of the op that the test is marked with, at the rung and the instruction set that it runs for."""
    (op,) = request.node.get_closest_marker("op").args
    rung, _, name = rung.partition("-")
    before = isa.get()
    isa.use(name or before)
    yield registry.function(op, rung)
    isa.use(before)


@pytest.fixture(scope="session")
def make():
    """`testing.make`, which remembers the cases that the next rungs will ask for."""
    return functools.lru_cache(maxsize=64)(testing.make)
