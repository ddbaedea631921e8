"""Formulas of the row ops: softmax, layer norm, RMS norm, cross-entropy."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tinygpt.reference.common import Array, f64


def softmax(x: ArrayLike) -> Array:
    """Turn rows into probabilities: y[r, c] = exp(x[r, c] - m) / sum_k exp(x[r, k] - m), m the largest of row r.

    Parameters
    ----------
    x : array, shape (R, C)
        -inf means a probability of 0. Each row needs one finite element.

    Returns
    -------
    y : array, shape (R, C)
    """
    x = f64(x)
    powers = np.exp(x - x.max(axis=1, keepdims=True, initial=-np.inf))
    return powers / powers.sum(axis=1, keepdims=True)


def softmax_backward(dy: ArrayLike, y: ArrayLike) -> Array:
    """Compute the gradient of `softmax`: dx = y (dy - sum_c y dy).

    Parameters
    ----------
    dy, y : array, shape (R, C)
        Gradient of the result of softmax, and the result itself.

    Returns
    -------
    dx : array, shape (R, C)
    """
    dy, y = f64(dy), f64(y)
    return y * (dy - (y * dy).sum(axis=1, keepdims=True))


def layernorm(
    x: ArrayLike, residual: ArrayLike | None, weight: ArrayLike, bias: ArrayLike | None, eps: float
) -> tuple[Array, Array, Array, Array]:
    """Normalise rows: out = (total - mean) rstd weight + bias, total = x + residual, rstd = 1 / sqrt(var + eps).

    Ba, Kiros and Hinton 2016, eq. (4). The variance is the biased one: the mean of the squared deviations.

    Parameters
    ----------
    x : array, shape (R, C)
    residual : array, shape (R, C), optional
    weight : array, shape (C,)
    bias : array, shape (C,), optional
    eps : float

    Returns
    -------
    out, total : array, shape (R, C)
    mean, rstd : array, shape (R,)
    """
    total = f64(x) if residual is None else f64(x) + f64(residual)
    mean = total.mean(axis=1)
    deviation = total - mean[:, None]
    rstd = 1 / np.sqrt((deviation**2).mean(axis=1) + eps)
    out = deviation * rstd[:, None] * f64(weight)
    return (out if bias is None else out + f64(bias)), total, mean, rstd


def layernorm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    dtotal: ArrayLike | None = None,
) -> tuple[Array, Array, Array]:
    """Compute the gradient of `layernorm`, with xhat = (x - mean) rstd and g = dy weight.

        dx = rstd (g - mean_c g - xhat mean_c (g xhat)) + dtotal
        dweight = sum_r dy xhat          dbias = sum_r dy

    Parameters
    ----------
    dy, x : array, shape (R, C)
        Gradient of `out`, and `total` of the forward pass.
    weight : array, shape (C,)
    mean, rstd : array, shape (R,)
    dtotal : array, shape (R, C), optional
        Gradient of `total` from its other uses; added to `dx`.

    Returns
    -------
    dx : array, shape (R, C)
    dweight, dbias : array, shape (C,)
    """
    dy, scale = f64(dy), f64(rstd)[:, None]
    xhat = (f64(x) - f64(mean)[:, None]) * scale
    g = dy * f64(weight)
    dx = scale * (g - g.mean(axis=1, keepdims=True) - xhat * (g * xhat).mean(axis=1, keepdims=True))
    return (dx if dtotal is None else dx + f64(dtotal)), (dy * xhat).sum(axis=0), dy.sum(axis=0)


def rmsnorm(x: ArrayLike, residual: ArrayLike | None, weight: ArrayLike, eps: float) -> tuple[Array, Array, Array]:
    """Normalise rows without a mean: out = total rstd weight, rstd = 1 / sqrt(mean_c total^2 + eps).

    Zhang and Sennrich 2019, eq. (4), of total = x + residual.

    Parameters
    ----------
    x : array, shape (R, C)
    residual : array, shape (R, C), optional
    weight : array, shape (C,)
    eps : float

    Returns
    -------
    out, total : array, shape (R, C)
    rstd : array, shape (R,)
    """
    total = f64(x) if residual is None else f64(x) + f64(residual)
    rstd = 1 / np.sqrt((total**2).mean(axis=1) + eps)
    return total * rstd[:, None] * f64(weight), total, rstd


def rmsnorm_backward(
    dy: ArrayLike, x: ArrayLike, weight: ArrayLike, rstd: ArrayLike, dtotal: ArrayLike | None = None
) -> tuple[Array, Array]:
    """Compute the gradient of `rmsnorm`, with xhat = x rstd and g = dy weight.

        dx = rstd (g - xhat mean_c (g xhat)) + dtotal
        dweight = sum_r dy xhat

    Parameters
    ----------
    dy, x : array, shape (R, C)
        Gradient of `out`, and `total` of the forward pass.
    weight : array, shape (C,)
    rstd : array, shape (R,)
    dtotal : array, shape (R, C), optional
        Gradient of `total` from its other uses; added to `dx`.

    Returns
    -------
    dx : array, shape (R, C)
    dweight : array, shape (C,)
    """
    dy, scale = f64(dy), f64(rstd)[:, None]
    xhat = f64(x) * scale
    g = dy * f64(weight)
    dx = scale * (g - xhat * (g * xhat).mean(axis=1, keepdims=True))
    return (dx if dtotal is None else dx + f64(dtotal)), (dy * xhat).sum(axis=0)


def cross_entropy(logits: ArrayLike, targets: ArrayLike) -> tuple[Array, Array]:
    """Compute -log p(target): losses[r] = lse[r] - logits[r, targets[r]], lse[r] = log sum_c exp(logits[r, c]).

    Parameters
    ----------
    logits : array, shape (R, V)
    targets : array of int, shape (R,)
        Token ids below V. A row with a negative target is ignored: its loss is 0.

    Returns
    -------
    losses, lse : array, shape (R,), in nats
    """
    logits, targets = f64(logits), np.asarray(targets)
    largest = logits.max(axis=1, keepdims=True)
    lse = (largest + np.log(np.exp(logits - largest).sum(axis=1, keepdims=True)))[:, 0]
    chosen = logits[np.arange(len(targets)), np.maximum(targets, 0)]
    return np.where(targets < 0, 0, lse - chosen), lse


def cross_entropy_backward(logits: ArrayLike, targets: ArrayLike, lse: ArrayLike, scale: float) -> Array:
    """Compute the gradient of `cross_entropy`: dlogits = (exp(logits - lse) - onehot(targets)) scale.

    Ignored rows have the gradient 0.

    Parameters
    ----------
    logits : array, shape (R, V)
    targets : array of int, shape (R,)
    lse : array, shape (R,)
    scale : float
        Gradient of each loss: 1 / (number of targets) for their mean.

    Returns
    -------
    dlogits : array, shape (R, V)
    """
    logits, targets = f64(logits), np.asarray(targets)
    onehot = targets[:, None] == np.arange(logits.shape[1])
    dlogits = (np.exp(logits - f64(lse)[:, None]) - onehot) * scale
    return np.where(targets[:, None] < 0, 0, dlogits)
