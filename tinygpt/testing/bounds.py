"""Error bounds of every op in float32: the formulas of the reference, computed with numbers that carry their error.

A function has the name of its op and the arguments of its reference, and returns one `Rounded` per output. Operations
follow the order of the formula. The rules of `tinygpt.testing.rounding` hold for any order of a sum, with or without
fused multiply-adds. A ``start`` argument is the array that ``accumulate`` adds to: one more term of the sum. Each
docstring names the operations that are rounded.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygpt.reference.activation import GELU_CUBIC, GELU_SCALE, dropout_mask
from tinygpt.reference.attention import spread_heads, visible
from tinygpt.reference.products import bfloat16_weights, int8_weights
from tinygpt.testing.rounding import Rounded, contract, either, exact, renewed, scalar

# Fewest terms between two updates of a running maximum: attention has tiles of at least 16 keys (one cache line of
# scores), and the ops on long rows have blocks of at least 256 columns.
KEYS, COLUMNS = 16, 256


def matmul(
    a: Any,
    b: Any,
    trans_a: bool = False,
    trans_b: bool = False,
    bias: Any = None,
    residual: Any = None,
    activation: int = 0,
    start: Any = None,
) -> tuple[Rounded, Rounded]:
    """Bound a dot product of length K for each element (K + 1 with `start`), then bias, activation and residual."""
    left, right = exact(a.T if trans_a else a), exact(b.T if trans_b else b)
    pre = contract("mk,kn->mn", left, right, left.value.shape[1], start)
    if bias is not None:
        pre = pre + bias
    (out,) = gelu(pre) if activation else (pre,)
    return (out if residual is None else out + residual), pre


def matmul_bfloat16(a: Any, b: Any, bias: Any = None, residual: Any = None, activation: int = 0) -> tuple[Rounded]:
    """Bound a dot product of length K for each element. A bfloat16 weight is exactly a float32."""
    return _packed(a, bfloat16_weights(b), 0, bias, residual, activation)


def matmul_int8(
    a: Any, b: Any, scales: Any, bias: Any = None, residual: Any = None, activation: int = 0
) -> tuple[Rounded]:
    """Bound a dot product of length K for each element, and the scaling of each block of the sum.

    A rung may unpack first instead. Scale times int8 has 11 + 7 bits and is exact, so this is a plain dot product.
    """
    return _packed(a, int8_weights(b, scales), 1, bias, residual, activation)


def _packed(a: Any, weights: Any, more: int, bias: Any, residual: Any, activation: int) -> tuple[Rounded]:
    out = contract("mk,nk->mn", exact(a), exact(weights), weights.shape[1] + more)
    if bias is not None:
        out = out + bias
    if activation:
        (out,) = gelu(out)
    return (out if residual is None else out + residual,)


def column_sum(x: Any, start: Any = None) -> tuple[Rounded]:
    """Bound a sum of R terms for each column."""
    return (exact(x).sum(0, start),)


def _powers(x: Rounded, every: int) -> tuple[np.ndarray, Rounded]:
    """Return the largest of each row, and exp(x - largest).

    The result of a softmax does not depend on the number that is subtracted; only the rounding does. The maximum
    therefore counts as exact, even if x is not, because all terms of a row subtract the same number.
    """
    largest = x.value.max(axis=-1, keepdims=True, initial=-np.inf)
    return largest, renewed(x - largest, every)


def softmax(x: Any) -> tuple[Rounded]:
    """Bound exponentials exp(x - max), their sum, a quotient."""
    _, powers = _powers(exact(x), COLUMNS)
    return (powers / powers.sum(1)[:, None],)


def softmax_backward(dy: Any, y: Any) -> tuple[Rounded]:
    """Bound a dot product for each row, then a difference and a product."""
    return (exact(y) * (exact(dy) - (exact(y) * exact(dy)).sum(1)[:, None]),)


def _total(x: Any, residual: Any) -> Rounded:
    return exact(x) if residual is None else exact(x) + residual


def layernorm(x: Any, residual: Any, weight: Any, bias: Any, eps: float) -> tuple[Rounded, ...]:
    """Bound mean, deviations, mean square, reciprocal root. The error of the mean enters every deviation."""
    total = _total(x, residual)
    width = total.value.shape[1]
    mean = total.sum(1) / width
    deviation = total - mean[:, None]
    rstd = ((deviation * deviation).sum(1) / width).rsqrt(eps)
    out = deviation * rstd[:, None] * exact(weight)
    return (out if bias is None else out + bias), total, mean, rstd


def layernorm_backward(
    dy: Any, x: Any, weight: Any, mean: Any, rstd: Any, dtotal: Any = None, start: Any = None, start_bias: Any = None
) -> tuple[Rounded, ...]:
    """Bound two means along each row, and a sum over the rows for each column."""
    width = np.shape(x)[1]
    scale = exact(rstd)[:, None]
    xhat = (exact(x) - exact(mean)[:, None]) * scale
    g = exact(dy) * exact(weight)
    dx = scale * (g - (g.sum(1) / width)[:, None] - xhat * ((g * xhat).sum(1) / width)[:, None])
    dweight, dbias = (exact(dy) * xhat).sum(0, start), exact(dy).sum(0, start_bias)
    return (dx if dtotal is None else dx + dtotal), dweight, dbias


def rmsnorm(x: Any, residual: Any, weight: Any, eps: float) -> tuple[Rounded, ...]:
    """Bound mean square, reciprocal root, two products."""
    total = _total(x, residual)
    rstd = ((total * total).sum(1) / total.value.shape[1]).rsqrt(eps)
    return total * rstd[:, None] * exact(weight), total, rstd


def rmsnorm_backward(
    dy: Any, x: Any, weight: Any, rstd: Any, dtotal: Any = None, start: Any = None
) -> tuple[Rounded, ...]:
    """Bound one mean along each row, and a sum over the rows for each column."""
    scale = exact(rstd)[:, None]
    xhat = exact(x) * scale
    g = exact(dy) * exact(weight)
    dx = scale * (g - xhat * ((g * xhat).sum(1) / np.shape(x)[1])[:, None])
    return (dx if dtotal is None else dx + dtotal), (exact(dy) * xhat).sum(0, start)


def _gelu_cubic(x: Rounded) -> Rounded:
    return scalar(GELU_SCALE) * (x + scalar(GELU_CUBIC) * x * x * x)


def gelu(x: Any) -> tuple[Rounded]:
    """Bound a cubic and its tanh. 1 + tanh cancels for negative x, which leaves an absolute error of about u |x|."""
    return (exact(0.5) * exact(x) * (1 + _gelu_cubic(exact(x)).tanh()),)


def gelu_backward(dy: Any, x: Any) -> tuple[Rounded]:
    """Bound the slope, a sum of two terms, times dy. 1 - tanh^2 cancels where it is small.

    Beyond |x| = 100 the second term is 0, because exp(-70000) is. A rung must avoid an overflow of x^2 there.
    """
    x = exact(x)
    u = _gelu_cubic(x)
    second = exact(0.5) * x * u.tanh_slope() * (scalar(GELU_SCALE) * (1 + scalar(3 * GELU_CUBIC) * x * x))
    return (exact(dy) * (exact(0.5) * (1 + u.tanh()) + second.where(abs(x.value) <= 100, 0.0)),)


def swiglu(x: Any) -> tuple[Rounded]:
    """Bound a sigmoid and two products."""
    gate, up = (exact(half) for half in np.split(np.asarray(x), 2, axis=1))
    return (gate * gate.sigmoid() * up,)


def swiglu_backward(dy: Any, x: Any) -> tuple[Rounded]:
    """Bound a sigmoid, and the product rule for both halves."""
    gate, up = (exact(half) for half in np.split(np.asarray(x), 2, axis=1))
    s = gate.sigmoid()
    dgate, dup = exact(dy) * up * s * (1 + gate * (1 - s)), exact(dy) * gate * s
    value = np.concatenate([dgate.value, dup.value], axis=1)
    return (Rounded(value, np.concatenate([dgate.error, dup.error], axis=1)),)


def add(a: Any, b: Any) -> tuple[Rounded]:
    """Bound one addition."""
    return (exact(a) + b,)


def dropout(x: Any, residual: Any, rate: float, key: int, site: int, sequence: int, T: int) -> tuple[Rounded]:
    """Bound 1 / (1 - rate), a product with it, and a sum. A dropped element is exact."""
    keep = dropout_mask(np.shape(x), rate, key, site, sequence, T)
    kept = (exact(x) * scalar(1 / (1 - rate))).where(keep, 0.0)
    return (kept if residual is None else kept + residual,)


def _scores(q: Any, k: Any, scale: float) -> Rounded:
    """Bound a dot product of length D and a product for each score. Later keys are exactly -inf."""
    q, k = exact(q), exact(k)
    spread = Rounded(spread_heads(k.value, q.value.shape[2]))
    scores = contract("bthd,bshd->bhts", q, spread, q.value.shape[3]) * scalar(scale)
    return scores.where(visible(*scores.value.shape[2:]), -np.inf)


def attention(q: Any, k: Any, v: Any, scale: float) -> tuple[Rounded, ...]:
    """Bound scores, their softmax, a weighted sum of S values.

    A rung may divide by the sum of exponentials or compute exp(score - lse), before or after the weighted sum. The
    larger error counts.
    """
    scores = _scores(q, k, scale)
    values = Rounded(spread_heads(exact(v).value, np.shape(q)[2]))
    largest, powers = _powers(scores, KEYS)
    total = powers.sum(3)
    lse = total.log() + largest[..., 0]
    weights = either(powers / total[..., None], (scores - lse[..., None]).exp())
    terms = scores.value.shape[3]
    late = contract("bhts,bshd->bthd", powers, values, terms) / Rounded(
        total.value.transpose(0, 2, 1)[..., None], total.error.transpose(0, 2, 1)[..., None]
    )
    out = either(late, contract("bhts,bshd->bthd", weights, values, terms))
    return out, lse, weights.where(visible(*scores.value.shape[2:]), 0.0)


def attention_backward(dout: Any, q: Any, k: Any, v: Any, out: Any, lse: Any, scale: float) -> tuple[Rounded, ...]:
    """Bound weights, two dot products of length D, sums over the keys (dq) or the queries of a group (dk, dv)."""
    batch, length, heads, width = np.shape(q)
    size, groups = np.shape(k)[1:3]
    scores = _scores(q, k, scale)
    weights = (scores - exact(lse)[..., None]).exp().where(visible(length, size), 0.0)
    dweights = contract("bthd,bshd->bhts", exact(dout), Rounded(spread_heads(exact(v).value, heads)), width)
    delta = contract("bthd,bthd->bht", exact(dout), exact(out), width)
    dscores = (scalar(scale) * weights * (dweights - delta[..., None])).where(visible(length, size), 0.0)
    dq = contract("bhts,bshd->bthd", dscores, Rounded(spread_heads(exact(k).value, heads)), size)

    def gather(x: Rounded, y: Any) -> Rounded:
        """Sum over queries and over the heads of a group: T H / G terms."""
        share = heads // groups
        grouped = x.reshape(batch, groups, share, length, size)
        other = exact(y).reshape(batch, length, groups, share, width)
        return contract("bgxts,btgxd->bsgd", grouped, other, length * share)

    return dq, gather(dscores, q), gather(weights, dout)


def cross_entropy(logits: Any, targets: Any) -> tuple[Rounded, ...]:
    """Bound the logarithm of a sum of V exponentials, and a difference."""
    largest, powers = _powers(exact(logits), COLUMNS)
    lse = powers.sum(1).log() + largest[:, 0]
    loss = lse - np.asarray(logits)[np.arange(len(targets)), np.maximum(targets, 0)]
    return loss.where(np.asarray(targets) >= 0, 0.0), lse


def cross_entropy_backward(logits: Any, targets: Any, lse: Any, scale: float) -> tuple[Rounded]:
    """Bound an exponential, a difference, a product."""
    onehot = np.asarray(targets)[:, None] == np.arange(np.shape(logits)[1])
    slope = ((exact(logits) - exact(lse)[:, None]).exp() - onehot) * scalar(scale)
    return (slope.where(np.asarray(targets)[:, None] >= 0, 0.0),)


def embedding(tokens: Any, table: Any, positions: Any = None, start: int = 0) -> tuple[Rounded]:
    """Bound the sum with a position. Without positions the op is a copy, which is exact."""
    rows = exact(np.asarray(table)[tokens])
    if positions is not None:
        rows = rows + np.asarray(positions)[start : start + np.shape(tokens)[1]]
    return (rows.reshape(np.size(tokens), np.shape(table)[1]),)


def embedding_backward(
    dy: Any, tokens: Any, V: int, P: int = 0, start: int = 0, start_table: Any = None, start_positions: Any = None
) -> tuple[Rounded, ...]:
    """Bound a sum over the uses of each token, and a sum over the sequences for each position."""
    tokens = np.asarray(tokens)
    places = np.broadcast_to(start + np.arange(tokens.shape[1]), tokens.shape)
    return _scatter(dy, tokens.ravel(), V, start_table), _scatter(dy, places.ravel(), P, start_positions, P > 0)


def _scatter(dy: Any, rows: np.ndarray, size: int, start: Any, wanted: bool = True) -> Rounded:
    """Sum the rows of `dy` into `size` rows: n terms have n - 1 roundings, and `start` is one more term."""
    dy = np.asarray(dy, dtype=np.float64)
    value, magnitude, terms = np.zeros((size, dy.shape[1])), np.zeros((size, dy.shape[1])), np.zeros(size, dtype=int)
    if wanted:
        np.add.at(value, rows, dy)
        np.add.at(magnitude, rows, abs(dy))
        np.add.at(terms, rows, 1)
    if start is not None:
        value, magnitude, terms = value + start, magnitude + abs(np.asarray(start, dtype=np.float64)), terms + 1
    steps = np.maximum(terms - 1, 0)[:, None] * 2.0**-24
    return Rounded(value, steps / (1 - steps) * magnitude)


def rope(x: Any, cos: Any, sin: Any, inverse: bool = False) -> tuple[Rounded]:
    """Bound two products and their sum for each element."""
    first, second = (exact(half) for half in np.split(np.asarray(x), 2, axis=3))
    c, s = exact(cos)[:, None, :], exact(sin)[:, None, :]
    s = -s if inverse else s
    one, two = first * c - second * s, second * c + first * s
    return (Rounded(np.concatenate([one.value, two.value], 3), np.concatenate([one.error, two.error], 3)),)


def squared_norm(x: Any) -> tuple[Rounded]:
    """Bound a sum of N squares in float64, N times by 2^-53. The squares are exact."""
    squares = np.asarray(x, dtype=np.float64) ** 2
    return (Rounded(squares.sum(), (squares.size + 1) * 2.0**-53 * squares.sum()),)


def adamw(
    param: Any,
    grad: Any,
    m: Any,
    v: Any,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: int,
    grad_scale: float = 1.0,
) -> tuple[Rounded, ...]:
    """Bound every operation of the step. Factors shared by all elements are computed in float64 and rounded once.

    A rung may subtract the decay or multiply by 1 - lr weight_decay. The larger error counts.
    """
    g = exact(grad) * scalar(grad_scale)
    m = scalar(beta1) * exact(m) + scalar(1 - beta1) * g
    v = scalar(beta2) * exact(v) + scalar(1 - beta2) * g * g
    unbiased = v * scalar(1 / (1 - beta2**step))
    update = scalar(lr / (1 - beta1**step)) * m / (unbiased.sqrt() + scalar(eps))
    less = exact(param) - scalar(lr * weight_decay) * exact(param)
    return either(less, scalar(1 - lr * weight_decay) * exact(param)) - update, m, v
