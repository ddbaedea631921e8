"""The KV cache: keys and values of earlier positions, kept during generation."""

from __future__ import annotations

import numpy as np

from tinygpt.config import GPTConfig


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
        self.length = 0

    def layer(self, index: int) -> LayerCache:
        """Return the part of one block."""
        return LayerCache(self, index)


class LayerCache:
    """The part of a KVCache that belongs to one block."""

    def __init__(self, cache: KVCache, index: int):
        self.cache, self.k, self.v = cache, cache.k[index], cache.v[index]

    def extend(self, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Append keys and values (B, T, G, D); return views of all so far, (B, S, G, D)."""
        start, stop = self.cache.length, self.cache.length + k.shape[1]
        self.k[:, start:stop], self.v[:, start:stop] = k, v
        return self.k[:, :stop], self.v[:, :stop]
