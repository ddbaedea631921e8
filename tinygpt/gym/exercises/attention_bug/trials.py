"""Trials of attention-bug: one token, a few, more keys than queries, several heads."""

import numpy as np

from tinygpt.gym.adapters import attention_op
from tinygpt.gym.trials import kernel_trials

adapt = attention_op


def trials():
    """Return the cases, smallest first."""
    cases = {
        "one token": {"B": 1, "T": 1, "H": 1, "D": 2},
        "two tokens": {"B": 1, "T": 2, "H": 1, "D": 2},
        "five tokens": {"B": 1, "T": 5, "H": 1, "D": 3},
        "one query, three keys (generation with a cache)": {"B": 1, "T": 1, "S": 3, "H": 1, "D": 2},
        "two queries, four keys": {"B": 1, "T": 2, "S": 4, "H": 1, "D": 2},
        "large scores": {"B": 1, "T": 4, "H": 1, "D": 4, "size": 50.0},
        "two sequences, four heads, two of keys": {"B": 2, "T": 7, "S": 9, "H": 4, "G": 2, "D": 5},
    }
    return kernel_trials("attention", attention_op, cases, hide=("lse",), one_head=True)


def _attention(q, k, v, scale, diagonal=None, axis=1, upper=False):
    scores = np.float32(scale) * (q @ k.T)
    length, size = scores.shape
    diagonal = size - length if diagonal is None else diagonal
    ones = np.ones((length, size), dtype=bool)
    visible = np.triu(ones, diagonal) if upper else np.tril(ones, diagonal)
    scores = np.where(visible, scores, np.float32(-np.inf))
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=axis, keepdims=True)) @ v


def as_given(q, k, v, scale):
    """The function still computes what it did at the start: both bugs are in it.

    Take the case above, compute the two weights of the second query by hand, and compare with what the code does.
    """
    return _attention(q, k, v, scale, diagonal=0, axis=0)


def one_left_over_keys(q, k, v, scale):
    """One bug is fixed, since the cases with as many keys as queries are right. The other one is about the cache.

    Which keys may the first query see if there are three keys and one query? It belongs to the last position.
    """
    return _attention(q, k, v, scale, diagonal=0)


def one_left_in_weights(q, k, v, scale):
    """One bug is fixed, and the weights of a query still do not add up to 1.

    Print weights.sum(axis=1): it must be 1 for every query.
    """
    return _attention(q, k, v, scale, axis=0)


def without_mask(q, k, v, scale):
    """Tokens see later ones: nothing is masked.

    The model would learn to copy the next token, and could not generate. Keep a mask; only its diagonal must move.
    """
    return _attention(q, k, v, scale, diagonal=k.shape[0])


def mask_upside_down(q, k, v, scale):
    """The mask is upside down: a token sees itself and later ones.

    np.tril keeps what is below the diagonal, np.triu what is above it.
    """
    return _attention(q, k, v, scale, upper=True)


def wrong_way(q, k, v, scale):
    """The diagonal of the mask was moved the wrong way.

    A query late in the sequence sees more keys, so the diagonal moves to the right: k = S - T is positive.
    """
    return _attention(q, k, v, scale, diagonal=q.shape[0] - k.shape[0])


def one_too_few(q, k, v, scale):
    """A token does not see itself: the diagonal of the mask is one too far to the left.

    Query t is at position S - T + t and sees the keys up to and including it.
    """
    return _attention(q, k, v, scale, diagonal=k.shape[0] - q.shape[0] - 1)


def one_too_many(q, k, v, scale):
    """Each token sees one token too many: the diagonal of the mask is one too far to the right.

    Query t is at position S - T + t and sees the keys up to and including it, and no later one.
    """
    return _attention(q, k, v, scale, diagonal=k.shape[0] - q.shape[0] + 1)


def without_scale(q, k, v, scale):
    """The scores are not multiplied by scale.

    The scale was right at the start. Put it back.
    """
    return _attention(q, k, v, 1.0)


MISTAKES = (
    as_given,
    one_left_over_keys,
    one_left_in_weights,
    without_mask,
    mask_upside_down,
    wrong_way,
    one_too_few,
    one_too_many,
    without_scale,
)
