"""Parametrisation of the kernel tests: every rung of the op, simd at every instruction set, 1, 2 and 3 threads."""

import functools

import pytest

from tinygpt import testing
from tinygpt.kernels import isa, registry


def pytest_configure(config):
    text = "op(name, without=()): the op whose rungs, all or all but some, `rung` and `function` go through"
    config.addinivalue_line("markers", text)


def every(op):
    """Return the rungs of `op`, with simd once per instruction set of this machine, for example simd-avx2."""
    simd = [f"simd-{name}" for name in isa.available()]
    return [name for rung in registry.rungs(op) for name in (simd if rung == "simd" else [rung])]


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc):
    """Let rungs and threads vary fastest, so that one cached case serves them all; see `make`."""
    marker = metafunc.definition.get_closest_marker("op")
    if marker is not None:
        left_out = marker.kwargs.get("without", ())
        metafunc.parametrize("rung", [rung for rung in every(*marker.args) if rung not in left_out])
    if "threads" in metafunc.fixturenames:
        metafunc.parametrize("threads", (1, 2, 3))


@pytest.fixture
def function(request, rung):
    """Return the function of the op that marks the test, at the rung and instruction set of this run."""
    (op,) = request.node.get_closest_marker("op").args
    rung, _, name = rung.partition("-")
    before = isa.get()
    isa.use(name or before)
    yield registry.function(op, rung)
    isa.use(before)


@pytest.fixture(scope="session")
def make():
    """Return `testing.make` with a cache, because the next rungs need the same cases."""
    return functools.lru_cache(maxsize=64)(testing.make)
