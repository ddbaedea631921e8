"""The KV cache: keys and values of earlier positions, kept during generation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tinygpt.config import GPTConfig
from tinygpt.ops.attention import Ragged


class KVCache:
    """Keys and values of all layers, so that decoding computes those of each position only once.

    Parameters
    ----------
    config : GPTConfig
    batch : int
        Number of sequences.
    """

    def __init__(self, config: GPTConfig, batch: int = 1):
        shape = (config.n_layer, batch, config.block_size, config.kv_heads, config.head_dim)
        self.k, self.v = np.empty(shape, np.float32), np.empty(shape, np.float32)
        self.rows, self.length = batch, 0

    def layer(self, index: int) -> LayerCache:
        """Return the part of one block."""
        return LayerCache(self, index)

    def advance(self, count: int) -> None:
        """Count the positions that all layers have appended."""
        self.length += count

    def last(self, x: np.ndarray) -> np.ndarray:
        """Select the last position of every sequence: (B, T, C) to (B, 1, C)."""
        return x[:, -1:]


class LayerCache:
    """The part of a KVCache that belongs to one block."""

    def __init__(self, cache: KVCache, index: int):
        self.cache, self.k, self.v = cache, cache.k[index], cache.v[index]

    def extend(self, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Append keys and values (B, T, G, D); return views of all so far, (B, S, G, D)."""
        start, stop = self.cache.length, self.cache.length + k.shape[1]
        self.k[:, start:stop], self.v[:, start:stop] = k, v
        return self.k[:, :stop], self.v[:, :stop]


class SequenceCache:
    """Keys and values of one sequence, in memory of its own.

    Parameters
    ----------
    config : GPTConfig
    capacity : int
        Largest number of positions.

    Attributes
    ----------
    k, v : float32 array, shape (n_layer, capacity, G, D)
    length : int
        Number of positions that have keys and values.
    """

    def __init__(self, config: GPTConfig, capacity: int):
        shape = (config.n_layer, capacity, config.kv_heads, config.head_dim)
        self.k, self.v = np.empty(shape, np.float32), np.empty(shape, np.float32)
        self.length = 0

    def copy_from(self, other: SequenceCache, length: int) -> None:
        """Take over the first `length` positions of another sequence."""
        self.k[:, :length], self.v[:, :length] = other.k[:, :length], other.v[:, :length]
        self.length = length


class Span(NamedTuple):
    """The next tokens of one sequence in a RaggedCache.

    Parameters
    ----------
    cache : SequenceCache
    tokens : int
        Number of tokens.
    weights : float32 array, shape (n_layer, 1, H, tokens, S), optional
        Output: attention probabilities.
    """

    cache: SequenceCache
    tokens: int
    weights: np.ndarray | None = None


class RaggedCache:
    """Caches of several sequences whose next tokens are joined into one row of a batch.

    Projections, norms and MLPs then run once for the tokens of all sequences. Only attention runs once per sequence,
    because sequences have different lengths.

    Parameters
    ----------
    spans : sequence of Span
        In the order of the tokens.
    padding : int
        Number of tokens after those of the spans. They belong to no sequence, and nothing depends on them.
    ends : int
        Smallest number of rows that `last` returns; the last end is repeated.

    Attributes
    ----------
    length : int array, shape (T,)
        Position of every token in its sequence, in place of the length of a KVCache.
    """

    rows = 1

    def __init__(self, spans: Sequence[Span], padding: int = 0, ends: int = 0):
        self.spans = spans
        starts = [np.arange(span.cache.length, span.cache.length + span.tokens) for span in spans]
        self.length = np.concatenate([*starts, np.zeros(padding, np.int64)])
        self.stops = np.cumsum([span.tokens for span in spans])
        missing = max(0, ends - len(spans))
        self._ends = np.append(self.stops, np.repeat(self.stops[-1:], missing)) - 1

    def layer(self, index: int) -> RaggedLayer:
        """Return the part of one block."""
        return RaggedLayer(self, index)

    def advance(self, count: int) -> None:
        """Count the positions that all layers have appended to every sequence."""
        for span in self.spans:
            span.cache.length += span.tokens

    def last(self, x: np.ndarray) -> np.ndarray:
        """Select the last position of every sequence: (1, T, C) to (1, number of spans or more, C)."""
        return np.take(x, self._ends, axis=1)


class RaggedLayer(Ragged):
    """The part of a RaggedCache that belongs to one block."""

    def __init__(self, cache: RaggedCache, index: int):
        self.cache, self.index = cache, index

    def parts(self, k: np.ndarray, v: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray, np.ndarray | None]]:
        """Append keys and values (1, T, G, D) to their sequences.

        Yields
        ------
        slice, array, array, array or None
            For every sequence: its tokens, all of its keys and values so far (1, S, G, D), and the output for its
            attention probabilities.
        """
        for span, stop in zip(self.cache.spans, self.cache.stops, strict=True):
            part, held = slice(int(stop) - span.tokens, int(stop)), span.cache
            end = held.length + span.tokens
            held.k[self.index, held.length : end], held.v[self.index, held.length : end] = k[0, part], v[0, part]
            weights = None if span.weights is None else span.weights[self.index]
            yield part, held.k[self.index, None, :end], held.v[self.index, None, :end], weights


def common_prefix(a: np.ndarray, b: np.ndarray) -> int:
    """Count the tokens that two texts have in common at their beginnings."""
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if different.size else n
