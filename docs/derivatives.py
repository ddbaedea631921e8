"""Numerical derivatives for the tutorials: the slope of a function, measured by moving one number at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def slopes(f: Callable[[np.ndarray], float], x: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """Measure df/dx for every element of x by central differences, in float64.

    Parameters
    ----------
    f : callable
        Maps an array of the shape of `x` to a number.
    x : array
    step : float
        Distance to either side. Half of it would leave a quarter of the error of the formula, and twice the rounding.

    Returns
    -------
    array of the shape of `x`
    """
    x = np.array(x, np.float64)
    found = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        there = x[place]
        x[place] = there + step
        above = f(x)
        x[place] = there - step
        below = f(x)
        x[place] = there
        found[place] = (above - below) / (2 * step)
    return found


def compare(**pairs: tuple[np.ndarray, np.ndarray]) -> None:
    """Print how far each derived gradient is from the measured one; AssertionError if one is wrong.

    Parameters
    ----------
    **pairs : (derived, measured)
        Gradients by name.
    """
    for name, (derived, measured) in pairs.items():
        derived, measured = np.asarray(derived), np.asarray(measured)
        assert derived.shape == measured.shape, f"{name} has shape {derived.shape}, not {measured.shape}"
        gap, size = np.abs(derived - measured).max(), np.abs(measured).max()
        print(f"{name:10} {derived.shape!s:12} largest value {size:.4f}, largest difference {gap:.1e}")
        assert gap <= 1e-7 * size + 1e-9, f"{name} is wrong"
