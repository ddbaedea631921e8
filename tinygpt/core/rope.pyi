"""Written by tools/stubs.py."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]

RUNGS: dict[str, dict[str, Callable[..., Any]]]

def rope_naive(x: Float32, out: Float32, cos: Float32, sin: Float32, inverse: bool, n_threads: int) -> None: ...
def rope_parallel(x: Float32, out: Float32, cos: Float32, sin: Float32, inverse: bool, n_threads: int) -> None: ...
