"""Timing of rungs on test cases; a rung is checked before it is timed."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tinygpt.kernels import spec
from tinygpt.testing.guard import Case, check

FEWEST_CALLS = 3


def prepare(function: Callable[..., Any], case: Case, n_threads: int) -> Callable[[], Any]:
    """Check a rung on a case and return a function that repeats the call.

    Parameters
    ----------
    function : callable
        A rung's function.
    case : Case
    n_threads : int

    Returns
    -------
    callable
        Takes no arguments, and writes into the same arrays in every call.

    Raises
    ------
    Mismatch
        The rung's results are wrong.
    """
    check(function, case, n_threads)
    arguments: list[Any] = []
    for arg in spec.OPS[case.op].args:
        value = case.inputs.get(arg.name)
        if arg.role in ("out", "inout"):
            arguments.append(_output(case, arg.name))
        else:
            arguments.append(_placed(case, arg.name, value) if isinstance(value, np.ndarray) else value)
    return lambda: function(*arguments, n_threads)


def _output(case: Case, name: str) -> np.ndarray | None:
    if name not in case.wanted:
        return None
    start = case.starts.get(name)
    return _placed(case, name, np.zeros(case.wanted[name].shape, np.float32) if start is None else start)


def _placed(case: Case, name: str, values: np.ndarray) -> np.ndarray:
    """Return a copy of `values` with the strides of the case's layout."""
    layout = case.layouts.get(name)
    if layout is None:
        return values.copy()
    array = layout.view(np.zeros(math.prod(layout.buffer), values.dtype))
    array[...] = values
    return array


def median_seconds(call: Callable[[], Any], seconds: float = 0.2) -> float:
    """Return the median time of a call in seconds, from calls repeated for about `seconds` after one warm-up call."""
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < FEWEST_CALLS or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
