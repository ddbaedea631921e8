"""The operations of a model in unfused form: one step for every value that a formula names.

`tinygpt.ops` computes a linear layer in one kernel call with its bias, activation and residual, and attention without
ever storing its scores. Here the same operation is a row of steps. Each step has its own gradient, so that a traced
forward pass can be differentiated like any other. Values and gradients equal those of the fused operations up to
rounding; tests check this.

Every function takes the trace, then the arguments of its namesake in `tinygpt.ops`. ``trace.step(name, text, op, ...)``
calls ``op(...)`` and records the result. Letters: B sequences, T tokens, S keys (cached ones included), C width,
H query heads, G key/value heads, D head width, F MLP width, V vocabulary size.

Design
- NumPy computes what has no kernel: sums and products of two arrays, means. Traces are meant for small inputs, so
  speed does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from tinygpt import kernels, ops
from tinygpt.kernels.products import ACTIVATIONS
from tinygpt.ops.attention import Cache, Rotation, checked_heads, refuse_cache
from tinygpt.ops.elementwise import DropoutKey
from tinygpt.ops.loss import checked_targets
from tinygpt.ops.shapes import expect, rows
from tinygpt.tensor import Tensor


class Recorder(Protocol):
    """The part of a trace that the operations below use; `tinygpt.tracing.record` explains each method."""

    def step(self, name: str, text: str, op: Callable[..., Any], *args: Any) -> Any:
        """Return ``op(*args)`` and record it under `name`; `text` is the key of its formula."""

    def layer(self, weight: Tensor, otherwise: str) -> str:
        """Return the name of the layer at work that owns `weight`; `otherwise` outside a module."""

    def beside(self, leaf: str) -> str:
        """Return the name `leaf` inside the module at work."""

    def stream(self, branch: str) -> str:
        """Return the name of the residual stream after the output of the layer `branch` was added."""

    def name_of(self, x: Tensor, otherwise: str) -> str:
        """Return the name under which `x` was recorded."""


def plus(a: Tensor, b: Tensor) -> Tensor:
    """Compute a + b, where b (a bias, or positions in a batch) is broadcast along missing axes and axes of length 1."""

    def backward(dy: np.ndarray) -> None:
        a.receive(dy)
        b.receive(_folded(dy, b.shape))

    return Tensor.from_op(a.data + b.data, (a, b), backward)


def times(a: Tensor, b: Tensor) -> Tensor:
    """Compute a * b, element by element, where b is broadcast as in `plus`. da = dy b, db = dy a."""

    def backward(dy: np.ndarray) -> None:
        a.receive(dy * b.data)
        b.receive(_folded(dy * a.data, b.shape))

    return Tensor.from_op(a.data * b.data, (a, b), backward)


def _folded(dy: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Sum `dy` over the axes along which an array of `shape` was broadcast."""
    extra = dy.ndim - len(shape)
    axes = tuple(i for i in range(dy.ndim) if i < extra or (shape[i - extra] == 1 and dy.shape[i] != 1))
    return dy.sum(axes, dtype=np.float64).astype(np.float32).reshape(shape) if axes else dy


def part(x: Tensor, start: int, stop: int) -> Tensor:
    """Take columns start..stop-1 of the last axis, x[..., start:stop]."""

    def backward(dy: np.ndarray) -> None:
        dx = np.zeros(x.shape, np.float32)
        dx[..., start:stop] = dy
        x.receive(dx)

    return Tensor.from_op(np.ascontiguousarray(x.data[..., start:stop]), (x,), backward)


def reshaped(x: Tensor, *shape: int) -> Tensor:
    """Change the shape; the gradient is reshaped back."""
    return Tensor.from_op(x.data.reshape(shape), (x,), lambda dy: x.receive(dy.reshape(x.shape)))


def heads(qkv: Tensor, start: int, count: int, D: int) -> Tensor:
    """Take `count` heads of width D, beginning with head `start`: (B, T, heads D) to (B, T, count, D)."""
    B, T, _ = qkv.shape
    return reshaped(part(qkv, start * D, (start + count) * D), B, T, count, D)


def rotated(x: Tensor, cos: np.ndarray, sin: np.ndarray) -> Tensor:
    """Apply rotary position embedding (Su et al. 2021); the gradient is rotated back by the same angles."""

    def backward(dy: np.ndarray) -> None:
        x.receive(kernels.rope(dy, cos, sin, inverse=True))

    return Tensor.from_op(kernels.rope(x.data, cos, sin), (x,), backward)


def scaled_scores(q: Tensor, k: Tensor) -> Tensor:
    """Compute q k^T / sqrt(D) for every head, -inf where the causal mask hides a key (Vaswani et al. 2017, eq. 1).

    q (B, T, H, D) and k (B, S, G, D) to (B, H, T, S). With s = 1 / sqrt(D): dq = s dy k, and dk = s dy^T q, summed over
    all query heads that share the key head.
    """
    (B, T, H, D), (_, S, G, _) = q.shape, k.shape
    scale = np.float32(1 / math.sqrt(D))
    future = np.arange(S) > np.arange(S - T, S)[:, None]
    out = np.empty((B, H, T, S), np.float32)
    for b, h in np.ndindex(B, H):
        out[b, h] = scale * kernels.matmul(q.data[b, :, h], k.data[b, :, h * G // H], trans_b=True)
    out[..., future] = -np.inf

    def backward(dy: np.ndarray) -> None:
        dq, dk = np.empty(q.shape, np.float32), np.zeros(k.shape, np.float32)
        seen = scale * np.where(future, np.float32(0), dy)
        for b, h in np.ndindex(B, H):
            dq[b, :, h] = kernels.matmul(seen[b, h], k.data[b, :, h * G // H])
            dk[b, :, h * G // H] += kernels.matmul(seen[b, h], q.data[b, :, h], trans_a=True)
        q.receive(dq)
        k.receive(dk)

    return Tensor.from_op(out, (q, k), backward)


def mixed(shares: Tensor, v: Tensor) -> Tensor:
    """Sum the values, weighted by attention probabilities: (B, H, T, S) and (B, S, G, D) to (B, T, H, D).

    dshares = dy v^T, dv = shares^T dy.
    """
    (B, H, T, _), (_, _, G, D) = shares.shape, v.shape
    out = np.empty((B, T, H, D), np.float32)
    for b, h in np.ndindex(B, H):
        out[b, :, h] = kernels.matmul(shares.data[b, h], v.data[b, :, h * G // H])

    def backward(dy: np.ndarray) -> None:
        dshares, dv = np.empty(shares.shape, np.float32), np.zeros(v.shape, np.float32)
        for b, h in np.ndindex(B, H):
            dshares[b, h] = kernels.matmul(dy[b, :, h], v.data[b, :, h * G // H], trans_b=True)
            dv[b, :, h * G // H] += kernels.matmul(shares.data[b, h], dy[b, :, h], trans_a=True)
        shares.receive(dshares)
        v.receive(dv)

    return Tensor.from_op(out, (shares, v), backward)


def row_mean(x: Tensor) -> np.ndarray:
    """Compute the mean of every row: (..., C) to (..., 1)."""
    return x.data.mean(-1, keepdims=True, dtype=np.float64).astype(np.float32)


def row_scale(x: Tensor, mean: np.ndarray | float, eps: float) -> np.ndarray:
    """Compute 1 / sqrt(mean((x - mean)^2) + eps) of every row: (..., C) to (..., 1)."""
    square = np.square(x.data - mean).mean(-1, keepdims=True, dtype=np.float64)
    return (1 / np.sqrt(square + eps)).astype(np.float32)


def normalised(x: Tensor, mean: np.ndarray | None, rstd: np.ndarray) -> Tensor:
    """Compute (x - mean) rstd; without a mean x rstd.

    With y the result: dx = rstd (dy - mean(dy) - y mean(y dy)). Without a mean (RMS norm) the term mean(dy) is absent.
    """
    y = (x.data - (0 if mean is None else mean)) * rstd

    def backward(dy: np.ndarray) -> None:
        along = dy if mean is None else dy - dy.mean(-1, keepdims=True)
        x.receive(rstd * (along - y * (y * dy).mean(-1, keepdims=True)))

    return Tensor.from_op(y, (x,), backward)


def silu(x: Tensor) -> Tensor:
    """Compute x sigmoid(x), computed by the SwiGLU kernel with a value of 1 for every gate."""
    F = x.shape[-1]

    def beside_ones() -> np.ndarray:
        return np.concatenate([x.data.reshape(-1, F), np.ones((x.data.size // max(1, F), F), np.float32)], axis=1)

    def backward(dy: np.ndarray) -> None:
        dx = kernels.swiglu_backward(dy.reshape(-1, F), beside_ones())[:, :F]
        x.receive(np.ascontiguousarray(dx).reshape(x.shape))

    return Tensor.from_op(kernels.swiglu(beside_ones()).reshape(x.shape), (x,), backward)


def adapter(x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Compute scale (x A^T) B^T, the output of a low-rank adapter (Hu et al. 2021, equation 3)."""
    return times(ops.linear(ops.linear(x, a), b), Tensor(np.array([scale], np.float32)))


def row_losses(logits: Tensor, targets: np.ndarray) -> np.ndarray:
    """Compute -log softmax(logits)[target] of every row, 0 where the target is negative: (..., V) to (...)."""
    L = rows("cross_entropy", "logits", logits)
    flat, _ = checked_targets("cross_entropy", targets, *L.shape)
    return kernels.cross_entropy(L, flat).reshape(logits.shape[:-1])


def embedding(trace: Recorder, tokens: np.ndarray, table: Tensor, positions: Tensor | None = None, start: int = 0):
    """Run `ops.embedding` in three steps: token embeddings, position embeddings, their sum."""
    at = trace.beside("embed")
    x = trace.step(f"{at}.token", "embed.token", ops.embedding, tokens, table)
    if positions is None:
        return x
    T = x.shape[1]
    expect("embedding", "positions", positions.data, (None, x.shape[2]))
    if not 0 <= start <= positions.shape[0] - T:
        raise ValueError(f"[embedding] 'start' + T must be at most {positions.shape[0]}, got {start} + {T}")
    places = np.arange(start, start + T)[None]
    position = trace.step(f"{at}.position", "embed.position", ops.embedding, places, positions)
    return trace.step(f"{at}.sum", "embed.sum", plus, x, position)


def linear(
    trace: Recorder,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str = "none",
) -> Tensor:
    """Run `ops.linear` in up to four steps: matmul, bias, activation, residual."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"[linear] 'activation' must be one of {', '.join(ACTIVATIONS)}, got '{activation}'")
    at = trace.layer(weight, "linear")
    y = trace.step(at if bias is None else f"{at}.product", f"{at}.product", ops.linear, x, weight)
    if bias is not None:
        expect("linear", "bias", bias.data, y.shape[-1:])
        y = trace.step(at, at, plus, y, bias)
    if activation == "gelu":
        at = f"{at.rpartition('.')[0]}.activation".lstrip(".")
        y = trace.step(at, "gelu", ops.gelu, y)
    if residual is not None:
        expect("linear", "residual", residual.data, y.shape)
        y = trace.step(trace.stream(at), trace.stream(at), plus, y, residual)
    if at.endswith("logits"):  # for display only: the loss does not depend on this step, so it has no gradient
        trace.step(at.replace("logits", "probabilities"), "probabilities", ops.softmax, Tensor.plain(y.data))
    return y


def low_rank(
    trace: Recorder,
    x: Tensor,
    weight: Tensor,
    a: Tensor,
    b: Tensor,
    scale: float,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Run `ops.low_rank` in steps: matmul with the frozen weight, bias, adapter, their sum, residual."""
    at = trace.layer(weight, "low_rank")
    y = trace.step(f"{at}.frozen" if bias is None else f"{at}.frozen.product", "linear.product", ops.linear, x, weight)
    if bias is not None:
        expect("low_rank", "bias", bias.data, y.shape[-1:])
        y = trace.step(f"{at}.frozen", "linear", plus, y, bias)
    y = trace.step(at, "adapted", plus, y, trace.step(f"{at}.adapter", "adapter", adapter, x, a, b, scale))
    if residual is None:
        return y
    expect("low_rank", "residual", residual.data, y.shape)
    return trace.step(trace.stream(at), trace.stream(at), plus, y, residual)


def gelu(trace: Recorder, x: Tensor) -> Tensor:
    """Run `ops.gelu` in one step, under the name that it has when it is fused into a linear layer."""
    at = trace.name_of(x, "").rpartition(".")[0]
    return trace.step(f"{at}.activation" if at else "gelu", "gelu", ops.gelu, x)


def layernorm(trace: Recorder, x: Tensor, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """Run `ops.layernorm` in steps: mean, reciprocal deviation, normalised rows, weight, bias."""
    rows("layernorm", "x", x)
    at = trace.layer(weight, "layernorm")
    mean = trace.step(f"{at}.mean", "layernorm.mean", row_mean, x)
    rstd = trace.step(f"{at}.rstd", "layernorm.rstd", row_scale, x, mean, eps)
    y = trace.step(f"{at}.normalised", "layernorm.normalised", normalised, x, mean, rstd)
    expect("layernorm", "weight", weight.data, x.shape[-1:])
    if bias is None:
        return trace.step(at, "norm.weighted", times, y, weight)
    expect("layernorm", "bias", bias.data, x.shape[-1:])
    y = trace.step(f"{at}.weighted", "norm.weighted", times, y, weight)
    return trace.step(at, "norm.shifted", plus, y, bias)


def rmsnorm(trace: Recorder, x: Tensor, weight: Tensor, eps: float = 1e-5) -> Tensor:
    """Run `ops.rmsnorm` in steps: reciprocal root mean square, normalised rows, weight."""
    rows("rmsnorm", "x", x)
    at = trace.layer(weight, "rmsnorm")
    rstd = trace.step(f"{at}.rstd", "rmsnorm.rstd", row_scale, x, 0.0, eps)
    y = trace.step(f"{at}.normalised", "rmsnorm.normalised", normalised, x, None, rstd)
    expect("rmsnorm", "weight", weight.data, x.shape[-1:])
    return trace.step(at, "norm.weighted", times, y, weight)


def attention(
    trace: Recorder,
    qkv: Tensor,
    n_head: int,
    n_kv_head: int,
    rotation: Rotation | None = None,
    cache: Cache | None = None,
    weights: np.ndarray | None = None,
) -> Tensor:
    """Run `ops.attention` in steps: queries, keys, values, their rotation, scores, softmax, weighted values."""
    refuse_cache(qkv, cache)
    H, G = n_head, n_kv_head
    B, T, _, D = checked_heads(qkv, H, G, rotation).shape
    q = trace.step(trace.beside("q"), "attn.q", heads, qkv, 0, H, D)
    k = trace.step(trace.beside("k"), "attn.k", heads, qkv, H, G, D)
    v = trace.step(trace.beside("v"), "attn.v", heads, qkv, H + G, G, D)
    if rotation is not None:
        q = trace.step(trace.beside("q.rotated"), "attn.q.rotated", rotated, q, *rotation)
        k = trace.step(trace.beside("k.rotated"), "attn.k.rotated", rotated, k, *rotation)
    if cache is not None:
        k, v = map(Tensor, cache.extend(k.data, v.data))
    scores = trace.step(trace.beside("scores"), "attn.scores", scaled_scores, q, k)
    shares = trace.step(trace.beside("softmax"), "attn.softmax", ops.softmax, scores)
    if weights is not None:
        expect("attention", "weights", weights, shares.shape)
        weights[...] = shares.data
    return reshaped(trace.step(trace.beside("mix"), "attn.mix", mixed, shares, v), B, T, H * D)


def swiglu(trace: Recorder, x: Tensor) -> Tensor:
    """Run `ops.swiglu` in steps: gate, value, SiLU of the gate, their product."""
    if rows("swiglu", "x", x).shape[1] % 2:
        raise ValueError(f"[swiglu] 'x' must have an even width, got {x.shape[-1]}")
    F = x.shape[-1] // 2
    gate = trace.step(trace.beside("gate"), "mlp.gate", part, x, 0, F)
    value = trace.step(trace.beside("value"), "mlp.value", part, x, F, 2 * F)
    opened = trace.step(trace.beside("silu"), "mlp.silu", silu, gate)
    return trace.step(trace.beside("activation"), "swiglu", times, opened, value)


def dropout(
    trace: Recorder, x: Tensor, rate: float, key: DropoutKey, site: int, residual: Tensor | None = None
) -> Tensor:
    """Run `ops.dropout` in two steps: masked and rescaled x, residual."""
    at = trace.name_of(x, "x").removesuffix(".sum").removesuffix(".token")
    y = trace.step(f"{at}.dropout", "dropout", ops.dropout, x, rate, key, site)
    if residual is None:
        return y
    expect("dropout", "residual", residual.data, x.shape)
    return trace.step(trace.stream(at), trace.stream(at), plus, y, residual)


def cross_entropy(trace: Recorder, logits: Tensor, targets: np.ndarray) -> Tensor:
    """Run `ops.cross_entropy` in two steps: the loss of every position, their mean."""
    trace.step(trace.beside("losses"), "losses", row_losses, logits, targets)
    return trace.step(trace.beside("loss"), "loss", ops.cross_entropy, logits, targets)


def head_loss(trace: Recorder, x: Tensor, weight: Tensor, targets: np.ndarray, keep_bytes: int = 0) -> Tensor:
    """Run `ops.head_loss` in steps: all logits at once (`keep_bytes` has no effect), then the loss."""
    X = rows("head_loss", "x", x)
    expect("head_loss", "weight", weight, (None, X.shape[1]))
    checked_targets("head_loss", targets, len(X), weight.shape[0])
    return cross_entropy(trace, linear(trace, x, weight), targets)


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "attention": attention,
    "cross_entropy": cross_entropy,
    "dropout": dropout,
    "embedding": embedding,
    "gelu": gelu,
    "head_loss": head_loss,
    "layernorm": layernorm,
    "linear": linear,
    "low_rank": low_rank,
    "rmsnorm": rmsnorm,
    "swiglu": swiglu,
}
