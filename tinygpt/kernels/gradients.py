"""Gradients of the ops whose backward kernel needs statistics of the forward pass, on plain arrays.

A backward kernel takes statistics that the forward kernel saved, such as means or the log-sum-exp (lse). The functions
here compute them again, so that a call needs only the arrays of the formula. All arrays are float32. Another dtype
raises TypeError, and a shape that does not fit raises ValueError.
"""

from __future__ import annotations

import math

import numpy as np

from tinygpt.kernels.attention import strided_heads
from tinygpt.kernels.edge import rows, run, same_shape
from tinygpt.kernels.rowwise import checked_targets


def layernorm_backward(
    dy: np.ndarray, x: np.ndarray, weight: np.ndarray, eps: float = 1e-5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute the gradients of y = layernorm(x, weight, bias).

    Parameters
    ----------
    dy, x : array, shape (..., C)
    weight : array, shape (C,)
    eps : float
        The value used in the forward pass.

    Returns
    -------
    dx : array, shape (..., C)
    dweight, dbias : array, shape (C,)
    """
    op = "layernorm_backward"
    same_shape(op, dy=dy, x=x)
    flat = rows(op, "x", x)
    saved = run("layernorm", x=flat, weight=weight, eps=float(eps))
    given = {"dy": rows(op, "dy", dy), "x": flat, "weight": weight, "mean": saved["mean"], "rstd": saved["rstd"]}
    found = run(op, ("dbias",), accumulate=False, **given)
    return found["dx"].reshape(x.shape), found["dweight"], found["dbias"]


def rmsnorm_backward(
    dy: np.ndarray, x: np.ndarray, weight: np.ndarray, eps: float = 1e-5
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the gradients of y = rmsnorm(x, weight).

    Parameters
    ----------
    dy, x : array, shape (..., C)
    weight : array, shape (C,)
    eps : float
        The value used in the forward pass.

    Returns
    -------
    dx : array, shape (..., C)
    dweight : array, shape (C,)
    """
    op = "rmsnorm_backward"
    same_shape(op, dy=dy, x=x)
    flat = rows(op, "x", x)
    saved = run("rmsnorm", x=flat, weight=weight, eps=float(eps))
    found = run(op, dy=rows(op, "dy", dy), x=flat, weight=weight, rstd=saved["rstd"], accumulate=False)
    return found["dx"].reshape(x.shape), found["dweight"]


def swiglu_backward(dy: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Compute the gradient of y = swiglu(x): dx (..., 2 F) from dy (..., F) and x (..., 2 F)."""
    op = "swiglu_backward"
    return run(op, dy=rows(op, "dy", dy), x=rows(op, "x", x))["dx"].reshape(x.shape)


def attention_backward(
    dout: np.ndarray, q: np.ndarray, k: np.ndarray, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute the gradients of out = attention(q, k, v).

    Parameters
    ----------
    dout, q : array, shape (B, T, H, D)
    k, v : array, shape (B, S, G, D)

    Returns
    -------
    dq : array, shape (B, T, H, D)
    dk, dv : array, shape (B, S, G, D)
    """
    heads = strided_heads("attention_backward", q, k, v)
    same_shape("attention_backward", dout=dout, q=q)
    scale = 1 / math.sqrt(max(1, heads["q"].shape[-1]))
    saved = run("attention", scale=scale, **heads)
    given = {"dout": np.ascontiguousarray(dout), "out": saved["out"], "lse": saved["lse"], **heads}
    found = run("attention_backward", scale=scale, **given)
    return found["dq"], found["dk"], found["dv"]


def cross_entropy_backward(logits: np.ndarray, targets: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """Compute (softmax(logits) - onehot(targets)) scale; rows whose target is negative are 0.

    Parameters
    ----------
    logits : array, shape (R, V)
    targets : array, shape (R,), int32
        Token ids below V.
    scale : float
        1 for the gradient of the sum of the losses, 1 / R for that of their mean.

    Returns
    -------
    array, shape (R, V)
    """
    targets = checked_targets("cross_entropy_backward", logits, targets)
    lse = run("cross_entropy", logits=logits, targets=targets)["lse"]
    return run("cross_entropy_backward", logits=logits, targets=targets, lse=lse, scale=float(scale))["dlogits"]


def embedding_backward(dy: np.ndarray, tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """Compute the gradient of `table` in out = embedding(tokens, table).

    Parameters
    ----------
    dy : array, shape (B, T, C)
    tokens : array, shape (B, T), int32
        Token ids below `vocab_size`.
    vocab_size : int
        Number of rows of the table, V.

    Returns
    -------
    array, shape (V, C)

    Raises
    ------
    IndexError
        A token is not in 0..V-1.
    """
    op = "embedding_backward"
    if tokens.size and not (tokens.min() >= 0 and tokens.max() < vocab_size):
        raise IndexError(f"[{op}] 'tokens' must be in 0..{vocab_size - 1}, got {tokens.min()}..{tokens.max()}")
    flat = rows(op, "dy", dy)
    dtable = np.zeros((vocab_size, flat.shape[1]), np.float32)
    scalars = {"start": 0, "accumulate": False, "accumulate_positions": False}
    return run(op, dy=flat, tokens=tokens, dtable=dtable, **scalars)["dtable"]
