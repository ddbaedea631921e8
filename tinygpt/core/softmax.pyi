"""Written by tools/stubs.py."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

_Float32: TypeAlias = npt.NDArray[np.float32]

RUNGS: dict[str, dict[str, Callable[..., Any]]]

def softmax_backward_naive(dy: _Float32, y: _Float32, dx: _Float32, n_threads: int) -> None: ...
def softmax_backward_parallel(dy: _Float32, y: _Float32, dx: _Float32, n_threads: int) -> None: ...
def softmax_blocked(x: _Float32, out: _Float32, n_threads: int) -> None: ...
def softmax_naive(x: _Float32, out: _Float32, n_threads: int) -> None: ...
def softmax_parallel(x: _Float32, out: _Float32, n_threads: int) -> None: ...
