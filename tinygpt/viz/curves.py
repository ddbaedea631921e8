"""Curves that a page can hold: smoothed, thinned so that no peak is lost, and short in digits."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

SMOOTHING = (5, 1000)  # steps whose mean a smooth curve shows: a fiftieth of the run, within these
DIGITS = 7  # more than float32, which all of this was computed in, can tell apart

Floats = npt.NDArray[np.float64]


def window(steps: int) -> int:
    """How many steps the smooth curve of a run of so many averages over."""
    low, high = SMOOTHING
    return min(max(steps // 50, low), high)


def running_mean(values: Floats, width: int) -> Floats:
    """The mean of the last `width` values at every place, of fewer where there are not so many.

    Parameters
    ----------
    values : float64 array, shape (n,)
    width : int

    Returns
    -------
    float64 array, shape (n,)
    """
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def thinned(values: Floats, most: int) -> npt.NDArray[np.int64]:
    """Which of the values to draw: all, or of every stretch the lowest and the highest, and both ends.

    Parameters
    ----------
    values : float64 array, shape (n,)
    most : int
        Points at most, at least 4.

    Returns
    -------
    int64 array, ascending
        The curve through them shows every peak that the curve through all would show at this width.
    """
    n = len(values)
    if n <= most:
        return np.arange(n)
    stretches = (most - 2) // 2
    bounds = np.linspace(0, n, stretches + 1).astype(np.int64)
    keep = {0, n - 1}
    for start, stop in itertools.pairwise(bounds):
        part = values[start:stop]
        keep |= {int(start + part.argmin()), int(start + part.argmax())}
    return np.array(sorted(keep))


def curve(steps: Floats, seconds: Floats, values: Floats, most: int) -> dict[str, list[Any]]:
    """A curve of at most `most` points over steps and over time, as a page holds it."""
    keep = thinned(values, most)
    return {
        "step": [int(step) for step in steps[keep]],
        "seconds": [round(float(second), 3) for second in seconds[keep]],
        "y": [short(value) for value in values[keep]],
    }


def short(value: float) -> float:
    """A number of at most DIGITS digits."""
    return float(f"{value:.{DIGITS}g}")
