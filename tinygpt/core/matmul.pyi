"""Written by tools/stubs.py."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

_Float32: TypeAlias = npt.NDArray[np.float32]

ACTIVATIONS: dict[str, int]
RUNGS: dict[str, dict[str, Callable[..., Any]]]

def column_sum_blocked(x: _Float32, out: _Float32, accumulate: bool, n_threads: int) -> None: ...
def column_sum_naive(x: _Float32, out: _Float32, accumulate: bool, n_threads: int) -> None: ...
def column_sum_parallel(x: _Float32, out: _Float32, accumulate: bool, n_threads: int) -> None: ...
def matmul_blocked(
    a: _Float32,
    b: _Float32,
    out: _Float32,
    trans_a: bool,
    trans_b: bool,
    accumulate: bool,
    bias: _Float32 | None,
    residual: _Float32 | None,
    activation: int,
    pre: _Float32 | None,
    n_threads: int,
) -> None: ...
def matmul_naive(
    a: _Float32,
    b: _Float32,
    out: _Float32,
    trans_a: bool,
    trans_b: bool,
    accumulate: bool,
    bias: _Float32 | None,
    residual: _Float32 | None,
    activation: int,
    pre: _Float32 | None,
    n_threads: int,
) -> None: ...
def matmul_parallel(
    a: _Float32,
    b: _Float32,
    out: _Float32,
    trans_a: bool,
    trans_b: bool,
    accumulate: bool,
    bias: _Float32 | None,
    residual: _Float32 | None,
    activation: int,
    pre: _Float32 | None,
    n_threads: int,
) -> None: ...
