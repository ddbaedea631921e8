"""Written by tools/stubs.py."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]

RUNGS: dict[str, dict[str, Callable[..., Any]]]

def rmsnorm_backward_blocked(
    dy: Float32,
    x: Float32,
    weight: Float32,
    rstd: Float32,
    dtotal: Float32 | None,
    dx: Float32,
    dweight: Float32,
    accumulate: bool,
    n_threads: int,
) -> None: ...
def rmsnorm_backward_naive(
    dy: Float32,
    x: Float32,
    weight: Float32,
    rstd: Float32,
    dtotal: Float32 | None,
    dx: Float32,
    dweight: Float32,
    accumulate: bool,
    n_threads: int,
) -> None: ...
def rmsnorm_backward_parallel(
    dy: Float32,
    x: Float32,
    weight: Float32,
    rstd: Float32,
    dtotal: Float32 | None,
    dx: Float32,
    dweight: Float32,
    accumulate: bool,
    n_threads: int,
) -> None: ...
def rmsnorm_naive(
    x: Float32,
    residual: Float32 | None,
    weight: Float32,
    out: Float32,
    total: Float32 | None,
    rstd: Float32,
    eps: float,
    n_threads: int,
) -> None: ...
def rmsnorm_parallel(
    x: Float32,
    residual: Float32 | None,
    weight: Float32,
    out: Float32,
    total: Float32 | None,
    rstd: Float32,
    eps: float,
    n_threads: int,
) -> None: ...
