"""Written by tools/stubs.py."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]

RUNGS: dict[str, dict[str, Callable[..., Any]]]

def add_naive(a: Float32, b: Float32, out: Float32, n_threads: int) -> None: ...
def add_parallel(a: Float32, b: Float32, out: Float32, n_threads: int) -> None: ...
def dropout_naive(
    x: Float32,
    residual: Float32 | None,
    out: Float32,
    rate: float,
    key: int,
    site: int,
    sequence: int,
    T: int,
    n_threads: int,
) -> None: ...
def dropout_parallel(
    x: Float32,
    residual: Float32 | None,
    out: Float32,
    rate: float,
    key: int,
    site: int,
    sequence: int,
    T: int,
    n_threads: int,
) -> None: ...
def gelu_backward_naive(dy: Float32, x: Float32, dx: Float32, n_threads: int) -> None: ...
def gelu_backward_parallel(dy: Float32, x: Float32, dx: Float32, n_threads: int) -> None: ...
def gelu_naive(x: Float32, out: Float32, n_threads: int) -> None: ...
def gelu_parallel(x: Float32, out: Float32, n_threads: int) -> None: ...
def swiglu_backward_naive(dy: Float32, x: Float32, dx: Float32, n_threads: int) -> None: ...
def swiglu_backward_parallel(dy: Float32, x: Float32, dx: Float32, n_threads: int) -> None: ...
def swiglu_naive(x: Float32, out: Float32, n_threads: int) -> None: ...
def swiglu_parallel(x: Float32, out: Float32, n_threads: int) -> None: ...
