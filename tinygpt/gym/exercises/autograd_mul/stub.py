"""Multiply two arrays, and pass gradients back through the product."""

import numpy as np


def mul(a, b):
    """Return a * b and its backward function.

    Parameters
    ----------
    a, b : array
        Of shapes that broadcast together. Only read them.

    Returns
    -------
    out : array
        The product.
    backward : callable
        Takes dout, an array of the shape of out; returns da of the shape of a, and db of the shape of b.
    """

    def backward(dout):
        # Your code: the product rule, then undo the broadcasting.
        raise NotImplementedError

    return a * b, backward
