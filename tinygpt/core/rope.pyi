"""Written by tools/stubs.py."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

_Float32: TypeAlias = npt.NDArray[np.float32]

RUNGS: dict[str, dict[str, Callable[..., Any]]]

def rope_naive(x: _Float32, out: _Float32, cos: _Float32, sin: _Float32, inverse: bool, n_threads: int) -> None: ...
def rope_parallel(x: _Float32, out: _Float32, cos: _Float32, sin: _Float32, inverse: bool, n_threads: int) -> None: ...
def rope_simd(x: _Float32, out: _Float32, cos: _Float32, sin: _Float32, inverse: bool, n_threads: int) -> None: ...
def set_isa(name: str) -> None: ...
