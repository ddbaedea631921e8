"""Formulas of causal attention with grouped queries, and of rotary position embedding."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinygpt.reference.common import Array, f64


def attention(q: ArrayLike, k: ArrayLike, v: ArrayLike, scale: float) -> tuple[Array, Array, Array]:
    """Average values by how well keys match a query: out[t] = sum_s w[t, s] v[s], w[t] = softmax_s(scale q[t] . k[s]).

    Vaswani et al. 2017, eq. (1), causal: query t is at position S - T + t and sees the keys up to this position. Query
    head h reads key and value head h // (H // G), the grouped queries of Ainslie et al. 2023.

    Parameters
    ----------
    q : array, shape (B, T, H, D)
    k, v : array, shape (B, S, G, D)
        G divides H; S is at least T.
    scale : float
        Usually 1 / sqrt(D).

    Returns
    -------
    out : array, shape (B, T, H, D)
    lse : array, shape (B, H, T)
        log sum_s exp(score), the log-sum-exp: a weight is exp(score - lse).
    weights : array, shape (B, H, T, S)
        Attention weights; 0 where a key is later than the query.
    """
    q, v = f64(q), f64(v)
    scores = attention_scores(q, k, scale)
    largest = scores.max(axis=3, keepdims=True, initial=-np.inf)
    lse = (largest + np.log(np.exp(scores - largest).sum(axis=3, keepdims=True)))[..., 0]
    weights = np.exp(scores - lse[..., None])
    return np.einsum("bhts,bshd->bthd", weights, spread_heads(v, q.shape[2])), lse, weights


def attention_backward(
    dout: ArrayLike, q: ArrayLike, k: ArrayLike, v: ArrayLike, out: ArrayLike, lse: ArrayLike, scale: float
) -> tuple[Array, Array, Array]:
    """Compute the gradient of `attention`, with w = exp(score - lse).

        ds = scale w (dout . v - dout . out)          dq = ds k          dk = ds^T q          dv = w^T dout

    The weights are recomputed from `lse`, and sum_s w (dout . v) is dout . out: Dao et al. 2022, appendix B.2. The
    gradients of keys and values are sums over all query heads of their group.

    Parameters
    ----------
    dout, q, out : array, shape (B, T, H, D)
    k, v : array, shape (B, S, G, D)
    lse : array, shape (B, H, T)
    scale : float

    Returns
    -------
    dq : array, shape (B, T, H, D)
    dk, dv : array, shape (B, S, G, D)
    """
    dout, q, k, v, out = f64(dout), f64(q), f64(k), f64(v), f64(out)
    heads, groups = q.shape[2], k.shape[2]
    weights = np.exp(attention_scores(q, k, scale) - f64(lse)[..., None])
    dweights = np.einsum("bthd,bshd->bhts", dout, spread_heads(v, heads))
    delta = np.einsum("bthd,bthd->bht", dout, out)
    dscores = scale * weights * (dweights - delta[..., None])
    dq = np.einsum("bhts,bshd->bthd", dscores, spread_heads(k, heads))
    dk = gather_heads(np.einsum("bhts,bthd->bshd", dscores, q), groups)
    return dq, dk, gather_heads(np.einsum("bhts,bthd->bshd", weights, dout), groups)


def attention_scores(q: ArrayLike, k: ArrayLike, scale: float) -> Array:
    """Compute the scores scale q[t] . k[s], shape (B, H, T, S); -inf where key s is later than query t."""
    q = f64(q)
    scores = scale * np.einsum("bthd,bshd->bhts", q, spread_heads(f64(k), q.shape[2]))
    return np.where(visible(*scores.shape[2:]), scores, -np.inf)


def visible(T: int, S: int) -> NDArray[np.bool_]:
    """Build the causal mask, shape (T, S): query t, at position S - T + t, sees the keys up to this position."""
    return np.arange(S) <= S - T + np.arange(T)[:, None]


def spread_heads(x: Array, heads: int) -> Array:
    """Expand (B, S, G, D) to (B, S, H, D): head h is head h // (H // G) of `x`."""
    return np.repeat(x, heads // x.shape[2], axis=2)


def gather_heads(x: Array, groups: int) -> Array:
    """Reduce (B, S, H, D) to (B, S, G, D), the sum over the heads of a group: the adjoint of `spread_heads`."""
    batch, length, heads, width = x.shape
    return x.reshape(batch, length, groups, heads // groups, width).sum(axis=3)


def rope(x: ArrayLike, cos: ArrayLike, sin: ArrayLike, inverse: bool = False) -> Array:
    """Rotate the pair (x[j], x[j + E]) by an angle that grows with the position t.

    out[j] = x[j] cos[t, j] - x[j + E] sin[t, j] and out[j + E] = x[j + E] cos[t, j] + x[j] sin[t, j] for j < E: Su et
    al. 2021, eq. (34), with the pairs half a head apart.

    Parameters
    ----------
    x : array, shape (B, T, H, 2 E)
    cos, sin : array, shape (T, E)
    inverse : bool
        Rotate by the negative angle, which is also the gradient.

    Returns
    -------
    out : array, shape (B, T, H, 2 E)
    """
    first, second = np.split(f64(x), 2, axis=3)
    c, s = f64(cos)[:, None, :], f64(sin)[:, None, :] * (-1 if inverse else 1)
    return np.concatenate([first * c - second * s, second * c + first * s], axis=3)
