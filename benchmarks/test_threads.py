"""Cost of opening a parallel region, from which SMALL_WORK in tinygpt/kernels/threads.py is derived."""

import time

import numpy as np
import pytest

from tinygpt.kernels import registry, threads


@pytest.mark.parametrize("n_threads", [1, max(2, threads.get_num_threads())])
def test_empty_region(benchmark, n_threads):
    """Add on 16 elements does next to nothing: the difference between one thread and several is the region."""
    a, out = np.ones(16, np.float32), np.empty(16, np.float32)
    add = registry.function("add", "parallel")
    benchmark.group = "opening a parallel region"
    benchmark.extra_info.update(kind="region", threads=n_threads)
    benchmark(add, a, a, out, n_threads)
    np.testing.assert_array_equal(out, 2.0)


@pytest.mark.parametrize("n_threads", [1, max(2, threads.get_num_threads())])
def test_region_after_a_pause(benchmark, n_threads):
    """Time a parallel region after 20 ms without work, when OpenMP's threads sleep and must be woken."""
    a, out = np.ones(16, np.float32), np.empty(16, np.float32)
    add = registry.function("add", "parallel")
    benchmark.group = "opening a parallel region after a pause"
    benchmark.extra_info.update(kind="woken", threads=n_threads)
    benchmark.pedantic(add, (a, a, out, n_threads), setup=lambda: time.sleep(0.02), rounds=50)
    np.testing.assert_array_equal(out, 2.0)


@pytest.mark.parametrize("n", [1024, 4096, 16384, 65536, 262144])
@pytest.mark.parametrize("n_threads", [1, max(2, threads.get_num_threads())])
def test_break_even(benchmark, n, n_threads):
    """Time the same work on one thread and on several, to find the size from which several are faster."""
    x = np.linspace(-3, 3, n, dtype=np.float32)
    out = np.empty_like(x)
    gelu = registry.function("gelu", "parallel")
    benchmark.group = f"gelu of {n} elements"
    benchmark.extra_info.update(kind="break-even", threads=n_threads, operations=20 * n)
    benchmark(gelu, x, out, n_threads)
    assert np.isfinite(out).all()
