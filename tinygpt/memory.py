"""Buffers for activations, given back when the array that uses them dies.

Large arrays come from the system as fresh pages that the kernel must clear, one fault per page, in every step again.
Here a block goes back to a free list of its size instead, and the next array of about that size takes it. Its life is
that of the array, not that of a step: as long as the array or a view of it exists, the block is in use.

The list keeps little more than was once in use: where a new block would bring the bytes in arrays and in the list
together more than an eighth above the most that arrays ever had at one time, blocks of sizes that were not asked for
lately leave the list. The eighth is for sizes whose turns in a step differ; without it they would drive each other out.
In a small model they differ by more than that, so what fits `SMALL` in all is kept whatever was in use.
"""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np

# Smaller arrays live on the C heap, whose pages stay with the process anyway (glibc: mmap'ed pages from 128 KB on).
SMALLEST = 128 * 1024
SMALL = 32 * 2**20
ALIGNMENT = 64  # one cache line, and the width of the widest vector register

_free: dict[int, list[bytearray]] = defaultdict(list)

# Bytes in arrays, in the free list, and the most in arrays so far. Without a lock they may drift when threads meet:
# they decide only how many blocks are kept, never who owns one.
_live = _held = _peak = 0


def bucket(n_bytes: int) -> int:
    """The block size for `n_bytes`: the next multiple of an eighth of the power of two below, at most 12.5 % more."""
    step = max(ALIGNMENT, 1 << max(0, n_bytes.bit_length() - 4))
    return -(-n_bytes // step) * step


class _Block(np.ndarray):
    """Bytes from the free list. Arrays keep it as their base; when the last one dies, the bytes go back.

    The bytes are a bytearray, not an array: NumPy shortens chains of bases of one type and would skip the block.
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
    """An uninitialised float32 array of `shape`, C-contiguous.

    Parameters
    ----------
    shape : tuple of int

    Returns
    -------
    array, float32
        From the free list if it is large, 64-byte aligned then.

    Raises
    ------
    MemoryError
        There is too little, also after the free list was given back.
    """
    global _live, _held, _peak
    n_bytes = 4 * math.prod(shape)
    if n_bytes < SMALLEST:
        return np.empty(shape, np.float32)
    n = bucket(n_bytes)
    blocks = _free[n] = _free.pop(n, [])  # the sizes stand in the order of their last use
    try:
        memory = blocks.pop()  # atomic: asking first whether there is one would let two threads take the last
        _held -= n
    except IndexError:
        memory = _fresh(n + ALIGNMENT)
    _live += n
    _peak = max(_peak, _live)
    if _live + _held > _mark():
        _shrink()
    start = -_address(memory) % ALIGNMENT
    block = np.ndarray.__new__(_Block, (n,), np.uint8, memory, start)
    return np.ndarray(shape, np.float32, block)


def _fresh(n_bytes: int) -> bytearray:
    try:
        return bytearray(n_bytes)
    except MemoryError:  # blocks of other sizes may be all that is in the way
        clear()
        return bytearray(n_bytes)


def _mark() -> int:
    return max(SMALL, _peak + _peak // 8)


def _shrink() -> None:
    """Drop blocks, of the size longest out of use first, until arrays and list together are within the mark."""
    global _held
    for size, blocks in list(_free.items()):
        while blocks and _live + _held > _mark():
            blocks.pop()
            _held -= size


def held() -> int:
    """Bytes in the free list at the moment."""
    return sum(size * len(blocks) for size, blocks in _free.items())


def clear() -> None:
    """Give the blocks of the free list back to the system, and forget the most that was in use."""
    global _held, _peak
    _free.clear()
    _held, _peak = 0, _live
