"""Optimizer ops on plain arrays: an AdamW step in place, and the squared norm for gradient clipping."""

from __future__ import annotations

import numpy as np

from tinygpt.kernels.edge import contiguous, flat, run, same_shape


def squared_norm(x: np.ndarray) -> float:
    """Compute the sum of the squares of all elements, in float64.

    Parameters
    ----------
    x : array, any shape, float32

    Returns
    -------
    float
    """
    return run("squared_norm", x=flat("squared_norm", "x", x))["result"]


def adamw(
    param: np.ndarray,
    grad: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    *,
    step: int,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    weight_decay: float = 0.1,
    grad_scale: float = 1.0,
) -> np.ndarray:
    """Update parameters in place by one step of AdamW (Loshchilov & Hutter 2019, algorithm 2).

    Parameters
    ----------
    param, m, v : array, any shape, float32
        Parameters, and running means of the gradient and of its square. C-contiguous and writable; updated in place.
    grad : array, same shape
        Gradient of the parameters.
    step : int
        Number of this step, from 1.
    lr, eps, weight_decay : float
        Learning rate, number added to the denominator, and decay per step as a multiple of `lr`.
    betas : tuple of float
        Decay rates of the two running means.
    grad_scale : float
        Factor of the gradient, used for clipping.

    Returns
    -------
    array
        `param` itself.
    """
    same_shape("adamw", param=param, grad=grad, m=m, v=v)
    if step < 1:
        raise ValueError(f"[adamw] 'step' must be at least 1, got {step}")
    held = {}
    for name, x in (("param", param), ("m", m), ("v", v)):
        if contiguous("adamw", name, x) is not x or not x.flags.writeable:
            raise ValueError(f"[adamw] '{name}' must be C-contiguous and writable, got an array that is not")
        held[name] = x.reshape(-1)
    scalars = {"lr": lr, "beta1": betas[0], "beta2": betas[1], "eps": eps, "weight_decay": weight_decay}
    run("adamw", grad=flat("adamw", "grad", grad), step=step, grad_scale=grad_scale, **held, **scalars)
    return param
