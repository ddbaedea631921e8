"""Activation functions and softmax."""

from __future__ import annotations

import numpy as np

from tinygpt import memory
from tinygpt.kernels.registry import active
from tinygpt.kernels.spec import WORK
from tinygpt.kernels.threads import for_work
from tinygpt.ops.shapes import rows
from tinygpt.tensor import Tensor, is_recording, traced


@traced
def gelu(x: Tensor) -> Tensor:
    """Apply GELU: x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) (Hendrycks & Gimpel 2016).

    Parameters
    ----------
    x : Tensor, any shape

    Returns
    -------
    Tensor, the same shape
    """
    X, out = x.data.reshape(-1), memory.empty(x.shape)
    active.gelu(X, out.reshape(-1), for_work(WORK["gelu"] * X.size))

    def backward(dy: np.ndarray) -> None:
        dx = memory.empty(x.shape)
        active.gelu_backward(dy.reshape(-1), X, dx.reshape(-1), for_work(WORK["gelu_backward"] * X.size))
        x.receive(dx)

    return Tensor.from_op(out, (x,), backward)


@traced
def swiglu(x: Tensor) -> Tensor:
    """Apply SwiGLU: gate sigmoid(gate) up, for rows x = (gate, up) (Shazeer 2020).

    Parameters
    ----------
    x : Tensor, shape (..., 2 F)

    Returns
    -------
    Tensor, shape (..., F)

    Notes
    -----
    With s = sigmoid(gate): d gate = dy up s (1 + gate (1 - s)), d up = dy gate s.
    """
    X = rows("swiglu", "x", x)
    R, F = X.shape[0], X.shape[1] // 2
    if X.shape[1] % 2:
        raise ValueError(f"[swiglu] 'x' must have an even width, got {X.shape[1]}")
    out = memory.empty((R, F))
    active.swiglu(X, out, for_work(WORK["swiglu"] * X.size))
    if not is_recording():
        return Tensor.plain(out.reshape(*x.shape[:-1], F))

    def backward(dy: np.ndarray) -> None:
        dx = memory.empty(X.shape)
        active.swiglu_backward(dy.reshape(R, F), X, dx, for_work(WORK["swiglu_backward"] * dx.size))
        x.receive(dx.reshape(x.shape))

    return Tensor.from_op(out.reshape(*x.shape[:-1], F), (x,), backward)


def softmax(x: Tensor) -> Tensor:
    """Apply softmax over the last axis: exp(x - max) / sum exp(x - max).

    Parameters
    ----------
    x : Tensor, shape (..., C)

    Returns
    -------
    Tensor, shape (..., C)

    Notes
    -----
    dx = y (dy - sum(y dy)).
    """
    X = rows("softmax", "x", x)
    y = memory.empty(X.shape)
    active.softmax(X, y, for_work(WORK["softmax"] * X.size))

    def backward(dy: np.ndarray) -> None:
        dx = memory.empty(X.shape)
        active.softmax_backward(dy.reshape(X.shape), y, dx, for_work(WORK["softmax_backward"] * X.size))
        x.receive(dx.reshape(x.shape))

    return Tensor.from_op(y.reshape(x.shape), (x,), backward)
