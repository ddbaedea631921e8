"""Formulas of matrix products, and of the sum over rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tinygpt.reference.activation import gelu
from tinygpt.reference.common import Array, f64


def matmul(
    a: ArrayLike,
    b: ArrayLike,
    trans_a: bool = False,
    trans_b: bool = False,
    bias: ArrayLike | None = None,
    residual: ArrayLike | None = None,
    activation: int = 0,
) -> tuple[Array, Array]:
    """Multiply two matrices: out = activation(op(a) op(b) + bias) + residual.

    Parameters
    ----------
    a : array, shape (M, K), or (K, M) with `trans_a`
    b : array, shape (K, N), or (N, K) with `trans_b`
    trans_a, trans_b : bool
        Use the transpose of the operand: op(x) is the transpose of x, otherwise x.
    bias : array, shape (N,), optional
    residual : array, shape (M, N), optional
    activation : int
        0 for none, 1 for gelu.

    Returns
    -------
    out, pre : array, shape (M, N)
        `pre` is the input of the activation.
    """
    left = f64(a).T if trans_a else f64(a)
    right = f64(b).T if trans_b else f64(b)
    pre = left @ right
    if bias is not None:
        pre = pre + f64(bias)
    out = gelu(pre) if activation else pre
    return (out if residual is None else out + f64(residual)), pre


def matmul_bfloat16(
    a: ArrayLike, b: np.ndarray, bias: ArrayLike | None = None, residual: ArrayLike | None = None, activation: int = 0
) -> Array:
    """Multiply by bfloat16 weights, the upper halves of floats w: out = activation(a w^T + bias) + residual.

    Parameters
    ----------
    a : array, shape (M, K)
    b : array, shape (N, K), uint16
    bias : array, shape (N,), optional
    residual : array, shape (M, N), optional
    activation : int
        0 for none, 1 for gelu.

    Returns
    -------
    out : array, shape (M, N)
    """
    return matmul(a, bfloat16_weights(b), False, True, bias, residual, activation)[0]


def matmul_int8(
    a: ArrayLike,
    b: np.ndarray,
    scales: np.ndarray,
    bias: ArrayLike | None = None,
    residual: ArrayLike | None = None,
    activation: int = 0,
) -> Array:
    """Multiply by int8 weights: out = activation(a w^T + bias) + residual, w[j, p] = scales[j, p // 32] b[j, p].

    Parameters
    ----------
    a : array, shape (M, K)
    b : array, shape (N, K), int8
    scales : array, shape (N, ceil(K / 32)), uint16
        Scale of each block of 32 weights in a row: the bits of half-precision numbers.
    bias : array, shape (N,), optional
    residual : array, shape (M, N), optional
    activation : int
        0 for none, 1 for gelu.

    Returns
    -------
    out : array, shape (M, N)
    """
    return matmul(a, int8_weights(b, scales), False, True, bias, residual, activation)[0]


def bfloat16_weights(b: np.ndarray) -> Array:
    """Unpack the bfloat16 weights of `matmul_bfloat16`, shape (N, K)."""
    return f64((b.astype(np.uint32) << 16).view(np.float32))


def int8_weights(b: np.ndarray, scales: np.ndarray) -> Array:
    """Unpack the int8 weights of `matmul_int8`, shape (N, K)."""
    each = f64(scales.view(np.float16))
    return f64(b) * each[:, np.arange(b.shape[1]) // 32]


def column_sum(x: ArrayLike) -> Array:
    """Sum over the rows, as the gradient of a bias does: out[c] = sum_r x[r, c].

    Parameters
    ----------
    x : array, shape (R, C)

    Returns
    -------
    out : array, shape (C,)
    """
    return f64(x).sum(axis=0)
