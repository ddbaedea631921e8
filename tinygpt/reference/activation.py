"""Formulas of the elementwise ops: activations, addition, dropout."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinygpt.reference.common import Array, f64

GELU_SCALE = math.sqrt(2 / math.pi)
GELU_CUBIC = 0.044715


def gelu(x: ArrayLike) -> Array:
    """Pass large inputs and suppress negative ones: out = x/2 (1 + tanh(u)), u = sqrt(2/pi) (x + 0.044715 x^3).

    Hendrycks and Gimpel 2016, section 2, the approximation by tanh.

    Parameters
    ----------
    x : array, any shape

    Returns
    -------
    out : array, shape of `x`
    """
    x = f64(x)
    return 0.5 * x * (1 + np.tanh(GELU_SCALE * (x + GELU_CUBIC * x**3)))


def gelu_backward(dy: ArrayLike, x: ArrayLike) -> Array:
    """Compute the gradient of `gelu`, with t = tanh(u) and u' = sqrt(2/pi) (1 + 3 * 0.044715 x^2).

        dx = dy ((1 + t)/2 + x/2 (1 - t^2) u')

    Parameters
    ----------
    dy, x : array, same shape

    Returns
    -------
    dx : array, shape of `x`
    """
    x = f64(x)
    t = np.tanh(GELU_SCALE * (x + GELU_CUBIC * x**3))
    return f64(dy) * (0.5 * (1 + t) + 0.5 * x * (1 - t**2) * GELU_SCALE * (1 + 3 * GELU_CUBIC * x**2))


def sigmoid(x: ArrayLike) -> Array:
    """Compute the logistic function 1 / (1 + exp(-x)) in a form in which exp cannot overflow.

    Parameters
    ----------
    x : array, any shape

    Returns
    -------
    out : array, shape of `x`
    """
    x = f64(x)
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)


def swiglu(x: ArrayLike) -> Array:
    """Gate one half of a row with the other: out = gate sigmoid(gate) up.

    Shazeer 2020, eq. (6), without the projections before and after it.

    Parameters
    ----------
    x : array, shape (R, 2 F)
        The first F columns are `gate`, the last F are `up`.

    Returns
    -------
    out : array, shape (R, F)
    """
    gate, up = np.split(f64(x), 2, axis=1)
    return gate * sigmoid(gate) * up


def swiglu_backward(dy: ArrayLike, x: ArrayLike) -> Array:
    """Compute the gradient of `swiglu`, with s = sigmoid(gate).

        dgate = dy up s (1 + gate (1 - s))          dup = dy gate s

    Parameters
    ----------
    dy : array, shape (R, F)
    x : array, shape (R, 2 F)

    Returns
    -------
    dx : array, shape (R, 2 F)
    """
    dy, (gate, up) = f64(dy), np.split(f64(x), 2, axis=1)
    s = sigmoid(gate)
    return np.concatenate([dy * up * s * (1 + gate * (1 - s)), dy * gate * s], axis=1)


def add(a: ArrayLike, b: ArrayLike) -> Array:
    """Add element by element: out = a + b.

    Parameters
    ----------
    a, b : array, same shape

    Returns
    -------
    out : array
    """
    return f64(a) + f64(b)


def dropout(x: ArrayLike, residual: ArrayLike | None, rate: float, key: int, site: int, sequence: int, T: int) -> Array:
    """Drop elements with probability `rate`, scale the others: out = residual + x keep / (1 - rate).

    Srivastava et al. 2014, section 4, except that the scale is applied in training instead of at test time.

    Parameters
    ----------
    x : array, shape (R, C)
    residual : array, shape (R, C), optional
    rate : float
        At least 0, less than 1.
    key, site, sequence, T : int
        See `dropout_mask`.

    Returns
    -------
    out : array, shape (R, C)
    """
    keep = dropout_mask(np.shape(x), rate, key, site, sequence, T)
    out = np.where(keep, f64(x) / (1 - rate), 0)
    return out if residual is None else out + f64(residual)


def dropout_mask(shape: tuple[int, ...], rate: float, key: int, site: int, sequence: int, T: int) -> NDArray[np.bool_]:
    """Draw the elements that dropout keeps; each draw depends on the element's own indices alone, not on the batch.

    Number n of the random stream that starts at s is mix(s + (n + 1) step): SplitMix64 of Steele, Lea and Flood 2014.
    The site picks a number of the stream that starts at `key`. That number starts the next stream, from which the
    sequence picks, then the position, then the column.

    Parameters
    ----------
    shape : tuple
        (R, C); row r is position r % T of sequence ``sequence + r // T``.
    rate : float
        An element is kept when the upper 32 bits of its number are at least rate 2^32.
    key, site, sequence : int
        Seed, number of this place in the model, and global index of the first sequence.
    T : int
        Number of rows of one sequence.

    Returns
    -------
    keep : array of bool, shape (R, C)
    """
    row = np.arange(shape[0], dtype=np.uint64)
    length = np.uint64(max(T, 1))
    stream = _draw(_mix(np.array([key], dtype=np.uint64)), np.array([site], dtype=np.uint64))
    rows = _draw(_draw(stream, np.uint64(sequence) + row // length), row % length)
    numbers = _draw(rows[:, None], np.arange(shape[1], dtype=np.uint64))
    return numbers >> np.uint64(32) >= np.uint64(math.floor(rate * 2**32 + 0.5))


def _draw(stream: NDArray[np.uint64], n: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return number n of a stream, modulo 2^64; the step is 2^64 divided by the golden ratio, made odd."""
    return _mix(stream + (n + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix 64 bits so that each bit of z affects all others: a bijection, variant 13 of Stafford's finalisers, 2011."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
