"""Multiply two arrays, and pass gradients back through the product."""

import numpy as np


def unbroadcast(gradient, shape):
    """Sum a gradient over the axes that broadcasting added or stretched, so that it has this shape."""
    while gradient.ndim > len(shape):
        gradient = gradient.sum(axis=0)
    for axis, length in enumerate(shape):
        if length == 1:
            gradient = gradient.sum(axis=axis, keepdims=True)
    return np.asarray(gradient)


def mul(a, b):
    """Return a * b and its backward function."""

    def backward(dout):
        return unbroadcast(dout * b, a.shape), unbroadcast(dout * a, b.shape)

    return a * b, backward
