"""Reused buffers: how they are allocated, shared and freed."""

import gc
import subprocess
import sys

import numpy as np
import pytest

from tinygpt import memory

LARGE = memory.SMALLEST // 4 + 1000  # floats: just above the smallest size of the free list


@pytest.fixture(autouse=True)
def _empty_free_list():
    memory.clear()
    yield
    memory.clear()


def address(array):
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize("shape", [(LARGE,), (3, LARGE), (2, 3, 5, LARGE // 7), (0, 4), (), (7,)], ids=str)
def test_allocated_arrays(shape):
    """Catches wrong shapes or types, unaligned large arrays, and blocks too small for their array."""
    array = memory.empty(shape)
    assert type(array) is np.ndarray
    assert array.shape == shape
    assert array.dtype == np.float32
    assert array.flags.c_contiguous
    assert array.flags.writeable
    if array.nbytes >= memory.SMALLEST:
        assert address(array) % memory.ALIGNMENT == 0
    array[...] = 1  # too short a block would raise a buffer error above or crash here


def test_reused_after_death():
    """Catches memory that is never reused, so that every step would allocate new pages."""
    array = memory.empty((LARGE,))
    where = address(array)
    assert memory.held() == 0
    del array
    assert memory.held() == memory.bucket(4 * LARGE)
    again = memory.empty((1, LARGE))
    assert address(again) == where
    assert memory.held() == 0


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[5:],
        lambda x: x.reshape(2, -1),
        lambda x: x[::2][::3],
        lambda x: x.view(np.int32),
        lambda x: memoryview(x),
        lambda x: np.asarray(memoryview(x[3:])),
        lambda x: x[1:].reshape(-1)[2:].view(np.uint8)[4:].view(np.float32),
    ],
)
def test_not_reused_while_a_view_lives(view):
    """Catches a block freed with its first array while a view of any kind still reads it."""
    array = memory.empty((LARGE + LARGE % 2,))
    where = address(array)
    held = view(array)
    del array
    assert memory.held() == 0
    other = memory.empty((LARGE,))
    assert address(other) != where
    other[:] = 7
    del held
    assert memory.held() > 0
    assert address(memory.empty((LARGE,))) == where


def test_a_view_of_a_block_is_not_freed_as_a_block():
    """Catches a view of the block itself, from `array.base`, put on the free list when it dies."""
    array = memory.empty((LARGE,))
    part = array.base[8:]
    del part
    assert memory.held() == 0
    part = array.base[8:]
    del array
    assert memory.held() == 0
    del part
    assert memory.held() == memory.bucket(4 * LARGE)


def test_two_arrays_never_share():
    """Catches a block allocated twice."""
    arrays = [memory.empty((LARGE,)) for _ in range(4)]
    del arrays[1]
    arrays += [memory.empty((LARGE,)) for _ in range(3)]
    for i, array in enumerate(arrays):
        array[:] = i
    for i, array in enumerate(arrays):
        assert (array == i).all()


def test_reference_counts_free_blocks():
    """Catches a reference cycle of array and block, which would wait for the garbage collector."""
    gc.disable()
    try:
        array = memory.empty((LARGE,))
        del array
        assert memory.held() > 0
    finally:
        gc.enable()


def test_small_arrays_are_left_to_numpy():
    """Catches a free list that fills with tiny blocks."""
    memory.empty((memory.SMALLEST // 4 - 1,))
    assert memory.held() == 0


@pytest.mark.parametrize("n", [2**17, 2**17 + 1, 200_000, 2**20 - 1, 2**20, 10**7 + 3, 2**31 + 5])
def test_buckets(n):
    """Catches buckets that are too small, waste more than an eighth, or are not stable."""
    size = memory.bucket(n)
    assert n <= size <= n * 1.125
    assert size % memory.ALIGNMENT == 0
    assert memory.bucket(size) == size


def test_clear():
    """Catches blocks that stay on the free list."""
    memory.empty((LARGE,))
    assert memory.held() > 0
    memory.clear()
    assert memory.held() == 0


def test_arrays_that_outlive_the_program():
    """Catches an exception in the finaliser at interpreter shutdown."""
    code = f"from tinygpt import memory\nkept = memory.empty(({LARGE},))\nview = [kept[3:]]\nview.append(view)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_list_is_bounded(monkeypatch):
    """Catches a free list that keeps one block of every size ever used."""
    monkeypatch.setattr(memory, "SMALL", 0)
    for n in range(1, 20):
        memory.empty((n * LARGE,))
        assert memory.held() <= 1.125 * memory.bucket(4 * n * LARGE)
    both = [memory.empty((n * LARGE,)) for n in (20, 24)]
    most = sum(memory.bucket(array.nbytes) for array in both)
    del both
    assert memory.held() <= 1.125 * most
    again = [memory.empty((n * LARGE,)) for n in (20, 24)]
    where = {address(array) for array in again}
    del again
    once_more = [memory.empty((n * LARGE,)) for n in (20, 24)]
    assert {address(array) for array in once_more} == where  # old sizes are dropped, not those in use


def test_clear_forgets_the_most(monkeypatch):
    """Catches a high-water mark kept after one large evaluation, so that small steps may hold as much for ever."""
    monkeypatch.setattr(memory, "SMALL", 0)
    memory.empty((50 * LARGE,))
    memory.clear()
    for n in (1, 2, 3):
        memory.empty((n * LARGE,))
    assert memory.held() <= 1.125 * memory.bucket(12 * LARGE)


def test_small_totals_are_kept(monkeypatch):
    """Catches small models whose blocks are dropped and allocated again in every step."""
    monkeypatch.setattr(memory, "SMALL", 20 * 4 * LARGE)
    memory.clear()
    for n in (1, 2, 3):
        memory.empty((n * LARGE,))
    assert memory.held() == sum(memory.bucket(4 * n * LARGE) for n in (1, 2, 3))


def test_a_failed_allocation_is_retried(monkeypatch):
    """Catches a MemoryError while the free list has memory, and an endless retry."""
    memory.empty((LARGE,))
    assert memory.held() > 0
    calls = []

    class Scarce(bytearray):
        def __new__(cls, n):
            calls.append(memory.held())
            if calls[-1] or n > 12 * LARGE:
                raise MemoryError
            return super().__new__(cls, n)

    monkeypatch.setattr(memory, "bytearray", Scarce, raising=False)
    array = memory.empty((2 * LARGE,))
    array[...] = 1
    assert calls[0] > 0 == calls[1]
    with pytest.raises(MemoryError):
        memory.empty((4 * LARGE,))
    assert len(calls) == 4
    del array
