"""Written by tools/stubs.py."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]

RUNGS: dict[str, dict[str, Callable[..., Any]]]

def attention_backward_blocked(
    dout: Float32,
    q: Float32,
    k: Float32,
    v: Float32,
    out: Float32,
    lse: Float32,
    dq: Float32,
    dk: Float32,
    dv: Float32,
    scale: float,
    n_threads: int,
) -> None: ...
def attention_backward_naive(
    dout: Float32,
    q: Float32,
    k: Float32,
    v: Float32,
    out: Float32,
    lse: Float32,
    dq: Float32,
    dk: Float32,
    dv: Float32,
    scale: float,
    n_threads: int,
) -> None: ...
def attention_backward_parallel(
    dout: Float32,
    q: Float32,
    k: Float32,
    v: Float32,
    out: Float32,
    lse: Float32,
    dq: Float32,
    dk: Float32,
    dv: Float32,
    scale: float,
    n_threads: int,
) -> None: ...
def attention_blocked(
    q: Float32,
    k: Float32,
    v: Float32,
    out: Float32,
    lse: Float32,
    weights: Float32 | None,
    scale: float,
    n_threads: int,
) -> None: ...
def attention_naive(
    q: Float32,
    k: Float32,
    v: Float32,
    out: Float32,
    lse: Float32,
    weights: Float32 | None,
    scale: float,
    n_threads: int,
) -> None: ...
def attention_parallel(
    q: Float32,
    k: Float32,
    v: Float32,
    out: Float32,
    lse: Float32,
    weights: Float32 | None,
    scale: float,
    n_threads: int,
) -> None: ...
