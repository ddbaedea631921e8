"""Packed weights: 16 or 8 bits per weight, for inference.

    bfloat16    upper half of a float32: the same range, 8 bits of precision                      2 bytes per weight
    int8        blocks of 32 along a row: integers -127..127 and one float16 scale           1.0625 bytes per weight

Matmuls read the packed numbers directly (csrc/packed_matmul.pyx); no float32 copy exists. Packed weights have no
gradient, because updates smaller than the rounding error would be lost.
"""

from __future__ import annotations

import math

import numpy as np

BLOCK = 32
LINE = 64  # bytes of a cache line
KINDS = ("float32", "bfloat16", "int8")
_CHUNK = 2**20  # weights converted at a time, so that packing needs little extra memory


class PackedWeight:
    """A packed weight matrix.

    Parameters
    ----------
    shape : tuple of int
        (N, K), the shape of a linear layer's weight.
    kind : str
        ``bfloat16`` or ``int8``.
    memory : array, shape (`packed_size(shape, kind)`,), uint8, optional
        Storage, 64-byte aligned. Default: new memory, in which all numbers are 0.

    Attributes
    ----------
    values : array, shape (N, K), uint16 or int8
        Upper halves of float32 numbers, or integers.
    scales : array, shape (N, ceil(K / 32)), uint16, or None
        Bits of float16 numbers, one per block; None for bfloat16.
    requires_grad : bool
        Always False.

    Raises
    ------
    ValueError
        The kind is unknown, or `shape` does not have two axes.
    """

    requires_grad = False

    def __init__(self, shape: tuple[int, ...], kind: str, memory: np.ndarray | None = None):
        check_kind("PackedWeight", "kind", kind, KINDS[1:])
        if len(shape) != 2:
            raise ValueError(f"[PackedWeight] 'shape' must have 2 axes, got {shape}")
        self.kind, self.shape = kind, (int(shape[0]), int(shape[1]))
        if memory is None:
            memory = aligned_zeros(packed_size(shape, kind))
        (N, K), blocks = self.shape, -(-self.shape[1] // BLOCK)
        n = N * K * (2 if kind == "bfloat16" else 1)
        self.values: np.ndarray = memory[:n].view(np.uint16 if kind == "bfloat16" else np.int8).reshape(N, K)
        self.scales = None
        if kind == "int8":
            start = _whole_lines(n)
            self.scales = memory[start : start + 2 * N * blocks].view(np.uint16).reshape(N, blocks)

    @classmethod
    def of(cls, weight: np.ndarray, kind: str) -> PackedWeight:
        """Pack a float32 weight (N, K)."""
        packed = cls(weight.shape, kind)
        packed.pack(weight)
        return packed

    @property
    def nbytes(self) -> int:
        """Bytes that a matmul reads."""
        return self.values.nbytes + (0 if self.scales is None else self.scales.nbytes)

    def pack(self, weight: np.ndarray, rows: slice = slice(None)) -> None:
        """Round float32 values and store them in the given rows.

        Parameters
        ----------
        weight : array, shape (rows, K), float32
            Finite values.
        rows : slice
            Destination rows, with step 1. Default: all.

        Raises
        ------
        ValueError
            The shape does not match, or a value is too large for int8, above 127 x 65504.
        """
        start, stop, step = rows.indices(self.shape[0])
        if step != 1 or weight.shape != (max(0, stop - start), self.shape[1]):
            wanted = (max(0, stop - start), self.shape[1])
            raise ValueError(f"[PackedWeight] 'weight' must have shape {wanted}, got {weight.shape}")
        many = max(1, _CHUNK // max(1, self.shape[1]))
        for first in range(start, stop, many):
            last = min(stop, first + many)
            part = np.ascontiguousarray(weight[first - start : last - start], np.float32)
            if self.scales is None:
                self.values[first:last] = to_bfloat16(part)
            else:
                self.values[first:last], self.scales[first:last] = to_int8(part)

    def rows(self, indices: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Unpack some rows to float32 (..., K)."""
        values = self.values[indices]
        if self.scales is None:
            return from_bfloat16(values)
        return from_int8(values, self.scales[indices])

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.shape}, kind={self.kind!r})"


def aligned_zeros(size: int) -> np.ndarray:
    """Allocate `size` zero bytes that start on a cache line; untouched pages cost no memory."""
    memory = np.zeros(size + LINE, np.uint8)
    start = -memory.ctypes.data % LINE
    return memory[start : start + size]


def packed_size(shape: tuple[int, ...], kind: str) -> int:
    """Return the bytes that a `PackedWeight` needs: values, then scales, each starting on a cache line."""
    N, K = shape
    if kind == "bfloat16":
        return _whole_lines(2 * N * K)
    return _whole_lines(N * K) + _whole_lines(2 * N * -(-K // BLOCK))


def _whole_lines(size: int) -> int:
    return -(-size // LINE) * LINE


def check_kind(op: str, name: str, kind: str, kinds: tuple[str, ...] = KINDS) -> None:
    """Raise ValueError unless `kind` is one of `kinds`."""
    if kind not in kinds:
        raise ValueError(f"[{op}] '{name}' must be one of {', '.join(kinds)}, got {kind!r}")


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    """Round finite x to bfloat16, ties to even; return the bits as uint16, in the shape of x.

    Magnitudes within half a step of the largest bfloat16, 3.39e38, become infinite.
    """
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + (0x7FFF + (bits >> 16 & 1))) >> 16).astype(np.uint16)


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """Convert the bits of bfloat16 numbers to float32, in the same shape."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_int8(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantise rows to int8 in blocks of 32.

    Parameters
    ----------
    x : array, shape (N, K), float32
        Finite values.

    Returns
    -------
    values : array, shape (N, K), int8
        round(x / scale), in -127..127.
    scales : array, shape (N, ceil(K / 32)), uint16
        Bits of the smallest float16 number that is at least max|x| / 127 of the block. Weights that were quantised
        this way before, as in a Q8_0 file, keep their integers.

    Raises
    ------
    ValueError
        A scale would exceed 65504, the largest float16 number.
    """
    N, K = x.shape
    blocks = np.zeros((N, -(-K // BLOCK), BLOCK), np.float32)
    blocks.reshape(N, blocks.shape[1] * BLOCK)[:, :K] = x
    largest = abs(np.maximum(blocks.max(2), -blocks.min(2)))  # abs, because a block of zeros gives -0
    if largest.size and not largest.max() <= 127 * 65504:
        raise ValueError(f"[to_int8] 'x' must be within +-{127 * 65504}, got {largest.max()}")
    wanted = largest / np.float32(127)
    scales = wanted.astype(np.float16)
    low = scales.astype(np.float32) < wanted
    scales[low] = np.nextafter(scales[low], np.float16(np.inf))
    inverse = scales.astype(np.float32)
    np.divide(1, inverse, out=inverse, where=inverse > 0)
    blocks *= inverse[:, :, None]
    values = np.rint(blocks, out=blocks).astype(np.int8).reshape(N, blocks.shape[1] * BLOCK)
    return np.ascontiguousarray(values[:, :K]), scales.view(np.uint16)


def from_int8(values: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Compute scale x value, exact in float32: values (..., K), scales (..., ceil(K / 32)) to float32 (..., K)."""
    K = values.shape[-1]
    each = scales.view(np.float16).astype(np.float32)
    spread = np.repeat(each, BLOCK, axis=-1)[..., :K]
    return np.multiply(spread, values, dtype=np.float32)


def packed_bytes(count: int, kind: str) -> int:
    """Return the bytes of `count` weights whose rows are multiples of a block."""
    check_kind("packed_bytes", "kind", kind)
    return {"float32": 4 * count, "bfloat16": 2 * count, "int8": count + 2 * math.ceil(count / BLOCK)}[kind]
