"""Learn one merge of byte-pair encoding."""

from collections import Counter


def merge_step(tokens, new):
    """Replace the most frequent pair of neighbours by a new token.

    Parameters
    ----------
    tokens : list of int
        At least two. Only read it.
    new : int
        Number of the new token.

    Returns
    -------
    pair : tuple of two int
        The most frequent pair; of several, the smallest.
    merged : list of int
        The tokens after the merge, from left to right.
    """
    # Your code.
    raise NotImplementedError
