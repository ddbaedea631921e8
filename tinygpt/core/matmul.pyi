"""Written by tools/stubs.py."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]

ACTIVATIONS: dict[str, int]
RUNGS: dict[str, dict[str, Callable[..., Any]]]

def column_sum_blocked(x: Float32, out: Float32, accumulate: bool, n_threads: int) -> None: ...
def column_sum_naive(x: Float32, out: Float32, accumulate: bool, n_threads: int) -> None: ...
def column_sum_parallel(x: Float32, out: Float32, accumulate: bool, n_threads: int) -> None: ...
def matmul_blocked(
    a: Float32,
    b: Float32,
    out: Float32,
    trans_a: bool,
    trans_b: bool,
    accumulate: bool,
    bias: Float32 | None,
    residual: Float32 | None,
    activation: int,
    pre: Float32 | None,
    n_threads: int,
) -> None: ...
def matmul_naive(
    a: Float32,
    b: Float32,
    out: Float32,
    trans_a: bool,
    trans_b: bool,
    accumulate: bool,
    bias: Float32 | None,
    residual: Float32 | None,
    activation: int,
    pre: Float32 | None,
    n_threads: int,
) -> None: ...
def matmul_parallel(
    a: Float32,
    b: Float32,
    out: Float32,
    trans_a: bool,
    trans_b: bool,
    accumulate: bool,
    bias: Float32 | None,
    residual: Float32 | None,
    activation: int,
    pre: Float32 | None,
    n_threads: int,
) -> None: ...
