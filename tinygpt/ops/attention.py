"""Causal multi-head attention, from the fused projection of queries, keys and values."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Protocol

import numpy as np

from tinygpt import memory
from tinygpt.ops import calls
from tinygpt.ops.shapes import expect
from tinygpt.tensor import Tensor, is_recording, traced

Rotation = tuple[np.ndarray, np.ndarray]


class Cache(Protocol):
    """KV cache of one layer; every row of the batch has the same number of positions."""

    def extend(self, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Append keys and values (B, T, G, D); return all so far, (B, S, G, D)."""


class Ragged(ABC):
    """KV cache of one layer for sequences of different lengths, whose tokens are joined into one row."""

    @abstractmethod
    def parts(self, k: np.ndarray, v: np.ndarray) -> Iterable[tuple[slice, np.ndarray, np.ndarray, np.ndarray | None]]:
        """Append keys and values (1, T, G, D); yield the tokens, keys, values and weights of every sequence."""


@traced
def attention(
    qkv: Tensor,
    n_head: int,
    n_kv_head: int,
    rotation: Rotation | None = None,
    cache: Cache | Ragged | None = None,
    weights: np.ndarray | None = None,
) -> Tensor:
    """Compute causal attention, softmax(q k^T / sqrt(D)) v, in every head.

    Parameters
    ----------
    qkv : Tensor, shape (B, T, (H + 2 G) D)
        Queries, keys and values side by side: the output of one linear layer.
    n_head, n_kv_head : int
        Query heads H, key/value heads G; query head h uses key/value head h // (H // G).
    rotation : pair of arrays, shape (T, D/2), optional
        Cosines and sines of the rotary embedding at the positions of qkv.
    cache : Cache or Ragged, optional
        Earlier keys and values to attend to as well; only under `no_grad`.
    weights : array, shape (B, H, T, S), float32, optional
        Output: the attention probabilities.

    Returns
    -------
    Tensor, shape (B, T, H D)

    Notes
    -----
    csrc/attention.pyx has the formulas. dq, dk and dv are slices of one array; in it, the rotation is undone.
    """
    refuse_cache(qkv, cache)
    H, G, heads = n_head, n_kv_head, checked_heads(qkv, n_head, n_kv_head, rotation)
    (B, T, _, D), (q, k, v) = heads.shape, _parts(heads, H, G)
    if rotation is not None:
        turned = memory.empty((B, T, H + G, D))
        calls.rope(heads[:, :, : H + G], out=turned, rotation=rotation)
        q, k, _ = _parts(turned, H, G)
    scale = 1 / math.sqrt(D)
    if isinstance(cache, Ragged):
        return Tensor.plain(_in_parts(q, k, v, cache, scale).reshape(B, T, H * D))
    k, v = (k, v) if cache is None else cache.extend(k, v)
    if weights is not None:
        expect("attention", "weights", weights, (B, H, T, k.shape[1]))
    out, lse = memory.empty((B, T, H, D)), np.empty((B, H, T), np.float32)
    calls.attention(q, k=k, v=v, out=out, lse=lse, weights=weights, scale=scale)
    if not is_recording():
        return Tensor.plain(out.reshape(B, T, H * D))

    def backward(dy: np.ndarray) -> None:
        dqkv = memory.empty(heads.shape)
        (dq, dk, dv), dout = _parts(dqkv, H, G), dy.reshape(B, T, H, D)
        calls.attention_backward(dout, q=q, k=k, v=v, out=out, lse=lse, dq=dq, dk=dk, dv=dv, scale=scale)
        if rotation is not None:
            both = dqkv[:, :, : H + G]
            calls.rope(both, out=both, rotation=rotation, inverse=True)
        qkv.receive(dqkv.reshape(qkv.shape))

    return Tensor.from_op(out.reshape(B, T, H * D), (qkv,), backward)


def _in_parts(q: np.ndarray, k: np.ndarray, v: np.ndarray, cache: Ragged, scale: float) -> np.ndarray:
    """Compute the attention of each sequence by itself, (1, T, H, D); 0 for tokens that belong to no sequence."""
    _, _, H, D = q.shape
    out, stop = memory.empty((1, q.shape[1], H, D)), 0
    for part, keys, values, weights in cache.parts(k, v):
        stop, lse = part.stop, np.empty((1, H, part.stop - part.start), np.float32)
        calls.attention(q[:, part], k=keys, v=values, out=out[:, part], lse=lse, weights=weights, scale=scale)
    out[:, stop:] = 0
    return out


def refuse_cache(qkv: Tensor, cache: Cache | Ragged | None) -> None:
    """Raise RuntimeError if keys and values are cached while gradients are recorded."""
    if cache is not None and qkv.requires_grad:
        raise RuntimeError("[attention] 'cache' must be used under no_grad(), because cached keys have no gradient")


def checked_heads(qkv: Tensor, H: int, G: int, rotation: Rotation | None) -> np.ndarray:
    """Reshape the data of qkv to (B, T, H + 2 G, D), after checking head counts and rotation."""
    if len(qkv.shape) != 3:  # here and below, compare before calling: a call per check is measurable in decoding
        expect("attention", "qkv", qkv.data, (None, None, None))
    B, T, width = qkv.shape
    if G < 1 or H % G or width % (H + 2 * G) or width == 0:
        raise ValueError(f"[attention] 'qkv' must have a width of ({H} + 2 x {G}) heads, H divisible by G, got {width}")
    D = width // (H + 2 * G)
    if rotation is not None and D % 2:
        raise ValueError(f"[attention] 'qkv' must have heads of even width with a rotation, got {D}")
    for table in rotation or ():
        if table.shape != (T, D // 2):
            expect("attention", "rotation", table, (T, D // 2))
    return qkv.data.reshape(B, T, H + 2 * G, D)


def _parts(x: np.ndarray, H: int, G: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split x (B, T, heads, D) into views of the H query, G key and G value heads."""
    return x[:, :, :H], x[:, :, H : H + G], x[:, :, H + G :]


def rotation_tables(length: int, D: int, theta: float) -> Rotation:
    """Compute cosine and sine of position times frequency, each (length, D/2).

    Frequency j is theta^(-2j/D) (Su et al. 2021, eq. 15).
    """
    angles = np.outer(np.arange(length), theta ** (-np.arange(0, D, 2) / D))
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
