"""Written by tools/stubs.py."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]

RUNGS: dict[str, dict[str, Callable[..., Any]]]

def embedding_backward_naive(
    dy: Float32,
    tokens: Int32,
    dtable: Float32,
    dpositions: Float32 | None,
    start: int,
    accumulate: bool,
    accumulate_positions: bool,
    n_threads: int,
) -> None: ...
def embedding_backward_parallel(
    dy: Float32,
    tokens: Int32,
    dtable: Float32,
    dpositions: Float32 | None,
    start: int,
    accumulate: bool,
    accumulate_positions: bool,
    n_threads: int,
) -> None: ...
def embedding_naive(
    tokens: Int32, table: Float32, positions: Float32 | None, start: int, out: Float32, n_threads: int
) -> None: ...
def embedding_parallel(
    tokens: Int32, table: Float32, positions: Float32 | None, start: int, out: Float32, n_threads: int
) -> None: ...
