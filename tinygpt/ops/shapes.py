"""Shape checks of the differentiable operations, because kernels do not check their arguments."""

from __future__ import annotations

import math

import numpy as np

from tinygpt.packed import PackedWeight
from tinygpt.tensor import Tensor


def rows(op: str, name: str, x: Tensor) -> np.ndarray:
    """Return the data of `x`, shape (..., C), as (R, C)."""
    data = x.data
    if data.ndim == 3:  # (B, T, C), the common case, without math.prod
        B, T, C = data.shape
        return data.reshape(B * T, C)
    if data.ndim == 0:
        raise ValueError(f"[{op}] '{name}' must have at least one axis, got a scalar")
    return data.reshape(math.prod(data.shape[:-1]), data.shape[-1])


def expect(op: str, name: str, data: np.ndarray | Tensor | PackedWeight, shape: tuple[int | None, ...]) -> None:
    """Raise ValueError unless `data` has `shape`, in which None matches any length."""
    if len(data.shape) != len(shape) or any(w is not None and w != g for w, g in zip(shape, data.shape, strict=True)):
        wanted = ", ".join("any" if length is None else str(length) for length in shape)
        raise ValueError(f"[{op}] '{name}' must have shape ({wanted}), got {data.shape}")
