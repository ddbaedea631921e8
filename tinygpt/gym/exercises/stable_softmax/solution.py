"""Turn every row of scores into probabilities: subtract the maximum, so that no exponential can overflow."""

import numpy as np


def softmax(x, out):
    """Write the softmax of every row of x into out."""
    if x.size == 0:
        return
    np.subtract(x, x.max(axis=1, keepdims=True), out=out)
    np.exp(out, out=out)
    out /= out.sum(axis=1, keepdims=True)
