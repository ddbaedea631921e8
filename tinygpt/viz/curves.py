"""Curves small enough for a page: smoothed, thinned without losing a peak, and rounded."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

SMOOTHING = (5, 1000)  # fewest and most steps in an average; between them, a fiftieth of the run
DIGITS = 7  # significant digits; float32, in which the values were computed, has about 7

Floats = npt.NDArray[np.float64]


def window(steps: int) -> int:
    """Return the number of steps that the smooth curve of a run averages over."""
    low, high = SMOOTHING
    return min(max(steps // 50, low), high)


def running_mean(values: Floats, width: int) -> Floats:
    """Compute the mean of the `width` values around each value, so that the smooth curve does not lag behind.

    Parameters
    ----------
    values : float64 array, shape (n,)
    width : int
        Number of values in a mean, of which (width - 1) // 2 come later. Near the ends of the curve, the window shrinks
        equally on both sides.

    Returns
    -------
    float64 array, shape (n,)

    Notes
    -----
    A window is made of blocks whose lengths are powers of two, and the mean of a block is the mean of its two halves.
    So no mean depends on a value outside its window, and none overflows. Differences of cumulative sums would have both
    problems: after one value of 1e17, too few digits are left for all later values.
    """
    n = len(values)
    place = np.arange(n)
    after = np.minimum(np.minimum((width - 1) // 2, place), n - 1 - place)
    extra = np.minimum(1 - width % 2, place - after)  # an even width takes one more value before the place
    start, counts = place - after - extra, 2 * after + extra + 1
    means, block = np.zeros(n), values.astype(np.float64)
    for bit in range(int(width).bit_length()):
        length = 1 << bit
        if bit:
            block = block[: -length // 2] / 2 + block[length // 2 :] / 2  # means of `length` values, by their start
        chosen = np.flatnonzero(counts & length)
        means[chosen] += block[start[chosen]] * (length / counts[chosen])
        start[chosen] += length
    return means


def thinned(values: Floats, most: int) -> npt.NDArray[np.int64]:
    """Choose the values to draw: all, or both ends and the lowest and the highest value of every stretch.

    Parameters
    ----------
    values : float64 array, shape (n,)
    most : int
        Maximum number of points, at least 4.

    Returns
    -------
    int64 array
        Indices in ascending order. The curve through them shows every peak of the whole curve.
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
    """Thin a curve to at most `most` points, and return its steps, times and values as lists for JSON."""
    keep = thinned(values, most)
    return {
        "step": [int(step) for step in steps[keep]],
        "seconds": [round(float(second), 3) for second in seconds[keep]],
        "y": [short(value) for value in values[keep]],
    }


def short(value: float) -> float:
    """Round a number to DIGITS significant digits."""
    return float(f"{value:.{DIGITS}g}")
