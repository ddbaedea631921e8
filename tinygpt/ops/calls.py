"""Kernels with many arguments, called by name.

A rung takes its arguments by position, so that any callable can be one, but a call with eleven positional values is
hard to read and easy to get wrong. These functions also choose the number of threads from the costs in
`tinygpt.kernels.spec`. The arguments are those of the kernels; ``csrc`` has the formulas.
"""

from __future__ import annotations

import numpy as np

from tinygpt.kernels.registry import active
from tinygpt.kernels.spec import WORK, attention_work
from tinygpt.kernels.threads import for_work

Array = np.ndarray
Optional = np.ndarray | None


def layernorm(x: Array, *, weight: Array, bias: Optional, out: Array, mean: Array, rstd: Array, eps: float) -> None:
    """out = (x - mean) rstd weight + bias, without the optional residual of the kernel."""
    active.layernorm(x, None, weight, bias, out, None, mean, rstd, eps, for_work(WORK["layernorm"] * x.size))


def layernorm_backward(
    dy: Array, *, x: Array, weight: Array, mean: Array, rstd: Array, dtotal: Optional,
    dx: Array, dweight: Array, dbias: Optional, accumulate: bool,
) -> None:  # fmt: skip
    """dx = gradient through the norm + dtotal; `accumulate` adds to dweight and dbias."""
    n_threads = for_work(WORK["layernorm_backward"] * x.size)
    active.layernorm_backward(dy, x, weight, mean, rstd, dtotal, dx, dweight, dbias, accumulate, n_threads)


def rmsnorm(x: Array, *, weight: Array, out: Array, rstd: Array, eps: float) -> None:
    """out = x rstd weight, without the optional residual of the kernel."""
    active.rmsnorm(x, None, weight, out, None, rstd, eps, for_work(WORK["rmsnorm"] * x.size))


def rmsnorm_backward(
    dy: Array, *, x: Array, weight: Array, rstd: Array, dtotal: Optional, dx: Array, dweight: Array, accumulate: bool
) -> None:
    """dx = gradient through the norm + dtotal; `accumulate` adds to dweight."""
    n_threads = for_work(WORK["rmsnorm_backward"] * x.size)
    active.rmsnorm_backward(dy, x, weight, rstd, dtotal, dx, dweight, accumulate, n_threads)


def dropout(
    x: Array, *, residual: Optional, out: Array, rate: float, key: int, site: int, sequence: int, T: int
) -> None:
    """out = residual + mask x / (1 - rate)."""
    active.dropout(x, residual, out, rate, key, site, sequence, T, for_work(WORK["dropout"] * x.size))


def attention(q: Array, *, k: Array, v: Array, out: Array, lse: Array, weights: Optional, scale: float) -> None:
    """out = softmax(scale q k^T) v under the causal mask; lse holds the logarithms of the softmax denominators."""
    B, T, H, D = q.shape
    active.attention(q, k, v, out, lse, weights, scale, for_work(attention_work(B, H, T, k.shape[1], D)))


def attention_backward(
    dout: Array, *, q: Array, k: Array, v: Array, out: Array, lse: Array, dq: Array, dk: Array, dv: Array, scale: float
) -> None:
    """Fill dq, dk and dv; the probabilities are computed again from q, k and lse."""
    B, T, H, D = q.shape
    n_threads = for_work(2 * attention_work(B, H, T, k.shape[1], D))
    active.attention_backward(dout, q, k, v, out, lse, dq, dk, dv, scale, n_threads)


def rope(x: Array, *, out: Array, rotation: tuple[Array, Array], inverse: bool = False) -> None:
    """Rotate the pairs of every head by the angles of their positions, or back; `out` may be `x`."""
    cos, sin = rotation
    active.rope(x, out, cos, sin, inverse, for_work(WORK["rope"] * x.size))


def embedding(tokens: Array, *, table: Array, positions: Optional, start: int, out: Array) -> None:
    """out[b T + t] = table[tokens[b, t]] + positions[start + t]."""
    active.embedding(tokens, table, positions, start, out, for_work(WORK["embedding"] * out.size))


def embedding_backward(
    dy: Array, *, tokens: Array, dtable: Array, dpositions: Optional, start: int,
    accumulate: bool, accumulate_positions: bool,
) -> None:  # fmt: skip
    """Add the rows of dy to the rows of dtable and dpositions that they came from; the flags keep earlier sums."""
    n_threads = for_work(WORK["embedding_backward"] * dy.size)
    active.embedding_backward(dy, tokens, dtable, dpositions, start, accumulate, accumulate_positions, n_threads)


def cross_entropy_backward(logits: Array, *, targets: Array, lse: Array, dlogits: Array, scale: float) -> None:
    """dlogits = scale (softmax - one hot); `dlogits` may be the array of the logits."""
    n_threads = for_work(WORK["cross_entropy_backward"] * logits.size)
    active.cross_entropy_backward(logits, targets, lse, dlogits, scale, n_threads)


def adamw(
    param: Array, *, grad: Array, m: Array, v: Array, lr: float, betas: tuple[float, float], eps: float,
    weight_decay: float, step: int, grad_scale: float,
) -> None:  # fmt: skip
    """Update param, m and v in place by one step of AdamW; `step` counts from 1."""
    n_threads = for_work(WORK["adamw"] * param.size)
    active.adamw(param, grad, m, v, lr, *betas, eps, weight_decay, step, grad_scale, n_threads)
