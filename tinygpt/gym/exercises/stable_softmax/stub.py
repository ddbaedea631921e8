"""Turn every row of scores into probabilities, for scores of any size."""

import numpy as np


def softmax(x, out):
    """Write the softmax of every row of x into out.

    Parameters
    ----------
    x : array, shape (R, C), float32
        Scores, any finite number or -inf; every row has a finite one. Only read them.
    out : array, shape (R, C), float32
        Probabilities, to be written.
    """
    if x.size == 0:  # no rows: NumPy cannot take a maximum of nothing
        return
    # Your code: three lines of NumPy are enough.
    raise NotImplementedError
