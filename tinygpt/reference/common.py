"""What every formula starts with: its arguments in float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def f64(x: ArrayLike) -> Array:
    """The same values in float64; float32 values lose nothing."""
    return np.asarray(x, dtype=np.float64)
