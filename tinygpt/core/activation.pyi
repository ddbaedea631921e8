"""Written by tools/stubs.py."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

_Float32: TypeAlias = npt.NDArray[np.float32]

RUNGS: dict[str, dict[str, Callable[..., Any]]]

def add_naive(a: _Float32, b: _Float32, out: _Float32, n_threads: int) -> None: ...
def add_parallel(a: _Float32, b: _Float32, out: _Float32, n_threads: int) -> None: ...
def dropout_naive(
    x: _Float32,
    residual: _Float32 | None,
    out: _Float32,
    rate: float,
    key: int,
    site: int,
    sequence: int,
    T: int,
    n_threads: int,
) -> None: ...
def dropout_parallel(
    x: _Float32,
    residual: _Float32 | None,
    out: _Float32,
    rate: float,
    key: int,
    site: int,
    sequence: int,
    T: int,
    n_threads: int,
) -> None: ...
def gelu_backward_naive(dy: _Float32, x: _Float32, dx: _Float32, n_threads: int) -> None: ...
def gelu_backward_parallel(dy: _Float32, x: _Float32, dx: _Float32, n_threads: int) -> None: ...
def gelu_naive(x: _Float32, out: _Float32, n_threads: int) -> None: ...
def gelu_parallel(x: _Float32, out: _Float32, n_threads: int) -> None: ...
def swiglu_backward_naive(dy: _Float32, x: _Float32, dx: _Float32, n_threads: int) -> None: ...
def swiglu_backward_parallel(dy: _Float32, x: _Float32, dx: _Float32, n_threads: int) -> None: ...
def swiglu_naive(x: _Float32, out: _Float32, n_threads: int) -> None: ...
def swiglu_parallel(x: _Float32, out: _Float32, n_threads: int) -> None: ...
