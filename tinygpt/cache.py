"""Keys and values that generation keeps."""

from __future__ import annotations

import numpy as np

from tinygpt.config import GPTConfig


class KVCache:
    """Keys and values of the positions that a model has seen, so that each is computed once.

    Parameters
    ----------
    config : GPTConfig
    batch : int
    """

    def __init__(self, config: GPTConfig, batch: int = 1):
        shape = (config.n_layer, batch, config.block_size, config.kv_heads, config.head_dim)
        self.k, self.v = np.empty(shape, np.float32), np.empty(shape, np.float32)
        self.length = 0

    def layer(self, index: int) -> LayerCache:
        """The part that belongs to one block."""
        return LayerCache(self, index)


class LayerCache:
    """One block's view of a KVCache."""

    def __init__(self, cache: KVCache, index: int):
        self.cache, self.k, self.v = cache, cache.k[index], cache.v[index]

    def extend(self, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Add keys and values (B, T, G, D) after those of earlier positions; returns views of all so far."""
        start, stop = self.cache.length, self.cache.length + k.shape[1]
        self.k[:, start:stop], self.v[:, start:stop] = k, v
        return self.k[:, :stop], self.v[:, :stop]
