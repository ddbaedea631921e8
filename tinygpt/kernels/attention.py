"""Attention, rotary position embedding and token embedding on plain arrays."""

from __future__ import annotations

import math

import numpy as np

from tinygpt.kernels.edge import array, contiguous, run


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, return_weights: bool = False):
    """Compute causal attention of several heads (Vaswani et al. 2017, eq. 1); the last query sees every key.

    Parameters
    ----------
    q : array, shape (B, T, H, D), float32
        Queries of T positions and H heads of width D.
    k, v : array, shape (B, S, G, D), float32
        Keys and values. S >= T, and the queries belong to the last T positions. G divides H: query head h reads
        key/value head h // (H // G). A view is read without a copy if its last axis is contiguous.
    return_weights : bool
        Return the attention weights too, shape (B, H, T, S).

    Returns
    -------
    out : array, shape (B, T, H, D)
    weights : array, shape (B, H, T, S)
        Only with `return_weights`.
    """
    heads = strided_heads("attention", q, k, v)
    want = ("weights",) if return_weights else ()
    result = run("attention", want, scale=1 / math.sqrt(max(1, heads["q"].shape[-1])), **heads)
    return (result["out"], result["weights"]) if return_weights else result["out"]


def strided_heads(op: str, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> dict[str, np.ndarray]:
    """Check that q, k and v fit each other, and return them by name, each with a contiguous last axis."""
    given = {name: _last_axis_contiguous(op, name, x) for name, x in (("q", q), ("k", k), ("v", v))}
    q, k = given["q"], given["k"]
    if q.ndim == k.ndim == 4:
        if k.shape[2] == 0 or q.shape[2] % k.shape[2]:
            raise ValueError(f"[{op}] 'k' must have a number of heads that divides {q.shape[2]}, got {k.shape[2]}")
        if k.shape[1] < q.shape[1]:
            raise ValueError(f"[{op}] 'k' must have at least the {q.shape[1]} positions of 'q', got {k.shape[1]}")
        if q.shape[3] == 0:
            raise ValueError(f"[{op}] 'q' must have a head width of at least 1, got 0")
    return given


def rope(x: np.ndarray, cos: np.ndarray, sin: np.ndarray, inverse: bool = False) -> np.ndarray:
    """Apply the rotary position embedding (Su et al. 2021): rotate element j with element j + E (rotate-half).

    Parameters
    ----------
    x : array, shape (B, T, H, 2 E), float32
    cos, sin : array, shape (T, E), float32
        Cosine and sine of the angle of each position and frequency.
    inverse : bool
        Rotate by the negative angle, which undoes the rotation and is also its gradient.

    Returns
    -------
    array, shape (B, T, H, 2 E)
    """
    return run("rope", x=_last_axis_contiguous("rope", "x", x), cos=cos, sin=sin, inverse=bool(inverse))["out"]


def embedding(tokens: np.ndarray, table: np.ndarray, positions: np.ndarray | None = None, start: int = 0) -> np.ndarray:
    """Look up the rows of `table` at `tokens`, and add the rows of `positions` from `start` on.

    Parameters
    ----------
    tokens : array, shape (B, T), int32
        Token ids in 0..V-1.
    table : array, shape (V, C), float32
        One row for each token of the vocabulary.
    positions : array, shape (P, C), float32, optional
        One row for each position of the context.
    start : int
        Position of the first token in the context; start + T <= P.

    Returns
    -------
    array, shape (B, T, C)

    Raises
    ------
    IndexError
        A token is not in 0..V-1.
    """
    tokens = contiguous("embedding", "tokens", tokens, "int32")
    if array("embedding", "table", table).ndim != 2:
        raise ValueError(f"[embedding] 'table' must have 2 axes (V, C), got shape {table.shape}")
    V = len(table)
    if tokens.size and not (int(tokens.min()) >= 0 and int(tokens.max()) < V):
        raise IndexError(f"[embedding] 'tokens' must be in 0..{V - 1}, got {int(tokens.min())}..{int(tokens.max())}")
    if positions is not None and array("embedding", "positions", positions).ndim == tokens.ndim == 2:
        P, T = len(positions), tokens.shape[1]
        if not 0 <= start <= P - T:
            raise ValueError(f"[embedding] 'start' + T must be at most {P}, got {start} + {T}")
    out = run("embedding", tokens=tokens, table=table, positions=positions, start=start)["out"]
    return out.reshape(*tokens.shape, out.shape[-1])


def _last_axis_contiguous(op: str, name: str, x: np.ndarray) -> np.ndarray:
    if isinstance(x, np.ndarray) and x.dtype == "float32" and x.ndim == 4 and x.strides[-1] == x.itemsize:
        return x
    return contiguous(op, name, x)
