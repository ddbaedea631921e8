"""Numbers with an error bound: `Rounded` carries the exact value and the largest error of its float32 computation.

A formula written with `Rounded` computes its own bound: every operation propagates the errors of its operands and adds
its own rounding. The bound of an op is therefore as readable as the op, and no tolerance is chosen by hand. The rules,
with fl() for the computed result and u = 2^-24 for the unit roundoff of float32 (Higham 2002, sections 2.2, 3.1, 4.2):

    fl(x op y) = (x op y)(1 + d), |d| <= u                one operation
    |sum_i x_i - fl(sum_i x_i)| <= gamma_(n-1) sum |x_i|  a sum of n terms, in any order and grouping
    |x . y - fl(x . y)| <= gamma_n |x| . |y|              a dot product of length n, in any order
    gamma_n = n u / (1 - n u)                             n successive roundings, at worst all of one sign

A fused multiply-add rounds once less, and a sum in float64 rounds far less, so both stay within the bound. `LIBM` and
`TINY` are the assumptions about functions. float64 counts as exact, because its error is 2^-53.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tinygpt.reference.activation import sigmoid

U = 2.0**-24
# Largest relative error of exp, log, tanh and reciprocal roots: 4 units in the last place (2^-23 each). C libraries
# promise 1 to 2, polynomials in vector registers reach 2 to 4.
LIBM = 4 * 2.0**-23
# Results below the smallest normal float32 may be rounded to a multiple of 2^-149, or flushed to zero.
TINY = 2.0**-126
# From here on tanh is 1 to within exp(-20), less than u / 16, so every float32 implementation returns exactly 1.
SATURATED = 10.0


def gamma(n: int) -> float:
    """Return n u / (1 - n u), the relative error bound of n successive roundings."""
    if n * U >= 1:
        raise ValueError(f"[gamma] 'n' must be below 2^24, got {n}")
    return max(n, 0) * U / (1 - max(n, 0) * U)


class Rounded:
    """An array of exact values with an error bound for each.

    Parameters
    ----------
    value : array
    error : array, optional
        Error bounds, in the shape of `value` or broadcast to it. Default 0, for numbers that float32 holds exactly,
        such as inputs.
    """

    __array_ufunc__ = None  # an array on the left of an operator leaves it to this class

    def __init__(self, value: Any, error: Any = 0.0):
        self.value = np.asarray(value, dtype=np.float64)
        self.error = np.broadcast_to(np.asarray(error, dtype=np.float64), self.value.shape)

    def __add__(self, other: Any) -> Rounded:
        other = exact(other)
        return rounded(self.value + other.value, self.error + other.error)

    def __sub__(self, other: Any) -> Rounded:
        return self + -exact(other)

    def __rsub__(self, other: Any) -> Rounded:
        return exact(other) + -self

    def __neg__(self) -> Rounded:
        return Rounded(-self.value, self.error)

    def __mul__(self, other: Any) -> Rounded:
        other = exact(other)
        carried = abs(self.value) * other.error + self.error * abs(other.value) + self.error * other.error
        return rounded(self.value * other.value, carried, TINY)

    def __truediv__(self, other: Any) -> Rounded:
        """Divide: |x^ / y^ - x / y| <= (e_x + |x / y| e_y) / (|y| - e_y) for computed x^ and y^."""
        other = exact(other)
        value = self.value / other.value
        room = np.maximum(abs(other.value) - other.error, 0)
        with np.errstate(divide="ignore"):
            carried = (self.error + abs(value) * other.error) / room
        return rounded(value, carried, TINY)

    __radd__, __rmul__ = __add__, __mul__

    def __getitem__(self, index: Any) -> Rounded:
        return Rounded(self.value[index], self.error[index])

    def sum(self, axis: int, start: Any = None) -> Rounded:
        """Sum along an axis, in any order. `start`, in the shape of the sum, is one more term."""
        value, size, error = self.value.sum(axis), abs(self.value).sum(axis), self.error.sum(axis)
        n = self.value.shape[axis]
        if start is not None:
            value, size, n = value + start, size + abs(np.asarray(start, dtype=np.float64)), n + 1
        return Rounded(value, error + gamma(n - 1) * (size + error))

    def apply(self, f: Callable[[np.ndarray], np.ndarray], relative: float = LIBM) -> Rounded:
        """Apply a monotone function; its values at both ends of the error interval bound the error of the result."""
        value = f(self.value)
        carried = np.maximum(abs(f(self.value + self.error) - value), abs(value - f(self.value - self.error)))
        return Rounded(value, carried + relative * (abs(value) + carried) + TINY)

    def exp(self) -> Rounded:
        """Return the exponential; exp(-inf) is 0."""
        return self.apply(np.exp)

    def tanh(self) -> Rounded:
        """Return the hyperbolic tangent, exactly 1 from `SATURATED` on."""
        plain = self.apply(np.tanh)
        return Rounded(plain.value, np.where(self._saturated(), self._beyond(), plain.error))

    def tanh_slope(self) -> Rounded:
        """Return 1 - tanh^2 by that formula, which cancels; exactly 0 from `SATURATED` on."""
        plain = 1 - self.tanh() * self.tanh()
        return Rounded(plain.value, np.where(self._saturated(), 2 * self._beyond(), plain.error))

    def _saturated(self) -> np.ndarray:
        return abs(self.value) - self.error >= SATURATED

    def _beyond(self) -> np.ndarray:
        """Return the error of replacing |tanh x| by 1: 1 - |tanh x| <= 2 exp(-2 |x|).

        Up to 19.1, float64 gives 1 - tanh with an error of 2^-52; beyond that, its tanh is 1 too.
        """
        nearest = np.maximum(abs(self.value) - self.error, 0)
        return 2 * np.exp(-2 * nearest) + np.where(nearest < 20, 2.0**-52, 0)

    def sigmoid(self) -> Rounded:
        """Return the logistic function s = 1 / (1 + exp(-x)). The error of exp enters with the factor 1 - s."""
        plain = self.apply(sigmoid, 0.0)
        s, low = plain.value, 1 - plain.value
        return Rounded(s, plain.error * (1 + LIBM) + s * (LIBM * low + gamma(2)) + TINY)

    def log(self) -> Rounded:
        """Return the natural logarithm of positive numbers."""
        return self.apply(np.log)

    def sqrt(self) -> Rounded:
        """Return the square root of numbers >= 0; the error interval is cut off at 0."""
        return self.apply(lambda x: np.sqrt(np.maximum(x, 0)))

    def rsqrt(self, eps: float) -> Rounded:
        """Return 1 / sqrt(x + eps) for a sum of squares x, which stays >= 0. The sum with eps is rounded too."""
        value = 1 / np.sqrt(self.value + eps)
        low = (np.maximum(self.value - self.error, 0) + eps) * (1 - gamma(2))
        high = (self.value + self.error + eps) * (1 + gamma(2))
        carried = np.maximum(1 / np.sqrt(low) - value, value - 1 / np.sqrt(high))
        return Rounded(value, carried + LIBM * (value + carried))

    def where(self, mask: np.ndarray, other: float) -> Rounded:
        """Return this number where `mask` is true, and exactly `other` elsewhere."""
        return Rounded(np.where(mask, self.value, other), np.where(mask, self.error, 0))

    def reshape(self, *shape: int) -> Rounded:
        """Return the same elements in another shape."""
        return Rounded(self.value.reshape(shape), self.error.reshape(shape))


def rounded(value: np.ndarray, carried: np.ndarray, tiny: float = 0.0) -> Rounded:
    """Return the result of one float32 operation whose operands add an error of `carried`; an infinity is exact."""
    with np.errstate(invalid="ignore"):
        error = carried + U * (abs(value) + carried) + tiny
    return Rounded(value, np.where(np.isfinite(value), error, 0))


def exact(x: Any) -> Rounded:
    """Return `x` as a number without error; a `Rounded` is returned unchanged."""
    return x if isinstance(x, Rounded) else Rounded(x)


def scalar(x: float) -> Rounded:
    """Return a number computed in float64 and rounded to float32 once, such as a constant or 1 - beta."""
    return Rounded(x, abs(float(np.float32(x)) - x))


def contract(subscripts: str, x: Rounded, y: Rounded, terms: int, start: Any = None) -> Rounded:
    """Return an einsum of x and y: sums of `terms` products in any order, with `start` as one more term."""

    def einsum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.einsum(subscripts, a, b, optimize=True)

    value, size = einsum(x.value, y.value), einsum(abs(x.value), abs(y.value))
    carried: Any = 0.0
    if x.error.any():
        carried = carried + einsum(x.error, abs(y.value) + y.error)
    if y.error.any():
        carried = carried + einsum(abs(x.value), y.error)
    if start is not None:
        value, size, terms = value + start, size + abs(np.asarray(start, dtype=np.float64)), terms + 1
    return Rounded(value, carried + gamma(terms) * (size + carried) + terms * TINY)


def either(x: Rounded, y: Rounded) -> Rounded:
    """Return a number that a rung may compute in two ways, with the larger of their errors."""
    return Rounded(x.value, np.maximum(x.error, y.error))


def renewed(below: Rounded, every: int) -> Rounded:
    """Return exp(below) along the last axis, computed with a running maximum that changes at most every `every` terms.

    Each change multiplies all earlier terms by exp(old - new), which rounds an argument, an exponential and a product.
    For one term, the arguments of all changes add up to at most its distance `below` the maximum of the row.
    """
    powers = below.exp()
    distance = np.where(powers.value > 0, abs(below.value), 0)
    relative = math.ceil(below.value.shape[-1] / every) * (LIBM + gamma(2)) + U * distance
    return Rounded(powers.value, powers.error + relative * (powers.value + powers.error))
