"""Conversion of arguments to float64, with which every formula starts."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def f64(x: ArrayLike) -> Array:
    """Convert values to float64; float32 values lose nothing."""
    return np.asarray(x, dtype=np.float64)
