"""Buffers for activations, given back when the array that uses them dies.

Large arrays come from the system as fresh pages that the kernel must clear, one fault per page, in every step again.
Here a block goes back to a free list of its size instead, and the next array of about that size takes it. Its life is
that of the array, not that of a step: whoever still holds the array, or a view of it, holds the block.
"""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np

# Smaller arrays live on the C heap, whose pages stay with the process anyway (glibc: mmap'ed pages from 128 KB on).
SMALLEST = 128 * 1024
ALIGNMENT = 64  # one cache line, and the width of the widest vector register

_free: dict[int, list[bytearray]] = defaultdict(list)


def bucket(n_bytes: int) -> int:
    """The block size for `n_bytes`: the next multiple of an eighth of the power of two below, at most 12.5 % more."""
    step = max(ALIGNMENT, 1 << max(0, n_bytes.bit_length() - 4))
    return -(-n_bytes // step) * step


class _Block(np.ndarray):
    """Bytes from the free list. Arrays keep it as their base; when the last one dies, the bytes go back.

    The bytes are a bytearray, not an array: NumPy shortens chains of bases of one type and would skip the block.
    """

    def __del__(self) -> None:
        if isinstance(self.base, bytearray):
            _free[self.nbytes].append(self.base)


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
    """
    n_bytes = 4 * math.prod(shape)
    if n_bytes < SMALLEST:
        return np.empty(shape, np.float32)
    n = bucket(n_bytes)
    blocks = _free[n]
    memory = blocks.pop() if blocks else bytearray(n + ALIGNMENT)
    start = -_address(memory) % ALIGNMENT
    block = np.ndarray.__new__(_Block, (n,), np.uint8, memory, start)
    return np.ndarray(shape, np.float32, block)


def held() -> int:
    """Bytes in the free list at the moment."""
    return sum(size * len(blocks) for size, blocks in _free.items())


def clear() -> None:
    """Give the blocks of the free list back to the system."""
    _free.clear()
