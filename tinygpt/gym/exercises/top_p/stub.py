"""Draw a token from the most likely ones."""

import numpy as np


def top_p(probabilities, p, u):
    """Return the token that top-p sampling draws.

    Parameters
    ----------
    probabilities : array, shape (V,)
        Of every token; their sum is 1. Only read it.
    p : float
        Probability that the kept tokens must reach, more than 0 and at most 1.
    u : float
        Random number, at least 0 and less than 1.

    Returns
    -------
    int
        Number of the drawn token.
    """
    # Your code.
    raise NotImplementedError
