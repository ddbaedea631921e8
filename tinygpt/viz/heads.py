"""Summaries of attention heads in five numbers, to find the heads worth opening."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# Name and explanation, in the order of the page's columns.
SUMMARIES = {
    "entropy": "Entropy of the weights, in bits: 0 is all weight on one token, 3 is equal weight on 8 tokens.",
    "distance": "Mean distance to the tokens attended to, in tokens.",
    "first": "Weight on the first token of the prompt. Heads with nothing to add often put their weight there.",
    "previous": "Weight on the token just before.",
    "induction": "Weight on tokens that came right after an earlier copy of the same token. Such a head can repeat "
    "an earlier sequence: after 'ab ... a' it attends to 'b'.",
}


def summaries(weights: npt.ArrayLike, ids: npt.ArrayLike) -> dict[str, np.ndarray]:
    """Compute summaries of attention maps, each a mean over the tokens after the first.

    Parameters
    ----------
    weights : array, shape (..., T, T)
        Row t holds the weights that token t gives to tokens 0 ... t; they sum to 1.
    ids : int array, shape (T,)
        Tokens of the prompt.

    Returns
    -------
    dict of float64 arrays, shape (...)
        One for each name in SUMMARIES. NaN if there is nothing to average: with a single token, and for induction if
        no token has an earlier copy.

    Notes
    -----
    The first token attends to itself alone and is left out. With w the row of token t:

        entropy    -sum_s w[s] log2 w[s]
        distance   sum_s w[s] (t - s)
        first      w[0]
        previous   w[t - 1]
        induction  sum of w[p + 1] over p + 1 < t with ids[p] = ids[t], over the tokens t that have such a p

    The last is the prefix-matching score of Olsson et al. 2022, "In-context Learning and Induction Heads", except that
    the weight of a token on itself does not count, as it would in a run of equal tokens.
    """
    w = np.asarray(weights, np.float64)
    tokens = np.asarray(ids)
    T = w.shape[-1]
    rows, place = w[..., 1:, :], np.arange(T)
    with np.errstate(divide="ignore"):
        bits = np.where(rows > 0, -rows * np.log2(np.where(rows > 0, rows, 1)), 0)
    after_copy = np.zeros((T, T), bool)
    after_copy[:, 1:] = tokens[:, None] == tokens[None, :-1]
    after_copy &= place[None, :] < place[:, None]
    has_copy = after_copy.any(1)
    return {
        "entropy": _mean(bits.sum(-1)),
        "distance": _mean((rows * (place[1:, None] - place[None])).sum(-1)),
        "first": _mean(rows[..., 0]),
        "previous": _mean(np.diagonal(w, -1, -2, -1)),
        "induction": _mean((w * after_copy).sum(-1)[..., has_copy]),
    }


def uniform(T: int) -> np.ndarray:
    """Return the map of uniform attention, the baseline that heads are compared with; (T, T), float64."""
    return np.tril(np.ones((T, T))) / np.arange(1, T + 1)[:, None]


def _mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis; NaN if it is empty."""
    return values.mean(-1) if values.shape[-1] else np.full(values.shape[:-1], np.nan)
