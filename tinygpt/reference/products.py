"""Products of matrices, and the sum over rows."""

from __future__ import annotations

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
        op(x) is the transpose of x.
    bias : array, shape (N,), optional
    residual : array, shape (M, N), optional
    activation : int
        0 for none, 1 for gelu.

    Returns
    -------
    out, pre : array, shape (M, N)
        `pre` is what went into the activation.
    """
    left = f64(a).T if trans_a else f64(a)
    right = f64(b).T if trans_b else f64(b)
    pre = left @ right
    if bias is not None:
        pre = pre + f64(bias)
    out = gelu(pre) if activation else pre
    return (out if residual is None else out + f64(residual)), pre


def column_sum(x: ArrayLike) -> Array:
    """Add up the rows, as the gradient of a bias does: out[c] = sum_r x[r, c].

    Parameters
    ----------
    x : array, shape (R, C)

    Returns
    -------
    out : array, shape (C,)
    """
    return f64(x).sum(axis=0)
