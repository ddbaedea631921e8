"""Written by tools/stubs.py."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]

RUNGS: dict[str, dict[str, Callable[..., Any]]]

def softmax_backward_naive(dy: Float32, y: Float32, dx: Float32, n_threads: int) -> None: ...
def softmax_backward_parallel(dy: Float32, y: Float32, dx: Float32, n_threads: int) -> None: ...
def softmax_blocked(x: Float32, out: Float32, n_threads: int) -> None: ...
def softmax_naive(x: Float32, out: Float32, n_threads: int) -> None: ...
def softmax_parallel(x: Float32, out: Float32, n_threads: int) -> None: ...
