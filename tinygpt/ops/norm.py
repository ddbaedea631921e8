"""Layer normalisation and RMS normalisation of rows."""

from __future__ import annotations

import numpy as np

from tinygpt import memory
from tinygpt.ops import calls
from tinygpt.ops.shapes import expect, rows
from tinygpt.tensor import Tensor, is_recording, traced


@traced
def layernorm(x: Tensor, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """Compute (x - mean) / sqrt(var + eps) weight + bias over the last axis (Ba, Kiros & Hinton 2016).

    Parameters
    ----------
    x : Tensor, shape (..., C)
    weight, bias : Tensor, shape (C,)
    eps : float
        Added to the variance.

    Returns
    -------
    Tensor, shape (..., C)

    Notes
    -----
    With xhat = (x - mean) rstd and g = dy weight: dx = rstd (g - mean(g) - xhat mean(g xhat)), dweight = sum dy xhat,
    dbias = sum dy. The kernel also adds the gradient that x already has from the residual path.
    """
    X = rows("layernorm", "x", x)
    R, C = X.shape
    w, b = weight.data, None if bias is None else bias.data
    if w.shape != (C,):
        expect("layernorm", "weight", w, (C,))
    if b is not None and b.shape != (C,):
        expect("layernorm", "bias", b, (C,))
    out, mean, rstd = memory.empty((R, C)), np.empty(R, np.float32), np.empty(R, np.float32)
    calls.layernorm(X, weight=w, bias=b, out=out, mean=mean, rstd=rstd, eps=eps)
    if not is_recording():
        return Tensor.plain(out.reshape(x.shape))

    def backward(dy: np.ndarray) -> None:
        arrived = x.take_grad()
        dx = memory.empty((R, C))
        dweight, dbias, add = _norm_gradients(weight, bias)
        dtotal = None if arrived is None else arrived.reshape(R, C)
        calls.layernorm_backward(
            dy.reshape(R, C), x=X, weight=weight.data, mean=mean, rstd=rstd, dtotal=dtotal,
            dx=dx, dweight=dweight, dbias=dbias, accumulate=add,
        )  # fmt: skip
        x.receive(dx.reshape(x.shape))

    return Tensor.from_op(out.reshape(x.shape), (x, weight, bias), backward)


@traced
def rmsnorm(x: Tensor, weight: Tensor, eps: float = 1e-5) -> Tensor:
    """Compute x / sqrt(mean(x^2) + eps) weight over the last axis (Zhang & Sennrich 2019).

    Parameters
    ----------
    x : Tensor, shape (..., C)
    weight : Tensor, shape (C,)
    eps : float
        Added to the mean square.

    Returns
    -------
    Tensor, shape (..., C)

    Notes
    -----
    With xhat = x rstd and g = dy weight: dx = rstd (g - xhat mean(g xhat)), dweight = sum dy xhat.
    """
    X = rows("rmsnorm", "x", x)
    R, C = X.shape
    if weight.shape != (C,):
        expect("rmsnorm", "weight", weight.data, (C,))
    out, rstd = memory.empty((R, C)), np.empty(R, np.float32)
    calls.rmsnorm(X, weight=weight.data, out=out, rstd=rstd, eps=eps)
    if not is_recording():
        return Tensor.plain(out.reshape(x.shape))

    def backward(dy: np.ndarray) -> None:
        arrived = x.take_grad()
        dx = memory.empty((R, C))
        dweight, _, add = _norm_gradients(weight, None)
        dtotal = None if arrived is None else arrived.reshape(R, C)
        calls.rmsnorm_backward(
            dy.reshape(R, C), x=X, weight=weight.data, rstd=rstd, dtotal=dtotal, dx=dx, dweight=dweight, accumulate=add
        )
        x.receive(dx.reshape(x.shape))

    return Tensor.from_op(out.reshape(x.shape), (x, weight), backward)


def _norm_gradients(weight: Tensor, bias: Tensor | None) -> tuple[np.ndarray, np.ndarray | None, bool]:
    """Return the arrays for dweight and dbias, and whether the kernel must add to them.

    A frozen parameter gets a temporary array that is discarded.
    """
    dweight, add = _buffer(weight)
    if bias is None:
        return dweight, None, add
    dbias, add_bias = _buffer(bias)
    if add != add_bias:  # the kernel has one flag for both, so clear the stale one
        (dbias if add else dweight).fill(0)
    return dweight, dbias, add or add_bias


def _buffer(parameter: Tensor) -> tuple[np.ndarray, bool]:
    return parameter.grad_buffer() if parameter.requires_grad else (np.zeros(parameter.shape, np.float32), False)
