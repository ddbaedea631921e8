"""The matmul kernels with named arguments, including the bias, activation and residual that they fuse."""

from __future__ import annotations

import numpy as np

from tinygpt import memory
from tinygpt.kernels.registry import active
from tinygpt.kernels.spec import matmul_work
from tinygpt.kernels.threads import for_work
from tinygpt.packed import PackedWeight


def product(
    a: np.ndarray,
    b: np.ndarray,
    *,
    trans_a: bool = False,
    trans_b: bool = False,
    out: np.ndarray | None = None,
    accumulate: bool = False,
    bias: np.ndarray | None = None,
    residual: np.ndarray | None = None,
    activation: int = 0,
    pre: np.ndarray | None = None,
) -> np.ndarray:
    """Compute activation(op(a) op(b) + bias) + residual, where op transposes if its flag is set.

    Parameters
    ----------
    a : float32 array, shape (M, K), or (K, M) with `trans_a`
    b : float32 array, shape (K, N), or (N, K) with `trans_b`
    out : float32 array, shape (M, N), optional
        Destination; a new array by default.
    accumulate : bool
        Add the product to `out`.
    bias : float32 array, shape (N,), optional
    residual : float32 array, shape (M, N), optional
    activation : int
        Value of `tinygpt.kernels.products.ACTIVATIONS`.
    pre : float32 array, shape (M, N), optional
        Output: the argument of the activation, which its gradient needs.

    Returns
    -------
    float32 array, shape (M, N)
        `out`.
    """
    M, K = a.shape[::-1] if trans_a else a.shape
    N = b.shape[0] if trans_b else b.shape[1]
    if out is None:
        out = memory.empty((M, N))
    n_threads = for_work(matmul_work(M, N, K))
    active.matmul(a, b, out, trans_a, trans_b, accumulate, bias, residual, activation, pre, n_threads)
    return out


def packed_product(
    X: np.ndarray,
    weight: PackedWeight,
    *,
    out: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    residual: np.ndarray | None = None,
    activation: int = 0,
) -> np.ndarray:
    """Compute activation(X W^T + bias) + residual, (R, N), with the kernel for the weight's number format."""
    (R, K), N = X.shape, weight.shape[0]
    out, n_threads = memory.empty((R, N)) if out is None else out, for_work(matmul_work(R, N, K))
    if weight.scales is None:
        active.matmul_bfloat16(X, weight.values, out, bias, residual, activation, n_threads)
    else:
        active.matmul_int8(X, weight.values, weight.scales, out, bias, residual, activation, n_threads)
    return out
