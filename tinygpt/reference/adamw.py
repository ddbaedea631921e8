"""Formulas of the optimizer ops: AdamW and the sum of squares."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from tinygpt.reference.common import Array, f64


def squared_norm(x: ArrayLike) -> float:
    """Compute the sum of squares, correctly rounded: the squares of float32 values are exact in float64.

    Parameters
    ----------
    x : array, shape (N,)

    Returns
    -------
    float
    """
    return math.fsum((f64(x) ** 2).tolist())


def adamw(
    param: ArrayLike,
    grad: ArrayLike,
    m: ArrayLike,
    v: ArrayLike,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: int,
    grad_scale: float = 1.0,
) -> tuple[Array, Array, Array]:
    """Compute one step of Adam with decoupled weight decay: Loshchilov and Hutter 2019, algorithm 2, decay times lr.

    g = grad_scale grad, m' = beta1 m + (1 - beta1) g, v' = beta2 v + (1 - beta2) g^2, and
    param' = (1 - lr weight_decay) param - lr m' / (1 - beta1^step) / (sqrt(v' / (1 - beta2^step)) + eps).

    Parameters
    ----------
    param, grad : array, shape (N,)
        Parameters and their gradient.
    m, v : array, shape (N,)
        Running means of the gradient and of its square.
    lr, beta1, beta2, eps, weight_decay : float
    step : int
        Number of this step, from 1.
    grad_scale : float
        Factor of the gradient, used for clipping.

    Returns
    -------
    param, m, v : array, shape (N,)
    """
    g = f64(grad) * grad_scale
    m = beta1 * f64(m) + (1 - beta1) * g
    v = beta2 * f64(v) + (1 - beta2) * g**2
    denominator = np.sqrt(v / (1 - beta2**step)) + eps
    return (1 - lr * weight_decay) * f64(param) - lr / (1 - beta1**step) * m / denominator, m, v
