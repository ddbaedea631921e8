"""Written by tools/stubs.py."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

_Float32: TypeAlias = npt.NDArray[np.float32]

ACTIVATIONS: dict[str, int]
RUNGS: dict[str, dict[str, Callable[..., Any]]]
BFLOAT16: dict[str, dict[str, Callable[..., Any]]]

def bfloat16_instructions() -> bool: ...
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
def matmul_simd(
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
def matmul_simd_bfloat16(
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
def set_isa(name: str) -> None: ...
