"""Pack a matrix into slivers of some columns each."""

import numpy as np


def pack(b, width):
    """Return the slivers of b, one after the other.

    Parameters
    ----------
    b : array, shape (K, N), float32
        Only read it.
    width : int
        Columns of a sliver.

    Returns
    -------
    array, shape (slivers, K, width), float32
        C-contiguous; sliver s holds the columns from s * width on, and zeros behind column N.
    """
    # Your code.
    raise NotImplementedError
