"""The linear layer of a low-rank adapter: a weight that stays, and beside it two thin ones that learn."""

from __future__ import annotations

import numpy as np

from tinygpt import memory
from tinygpt.kernels.registry import active
from tinygpt.kernels.threads import for_work
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
    """x W^T + bias + residual + scale (x A^T) B^T (Hu et al. 2021, equation 3).

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
        Shapes do not fit.

    Notes
    -----
    With u = scale x A^T and du = scale dy B: dB = dy^T u, dA = du^T x, dx = dy W + du A. Beside x only u is kept, which
    has r columns. W + scale B A is never formed. A weight that is frozen gets no product of its own.
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
    """The result (R, N), and u = scale x A^T (R, r), which the gradient of B needs."""
    (R, K), (N, r) = X.shape, B.shape
    out, u = memory.empty((R, N)), memory.empty((R, r))
    added = None if residual is None else residual.data.reshape(R, N)
    offset = None if bias is None else bias.data
    active.matmul(X, W, out, False, True, False, offset, added, 0, None, for_work(2 * R * N * K))
    active.matmul(X, A, u, False, True, False, None, None, 0, None, for_work(2 * R * K * r))
    u *= np.float32(scale)
    active.matmul(u, B, out, False, True, True, None, None, 0, None, for_work(2 * R * N * r))
    return out, u


def _backward(
    dz: np.ndarray, x: Tensor, u: np.ndarray, weight: Tensor, a: Tensor, b: Tensor, scale: float, bias: Tensor | None
) -> None:
    """Every gradient that is wanted; dz: (R, N)."""
    X = rows("low_rank", "x", x)
    (R, K), (N, r) = X.shape, b.shape
    if bias is not None and bias.requires_grad:
        db, add = bias.grad_buffer()
        active.column_sum(dz, db, add, for_work(dz.size))
    du = memory.empty((R, r))
    active.matmul(dz, b.data, du, False, False, False, None, None, 0, None, for_work(2 * R * N * r))
    du *= np.float32(scale)
    _weight_gradient(b, dz, u)
    _weight_gradient(a, du, X)
    _weight_gradient(weight, dz, X)
    if x.requires_grad:
        dx = memory.empty((R, K))
        active.matmul(dz, weight.data, dx, False, False, False, None, None, 0, None, for_work(2 * R * N * K))
        active.matmul(du, a.data, dx, False, False, True, None, None, 0, None, for_work(2 * R * K * r))
        x.receive(dx.reshape(x.shape))


def _weight_gradient(weight: Tensor, dz: np.ndarray, X: np.ndarray) -> None:
    """dW = dz^T X, added where it lives; nothing for a weight that is frozen."""
    if weight.requires_grad:
        dW, add = weight.grad_buffer()
        n_threads = for_work(2 * dz.size * X.shape[1])
        active.matmul(dz, X, dW, True, False, add, None, None, 0, None, n_threads)
