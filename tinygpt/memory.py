"""Reused buffers for activations: a block of memory returns to a free list when its array is deleted.

The operating system hands out large arrays as fresh pages. It clears them on first use, one page fault each, and would
do so in every training step. Instead, a block returns to a free list of its size, and the next array of about this size
reuses it. A block lives as long as its array and the views of it, not as long as a step.

The list is bounded. Let the peak be the most bytes that arrays ever held at one time. When arrays and list together
would exceed the peak by more than an eighth, blocks of the least recently used sizes are freed. The eighth is slack for
sizes that are used at different times of a step and would otherwise evict each other. Small models need more slack, so
up to `SMALL` bytes are always kept.
"""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np

# Smaller arrays come from the C heap, whose pages stay with the process (glibc uses mmap from 128 KB on).
SMALLEST = 128 * 1024
SMALL = 32 * 2**20  # bytes
ALIGNMENT = 64  # one cache line, and the width of the widest vector register

_free: dict[int, list[bytearray]] = defaultdict(list)

# Bytes in arrays, bytes in the free list, and the peak of the first. There is no lock, so concurrent threads can make
# them inexact; they only decide how many blocks are kept, never who owns a block.
_live = _held = _peak = 0


def bucket(n_bytes: int) -> int:
    """Round `n_bytes` up to a block size: a multiple of 1/8 of the power of two below, at most 12.5 % more."""
    step = max(ALIGNMENT, 1 << max(0, n_bytes.bit_length() - 4))
    return -(-n_bytes // step) * step


class _Block(np.ndarray):
    """A block of bytes in use: the base of an array, which returns the bytes to the free list when it is deleted.

    The bytes are a bytearray because NumPy collapses chains of base arrays and would skip this object.
    """

    def __del__(self) -> None:
        global _live, _held
        if isinstance(self.base, bytearray):
            n = self.nbytes
            _free[n].append(self.base)
            _live, _held = _live - n, _held + n


def _address(memory: bytearray) -> int:
    return np.frombuffer(memory, np.uint8, 1).__array_interface__["data"][0]


def empty(shape: tuple[int, ...]) -> np.ndarray:
    """Allocate an uninitialised, C-contiguous float32 array.

    Parameters
    ----------
    shape : tuple of int

    Returns
    -------
    array, float32
        From 128 KB on, it is 64-byte aligned and taken from the free list if possible.

    Raises
    ------
    MemoryError
        Not enough memory, even after the free list was released.
    """
    global _live, _held, _peak
    n_bytes = 4 * math.prod(shape)
    if n_bytes < SMALLEST:
        return np.empty(shape, np.float32)
    n = bucket(n_bytes)
    blocks = _free[n] = _free.pop(n, [])  # reinsert: sizes are kept in order of last use
    try:
        memory = blocks.pop()  # atomic; with a test before it, two threads could take the last block
        _held -= n
    except IndexError:
        memory = _fresh(n + ALIGNMENT)
    _live += n
    _peak = max(_peak, _live)
    if _live + _held > _limit():
        _shrink()
    start = -_address(memory) % ALIGNMENT
    block = np.ndarray.__new__(_Block, (n,), np.uint8, memory, start)
    return np.ndarray(shape, np.float32, block)


def _fresh(n_bytes: int) -> bytearray:
    try:
        return bytearray(n_bytes)
    except MemoryError:  # free blocks of other sizes may hold the memory that is missing
        clear()
        return bytearray(n_bytes)


def _limit() -> int:
    return max(SMALL, _peak + _peak // 8)


def _shrink() -> None:
    """Free blocks, least recently used sizes first, until arrays and list together are within the limit."""
    global _held
    for size, blocks in list(_free.items()):
        while blocks and _live + _held > _limit():
            blocks.pop()
            _held -= size


def held() -> int:
    """Return the number of bytes in the free list."""
    return sum(size * len(blocks) for size, blocks in _free.items())


def clear() -> None:
    """Release the free list to the system and reset the peak."""
    global _held, _peak
    _free.clear()
    _held, _peak = 0, _live
