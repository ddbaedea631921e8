"""Gradient of attention, for one head."""

import numpy as np


def attention_backward(dout, q, k, v, weights, scale):
    """Return the gradients of queries, keys and values.

    Parameters
    ----------
    dout : array, shape (T, D), float32
        Gradient of the output.
    q : array, shape (T, D), float32
    k, v : array, shape (S, D), float32
    weights : array, shape (T, S), float32
        Attention weights of the forward pass: each row adds up to 1; 0 where a key must not be seen.
    scale : float
        Factor of the scores.

    Returns
    -------
    dq : array, shape (T, D)
    dk, dv : array, shape (S, D)
    """
    # Your code: out = weights v first, then the softmax, then the scores.
    raise NotImplementedError
