"""Attention of one head. Two bugs are hidden in this function."""

import numpy as np


def attention(q, k, v, scale):
    """Average the values by how well the keys match each query.

    Parameters
    ----------
    q : array, shape (T, D), float32
        Queries of the last T positions. Only read them.
    k, v : array, shape (S, D), float32
        Keys and values of all S positions; S is at least T. Only read them.
    scale : float
        Factor of the scores.

    Returns
    -------
    array, shape (T, D), float32
    """
    scores = np.float32(scale) * (q @ k.T)
    visible = np.tril(np.ones(scores.shape, dtype=bool))
    scores = np.where(visible, scores, np.float32(-np.inf))
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights = powers / powers.sum(axis=0)
    return weights @ v
