"""What a head does, in a few numbers: a way to find the heads that are worth a look."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# Name -> what it is, in the words of the page. The order is that of the columns.
SUMMARIES = {
    "entropy": "How widely a token looks, in bits: 0 is a single token, 3 is as wide as 8 tokens alike.",
    "distance": "How far back a token looks, in tokens, on the mean.",
    "first": "Share of the weight on the very first token. Heads that have nothing to add often rest there.",
    "previous": "Share of the weight on the token just before.",
    "induction": "Share of the weight on tokens that came right after an earlier copy of the same token. A head that "
    "does this can repeat what it has seen: after 'ab ... a' it looks at 'b'.",
}


def summaries(weights: npt.ArrayLike, ids: npt.ArrayLike) -> dict[str, np.ndarray]:
    """Summaries of attention maps, each the mean over the tokens that have a choice.

    Parameters
    ----------
    weights : array, shape (..., T, T)
        Row t holds the weights that token t gives to tokens 0 ... t; they sum to 1.
    ids : int array, shape (T,)

    Returns
    -------
    dict of float64 arrays, shape (...)
        As SUMMARIES. NaN where nothing is to be averaged: of one token alone, and for induction where no token has an
        earlier copy.

    Notes
    -----
    The first token can only look at itself and is left out. With w the row of token t:

        entropy    -sum_s w[s] log2 w[s]
        distance   sum_s w[s] (t - s)
        first      w[0]
        previous   w[t - 1]
        induction  sum of w[p + 1] over p + 1 < t with ids[p] = ids[t], over the tokens t that have such a p

    The last is the prefix-matching score of Olsson et al. 2022, "In-context Learning and Induction Heads", except that
    a token's weight on itself does not count: in a run of equal tokens it would.
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


def even(T: int) -> np.ndarray:
    """The map of a head that looks at all it may see alike: what the others can be compared with. (T, T), float64."""
    return np.tril(np.ones((T, T))) / np.arange(1, T + 1)[:, None]


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean over the last axis; NaN if it is empty."""
    return values.mean(-1) if values.shape[-1] else np.full(values.shape[:-1], np.nan)
