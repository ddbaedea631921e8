"""Row ops (softmax, norms, cross-entropy) and elementwise ops (GELU, SwiGLU, add, dropout) on plain arrays.

Every function takes float32 arrays and returns new ones. An array that is not C-contiguous is copied first. Another
dtype raises TypeError, and a shape that does not fit raises ValueError.
"""

from __future__ import annotations

import numpy as np

from tinygpt.kernels.edge import array, contiguous, flat, rows, run, same_shape


def softmax(x: np.ndarray) -> np.ndarray:
    """Compute y = exp(x - max) / sum exp(x - max) over the last axis.

    Parameters
    ----------
    x : array, shape (..., C), float32

    Returns
    -------
    array, shape (..., C)
    """
    return run("softmax", x=rows("softmax", "x", x))["out"].reshape(x.shape)


def softmax_backward(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Compute the gradient of y = softmax(x): dx = y (dy - sum(y dy)), all of shape (..., C)."""
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
    """Compute y = (x - mean) / sqrt(var + eps) weight + bias over the last axis (Ba, Kiros & Hinton 2016).

    Parameters
    ----------
    x : array, shape (..., C), float32
    weight, bias : array, shape (C,)
    eps : float
        Added to the variance.
    residual : array, shape (..., C), optional
        Added to `x` before normalisation.

    Returns
    -------
    array, shape (..., C)
    """
    extra = _residual("layernorm", x, residual)
    want = () if residual is None else ("total",)
    given = {"x": rows("layernorm", "x", x), "residual": extra, "weight": weight, "bias": bias}
    return run("layernorm", want, eps=float(eps), **given)["out"].reshape(x.shape)


def rmsnorm(x: np.ndarray, weight: np.ndarray, eps: float = 1e-5, residual: np.ndarray | None = None) -> np.ndarray:
    """Compute y = x / sqrt(mean(x^2) + eps) weight over the last axis (Zhang & Sennrich 2019).

    Parameters
    ----------
    x : array, shape (..., C), float32
    weight : array, shape (C,)
    eps : float
        Added to the mean square.
    residual : array, shape (..., C), optional
        Added to `x` before normalisation.

    Returns
    -------
    array, shape (..., C)
    """
    extra = _residual("rmsnorm", x, residual)
    want = () if residual is None else ("total",)
    given = {"x": rows("rmsnorm", "x", x), "residual": extra, "weight": weight}
    return run("rmsnorm", want, eps=float(eps), **given)["out"].reshape(x.shape)


def cross_entropy(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Compute -log softmax(logits)[target] of every row; 0 where the target is negative.

    Parameters
    ----------
    logits : array, shape (R, V), float32
    targets : array, shape (R,), int32
        Token ids below V. Rows with a negative target are ignored.

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
    """Return `targets` contiguous; IndexError if one is V or more."""
    targets = contiguous(op, "targets", targets, "int32")
    V = contiguous(op, "logits", logits).shape[-1]
    if targets.size and int(targets.max()) >= V:
        raise IndexError(f"[{op}] 'targets' must be below {V}, got {int(targets.max())}")
    return targets


def gelu(x: np.ndarray) -> np.ndarray:
    """Compute x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) of an array of any shape (Hendrycks & Gimpel 2016)."""
    return run("gelu", x=flat("gelu", "x", x))["out"].reshape(x.shape)


def gelu_backward(dy: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Compute the gradient of y = gelu(x): dx = dy gelu'(x), any shape."""
    same_shape("gelu_backward", dy=dy, x=x)
    op = "gelu_backward"
    return run(op, dy=flat(op, "dy", dy), x=flat(op, "x", x))["dx"].reshape(x.shape)


def swiglu(x: np.ndarray) -> np.ndarray:
    """Compute gate sigmoid(gate) up, where the first half of a row is gate and the second is up (Shazeer 2020).

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
    """Compute a + b of two arrays of the same shape."""
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
        Seed of the mask (64 bits), and a number for this place in the model, so that each place has its own mask.
    sequence : int
        Global index of the first sequence. The mask of a sequence follows from its index, not from its batch.
    residual : array, shape (B, T, C), optional
        Added after dropout.

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
    """Check that a residual has the shape (..., C) of `x`, and reshape it to (R, C)."""
    if residual is None:
        return None
    same_shape(op, x=x, residual=residual)
    return rows(op, "residual", residual)
