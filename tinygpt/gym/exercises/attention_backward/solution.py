"""Gradient of attention, for one head."""

import numpy as np


def attention_backward(dout, q, k, v, weights, scale):
    """Return the gradients of queries, keys and values."""
    dv = weights.T @ dout  # out = weights v
    dweights = dout @ v.T
    dscores = weights * (dweights - (weights * dweights).sum(axis=1, keepdims=True))  # softmax, row by row
    dscores *= np.float32(scale)  # scores = scale q k^T
    return dscores @ k, dscores.T @ q, dv
