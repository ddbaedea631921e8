"""Written by tools/stubs.py."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]

RUNGS: dict[str, dict[str, Callable[..., Any]]]

def cross_entropy_backward_naive(
    logits: Float32, targets: Int32, lse: Float32, dlogits: Float32, scale: float, n_threads: int
) -> None: ...
def cross_entropy_backward_parallel(
    logits: Float32, targets: Int32, lse: Float32, dlogits: Float32, scale: float, n_threads: int
) -> None: ...
def cross_entropy_blocked(logits: Float32, targets: Int32, losses: Float32, lse: Float32, n_threads: int) -> None: ...
def cross_entropy_naive(logits: Float32, targets: Int32, losses: Float32, lse: Float32, n_threads: int) -> None: ...
def cross_entropy_parallel(logits: Float32, targets: Int32, losses: Float32, lse: Float32, n_threads: int) -> None: ...
