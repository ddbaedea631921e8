"""Written by tools/stubs.py."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

_Float32: TypeAlias = npt.NDArray[np.float32]
_Int32: TypeAlias = npt.NDArray[np.int32]

RUNGS: dict[str, dict[str, Callable[..., Any]]]

def cross_entropy_backward_naive(
    logits: _Float32, targets: _Int32, lse: _Float32, dlogits: _Float32, scale: float, n_threads: int
) -> None: ...
def cross_entropy_backward_parallel(
    logits: _Float32, targets: _Int32, lse: _Float32, dlogits: _Float32, scale: float, n_threads: int
) -> None: ...
def cross_entropy_backward_simd(
    logits: _Float32, targets: _Int32, lse: _Float32, dlogits: _Float32, scale: float, n_threads: int
) -> None: ...
def cross_entropy_blocked(
    logits: _Float32, targets: _Int32, losses: _Float32, lse: _Float32, n_threads: int
) -> None: ...
def cross_entropy_naive(logits: _Float32, targets: _Int32, losses: _Float32, lse: _Float32, n_threads: int) -> None: ...
def cross_entropy_parallel(
    logits: _Float32, targets: _Int32, losses: _Float32, lse: _Float32, n_threads: int
) -> None: ...
def cross_entropy_simd(logits: _Float32, targets: _Int32, losses: _Float32, lse: _Float32, n_threads: int) -> None: ...
def set_isa(name: str) -> None: ...
