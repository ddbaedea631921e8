"""Written by tools/stubs.py."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

_Float32: TypeAlias = npt.NDArray[np.float32]
_Int8: TypeAlias = npt.NDArray[np.int8]
_Uint16: TypeAlias = npt.NDArray[np.uint16]

RUNGS: dict[str, dict[str, Callable[..., Any]]]

def matmul_bfloat16_blocked(
    a: _Float32,
    b: _Uint16,
    out: _Float32,
    bias: _Float32 | None,
    residual: _Float32 | None,
    activation: int,
    n_threads: int,
) -> None: ...
def matmul_bfloat16_naive(
    a: _Float32,
    b: _Uint16,
    out: _Float32,
    bias: _Float32 | None,
    residual: _Float32 | None,
    activation: int,
    n_threads: int,
) -> None: ...
def matmul_bfloat16_parallel(
    a: _Float32,
    b: _Uint16,
    out: _Float32,
    bias: _Float32 | None,
    residual: _Float32 | None,
    activation: int,
    n_threads: int,
) -> None: ...
def matmul_bfloat16_simd(
    a: _Float32,
    b: _Uint16,
    out: _Float32,
    bias: _Float32 | None,
    residual: _Float32 | None,
    activation: int,
    n_threads: int,
) -> None: ...
def matmul_int8_blocked(
    a: _Float32,
    b: _Int8,
    scales: _Uint16,
    out: _Float32,
    bias: _Float32 | None,
    residual: _Float32 | None,
    activation: int,
    n_threads: int,
) -> None: ...
def matmul_int8_naive(
    a: _Float32,
    b: _Int8,
    scales: _Uint16,
    out: _Float32,
    bias: _Float32 | None,
    residual: _Float32 | None,
    activation: int,
    n_threads: int,
) -> None: ...
def matmul_int8_parallel(
    a: _Float32,
    b: _Int8,
    scales: _Uint16,
    out: _Float32,
    bias: _Float32 | None,
    residual: _Float32 | None,
    activation: int,
    n_threads: int,
) -> None: ...
def matmul_int8_simd(
    a: _Float32,
    b: _Int8,
    scales: _Uint16,
    out: _Float32,
    bias: _Float32 | None,
    residual: _Float32 | None,
    activation: int,
    n_threads: int,
) -> None: ...
def set_isa(name: str) -> None: ...
