"""The linear layer with a low-rank adapter: a frozen weight plus two trained low-rank matrices."""

from __future__ import annotations

import numpy as np

from tinygpt.kernels.registry import active
from tinygpt.kernels.spec import WORK
from tinygpt.kernels.threads import for_work
from tinygpt.ops.product import product
from tinygpt.ops.shapes import expect, rows
from tinygpt.tensor import Tensor, is_recording, traced


@traced
def low_rank(
    x: Tensor,
    weight: Tensor,
    a: Tensor,
    b: Tensor,
    scale: float,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Compute x W^T + bias + residual + scale (x A^T) B^T (Hu et al. 2021, equation 3).

    Parameters
    ----------
    x : Tensor, shape (..., K)
    weight : Tensor, shape (N, K)
    a : Tensor, shape (r, K)
    b : Tensor, shape (N, r)
    scale : float
    bias : Tensor, shape (N,), optional
    residual : Tensor, shape (..., N), optional

    Returns
    -------
    Tensor, shape (..., N)

    Raises
    ------
    ValueError
        Shapes do not match.

    Notes
    -----
    With u = scale x A^T and du = scale dy B: dB = dy^T u, dA = du^T x, dx = dy W + du A. Only x and u, which has r
    columns, are kept for backward. W + scale B A is never computed, and a frozen weight needs no matmul for dW.
    """
    X = rows("low_rank", "x", x)
    (R, K), (N, r) = X.shape, b.data.shape
    expect("low_rank", "weight", weight.data, (N, K))
    expect("low_rank", "a", a.data, (r, K))
    if bias is not None:
        expect("low_rank", "bias", bias.data, (N,))
    shape = (*x.shape[:-1], N)
    if residual is not None:
        expect("low_rank", "residual", residual.data, shape)
    out, u = _forward(X, weight.data, a.data, b.data, scale, bias, residual)
    if not is_recording():
        return Tensor.plain(out.reshape(shape))

    def backward(dy: np.ndarray) -> None:
        if residual is not None:
            residual.receive(dy)
        _backward(dy.reshape(R, N), x, u, weight, a, b, scale, bias)

    return Tensor.from_op(out.reshape(shape), (x, weight, a, b, bias, residual), backward)


def _forward(X, W, A, B, scale: float, bias: Tensor | None, residual: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the result (R, N) and u = scale x A^T (R, r), which the gradient of B needs."""
    added = None if residual is None else residual.data.reshape(len(X), len(W))
    out = product(X, W, trans_b=True, bias=None if bias is None else bias.data, residual=added)
    u = product(X, A, trans_b=True)
    u *= np.float32(scale)
    return product(u, B, trans_b=True, out=out, accumulate=True), u


def _backward(
    dz: np.ndarray, x: Tensor, u: np.ndarray, weight: Tensor, a: Tensor, b: Tensor, scale: float, bias: Tensor | None
) -> None:
    """Compute every gradient that is required, from dz (R, N)."""
    X = rows("low_rank", "x", x)
    if bias is not None and bias.requires_grad:
        db, add = bias.grad_buffer()
        active.column_sum(dz, db, add, for_work(WORK["column_sum"] * dz.size))
    du = product(dz, b.data)
    du *= np.float32(scale)
    _weight_gradient(b, dz, u)
    _weight_gradient(a, du, X)
    _weight_gradient(weight, dz, X)
    if x.requires_grad:
        dx = product(dz, weight.data)
        x.receive(product(du, a.data, out=dx, accumulate=True).reshape(x.shape))


def _weight_gradient(weight: Tensor, dz: np.ndarray, X: np.ndarray) -> None:
    """Add dW = dz^T X to the gradient of a weight; a frozen weight gets none."""
    if weight.requires_grad:
        dW, accumulate = weight.grad_buffer()
        product(dz, X, trans_a=True, out=dW, accumulate=accumulate)
