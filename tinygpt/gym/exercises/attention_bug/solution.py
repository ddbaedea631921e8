"""Attention of one head, with both bugs fixed."""

import numpy as np


def attention(q, k, v, scale):
    """Average the values by how well the keys match each query."""
    scores = np.float32(scale) * (q @ k.T)
    length, size = scores.shape
    visible = np.tril(np.ones((length, size), dtype=bool), k=size - length)  # query t is at position S - T + t
    scores = np.where(visible, scores, np.float32(-np.inf))
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights = powers / powers.sum(axis=1, keepdims=True)  # over the keys
    return weights @ v
