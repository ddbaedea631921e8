"""Written by tools/stubs.py."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

_Float32: TypeAlias = npt.NDArray[np.float32]

RUNGS: dict[str, dict[str, Callable[..., Any]]]

def rmsnorm_backward_blocked(
    dy: _Float32,
    x: _Float32,
    weight: _Float32,
    rstd: _Float32,
    dtotal: _Float32 | None,
    dx: _Float32,
    dweight: _Float32,
    accumulate: bool,
    n_threads: int,
) -> None: ...
def rmsnorm_backward_naive(
    dy: _Float32,
    x: _Float32,
    weight: _Float32,
    rstd: _Float32,
    dtotal: _Float32 | None,
    dx: _Float32,
    dweight: _Float32,
    accumulate: bool,
    n_threads: int,
) -> None: ...
def rmsnorm_backward_parallel(
    dy: _Float32,
    x: _Float32,
    weight: _Float32,
    rstd: _Float32,
    dtotal: _Float32 | None,
    dx: _Float32,
    dweight: _Float32,
    accumulate: bool,
    n_threads: int,
) -> None: ...
def rmsnorm_backward_simd(
    dy: _Float32,
    x: _Float32,
    weight: _Float32,
    rstd: _Float32,
    dtotal: _Float32 | None,
    dx: _Float32,
    dweight: _Float32,
    accumulate: bool,
    n_threads: int,
) -> None: ...
def rmsnorm_naive(
    x: _Float32,
    residual: _Float32 | None,
    weight: _Float32,
    out: _Float32,
    total: _Float32 | None,
    rstd: _Float32,
    eps: float,
    n_threads: int,
) -> None: ...
def rmsnorm_parallel(
    x: _Float32,
    residual: _Float32 | None,
    weight: _Float32,
    out: _Float32,
    total: _Float32 | None,
    rstd: _Float32,
    eps: float,
    n_threads: int,
) -> None: ...
def rmsnorm_simd(
    x: _Float32,
    residual: _Float32 | None,
    weight: _Float32,
    out: _Float32,
    total: _Float32 | None,
    rstd: _Float32,
    eps: float,
    n_threads: int,
) -> None: ...
def set_isa(name: str) -> None: ...
