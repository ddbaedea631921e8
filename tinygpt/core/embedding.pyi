"""Written by tools/stubs.py."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

_Float32: TypeAlias = npt.NDArray[np.float32]
_Int32: TypeAlias = npt.NDArray[np.int32]

RUNGS: dict[str, dict[str, Callable[..., Any]]]

def embedding_backward_naive(
    dy: _Float32,
    tokens: _Int32,
    dtable: _Float32,
    dpositions: _Float32 | None,
    start: int,
    accumulate: bool,
    accumulate_positions: bool,
    n_threads: int,
) -> None: ...
def embedding_backward_parallel(
    dy: _Float32,
    tokens: _Int32,
    dtable: _Float32,
    dpositions: _Float32 | None,
    start: int,
    accumulate: bool,
    accumulate_positions: bool,
    n_threads: int,
) -> None: ...
def embedding_backward_simd(
    dy: _Float32,
    tokens: _Int32,
    dtable: _Float32,
    dpositions: _Float32 | None,
    start: int,
    accumulate: bool,
    accumulate_positions: bool,
    n_threads: int,
) -> None: ...
def embedding_naive(
    tokens: _Int32, table: _Float32, positions: _Float32 | None, start: int, out: _Float32, n_threads: int
) -> None: ...
def embedding_parallel(
    tokens: _Int32, table: _Float32, positions: _Float32 | None, start: int, out: _Float32, n_threads: int
) -> None: ...
def embedding_simd(
    tokens: _Int32, table: _Float32, positions: _Float32 | None, start: int, out: _Float32, n_threads: int
) -> None: ...
def set_isa(name: str) -> None: ...
