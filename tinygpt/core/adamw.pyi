"""Written by tools/stubs.py."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

_Float32: TypeAlias = npt.NDArray[np.float32]

RUNGS: dict[str, dict[str, Callable[..., Any]]]

def adamw_naive(
    param: _Float32,
    grad: _Float32,
    m: _Float32,
    v: _Float32,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: int,
    grad_scale: float,
    n_threads: int,
) -> None: ...
def adamw_parallel(
    param: _Float32,
    grad: _Float32,
    m: _Float32,
    v: _Float32,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: int,
    grad_scale: float,
    n_threads: int,
) -> None: ...
def adamw_simd(
    param: _Float32,
    grad: _Float32,
    m: _Float32,
    v: _Float32,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: int,
    grad_scale: float,
    n_threads: int,
) -> None: ...
def set_isa(name: str) -> None: ...
def squared_norm_naive(x: _Float32, n_threads: int) -> float: ...
def squared_norm_parallel(x: _Float32, n_threads: int) -> float: ...
def squared_norm_simd(x: _Float32, n_threads: int) -> float: ...
