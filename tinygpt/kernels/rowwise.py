"""Ops that work on rows: softmax, norms, cross-entropy; and element by element: GELU, SwiGLU, add, dropout.

Every function takes float32 arrays of shape (..., C), C-contiguous or copied once, raises TypeError for another dtype
and ValueError for a shape that does not fit, and returns new arrays.
"""

from __future__ import annotations

import numpy as np

from tinygpt.kernels.edge import array, contiguous, flat, rows, run, same_shape


def softmax(x: np.ndarray) -> np.ndarray:
    """exp(x - max) / sum exp(x - max) over the last axis.

    Parameters
    ----------
    x : array, shape (..., C), float32

    Returns
    -------
    array, shape (..., C)
    """
    return run("softmax", x=rows("softmax", "x", x))["out"].reshape(x.shape)


def softmax_backward(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """dx = y (dy - sum(y dy)) for y = softmax(x), all (..., C)."""
    same_shape("softmax_backward", dy=dy, y=y)
    op = "softmax_backward"
    return run(op, dy=rows(op, "dy", dy), y=rows(op, "y", y))["dx"].reshape(dy.shape)


def layernorm(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    eps: float = 1e-5,
    residual: np.ndarray | None = None,
) -> np.ndarray:
    """(x - mean) / sqrt(var + eps) weight + bias over the last axis (Ba, Kiros & Hinton 2016).

    Parameters
    ----------
    x : array, shape (..., C), float32
    weight, bias : array, shape (C,)
    eps : float
        Added to the variance.
    residual : array, shape (..., C), optional
        Added to `x` first.

    Returns
    -------
    array, shape (..., C)
    """
    extra = _residual("layernorm", x, residual)
    want = () if residual is None else ("total",)
    given = {"x": rows("layernorm", "x", x), "residual": extra, "weight": weight, "bias": bias}
    return run("layernorm", want, eps=float(eps), **given)["out"].reshape(x.shape)


def rmsnorm(x: np.ndarray, weight: np.ndarray, eps: float = 1e-5, residual: np.ndarray | None = None) -> np.ndarray:
    """x / sqrt(mean(x^2) + eps) weight over the last axis (Zhang & Sennrich 2019).

    Parameters
    ----------
    x : array, shape (..., C), float32
    weight : array, shape (C,)
    eps : float
        Added to the mean square.
    residual : array, shape (..., C), optional
        Added to `x` first.

    Returns
    -------
    array, shape (..., C)
    """
    extra = _residual("rmsnorm", x, residual)
    want = () if residual is None else ("total",)
    given = {"x": rows("rmsnorm", "x", x), "residual": extra, "weight": weight}
    return run("rmsnorm", want, eps=float(eps), **given)["out"].reshape(x.shape)


def cross_entropy(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """-log softmax(logits)[target] of every row; 0 where the target is negative.

    Parameters
    ----------
    logits : array, shape (R, V), float32
    targets : array, shape (R,), int32
        Below V.

    Returns
    -------
    array, shape (R,)
        Losses in nats.

    Raises
    ------
    IndexError
        A target is V or more.
    """
    logits = contiguous("cross_entropy", "logits", logits)
    targets = checked_targets("cross_entropy", logits, targets)
    return run("cross_entropy", logits=logits, targets=targets)["losses"]


def checked_targets(op: str, logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """`targets` as contiguous int32; IndexError if one is not in the vocabulary."""
    targets = contiguous(op, "targets", targets, "int32")
    V = contiguous(op, "logits", logits).shape[-1]
    if targets.size and int(targets.max()) >= V:
        raise IndexError(f"[{op}] 'targets' must be below {V}, got {int(targets.max())}")
    return targets


def gelu(x: np.ndarray) -> np.ndarray:
    """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) (Hendrycks & Gimpel 2016), any shape."""
    return run("gelu", x=flat("gelu", "x", x))["out"].reshape(x.shape)


def gelu_backward(dy: np.ndarray, x: np.ndarray) -> np.ndarray:
    """dy gelu'(x), any shape."""
    same_shape("gelu_backward", dy=dy, x=x)
    op = "gelu_backward"
    return run(op, dy=flat(op, "dy", dy), x=flat(op, "x", x))["dx"].reshape(x.shape)


def swiglu(x: np.ndarray) -> np.ndarray:
    """gate sigmoid(gate) up for rows x = (gate, up) (Shazeer 2020).

    Parameters
    ----------
    x : array, shape (..., 2 F), float32

    Returns
    -------
    array, shape (..., F)
    """
    out = run("swiglu", x=rows("swiglu", "x", x))["out"]
    return out.reshape(*x.shape[:-1], out.shape[-1])


def add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a + b, two arrays of one shape."""
    same_shape("add", a=a, b=b)
    return run("add", a=flat("add", "a", a), b=flat("add", "b", b))["out"].reshape(a.shape)


def dropout(
    x: np.ndarray, rate: float, key: int, site: int = 0, sequence: int = 0, residual: np.ndarray | None = None
) -> np.ndarray:
    """Set elements to zero with probability `rate`, divide the others by 1 - rate (Srivastava et al. 2014).

    Parameters
    ----------
    x : array, shape (B, T, C), float32
    rate : float
        At least 0 and less than 1.
    key, site : int
        Seed of the mask (64 bits), and the number of this place in the model.
    sequence : int
        Global index of the first sequence: the mask of a sequence does not depend on what it is batched with.
    residual : array, shape (B, T, C), optional
        Added after.

    Returns
    -------
    array, shape (B, T, C)
    """
    if not 0 <= rate < 1:
        raise ValueError(f"[dropout] 'rate' must be at least 0 and less than 1, got {rate}")
    if array("dropout", "x", x).ndim != 3:
        raise ValueError(f"[dropout] 'x' must have 3 axes (B, T, C), got shape {x.shape}")
    flat_x, extra = rows("dropout", "x", x), _residual("dropout", x, residual)
    for name, value in (("site", site), ("sequence", sequence)):
        if value < 0:
            raise ValueError(f"[dropout] '{name}' must be 0 or more, got {value}")
    scalars = {"rate": float(rate), "key": int(key) % 2**64, "site": site, "sequence": sequence, "T": x.shape[1]}
    return run("dropout", x=flat_x, residual=extra, **scalars)["out"].reshape(x.shape)


def _residual(op: str, x: np.ndarray, residual: np.ndarray | None) -> np.ndarray | None:
    """A residual of the shape of `x`, (..., C), as (R, C)."""
    if residual is None:
        return None
    same_shape(op, x=x, residual=residual)
    return rows(op, "residual", residual)
