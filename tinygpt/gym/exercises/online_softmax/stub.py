"""Maximum and sum of exponentials of a row that arrives in blocks."""

import numpy as np


def max_and_sum(blocks):
    """Return the maximum of all scores and the sum of exp(score - maximum).

    Parameters
    ----------
    blocks : iterator of array, float32
        Parts of one row, none of them empty. It can be read only once.

    Returns
    -------
    top : float
        The maximum.
    total : float
        The sum of exp(score - top) over the row.
    """
    top, total = -np.inf, 0.0
    for block in blocks:
        # Your code.
        raise NotImplementedError
    return top, total
