"""Written by tools/stubs.py."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

_Float32: TypeAlias = npt.NDArray[np.float32]

RUNGS: dict[str, dict[str, Callable[..., Any]]]

def attention_backward_blocked(
    dout: _Float32,
    q: _Float32,
    k: _Float32,
    v: _Float32,
    out: _Float32,
    lse: _Float32,
    dq: _Float32,
    dk: _Float32,
    dv: _Float32,
    scale: float,
    n_threads: int,
) -> None: ...
def attention_backward_naive(
    dout: _Float32,
    q: _Float32,
    k: _Float32,
    v: _Float32,
    out: _Float32,
    lse: _Float32,
    dq: _Float32,
    dk: _Float32,
    dv: _Float32,
    scale: float,
    n_threads: int,
) -> None: ...
def attention_backward_parallel(
    dout: _Float32,
    q: _Float32,
    k: _Float32,
    v: _Float32,
    out: _Float32,
    lse: _Float32,
    dq: _Float32,
    dk: _Float32,
    dv: _Float32,
    scale: float,
    n_threads: int,
) -> None: ...
def attention_backward_simd(
    dout: _Float32,
    q: _Float32,
    k: _Float32,
    v: _Float32,
    out: _Float32,
    lse: _Float32,
    dq: _Float32,
    dk: _Float32,
    dv: _Float32,
    scale: float,
    n_threads: int,
) -> None: ...
def attention_blocked(
    q: _Float32,
    k: _Float32,
    v: _Float32,
    out: _Float32,
    lse: _Float32,
    weights: _Float32 | None,
    scale: float,
    n_threads: int,
) -> None: ...
def attention_naive(
    q: _Float32,
    k: _Float32,
    v: _Float32,
    out: _Float32,
    lse: _Float32,
    weights: _Float32 | None,
    scale: float,
    n_threads: int,
) -> None: ...
def attention_parallel(
    q: _Float32,
    k: _Float32,
    v: _Float32,
    out: _Float32,
    lse: _Float32,
    weights: _Float32 | None,
    scale: float,
    n_threads: int,
) -> None: ...
def attention_simd(
    q: _Float32,
    k: _Float32,
    v: _Float32,
    out: _Float32,
    lse: _Float32,
    weights: _Float32 | None,
    scale: float,
    n_threads: int,
) -> None: ...
def set_isa(name: str) -> None: ...
