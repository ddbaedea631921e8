"""Written by tools/stubs.py."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]

RUNGS: dict[str, dict[str, Callable[..., Any]]]

def adamw_naive(
    param: Float32,
    grad: Float32,
    m: Float32,
    v: Float32,
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
    param: Float32,
    grad: Float32,
    m: Float32,
    v: Float32,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: int,
    grad_scale: float,
    n_threads: int,
) -> None: ...
def squared_norm_naive(x: Float32, n_threads: int) -> float: ...
def squared_norm_parallel(x: Float32, n_threads: int) -> float: ...
