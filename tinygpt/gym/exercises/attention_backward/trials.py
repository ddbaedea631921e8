"""Trials of attention-backward: one token, a few, a cache, several heads of queries for one of keys."""

import numpy as np

from tinygpt.gym.adapters import attention_backward_op
from tinygpt.gym.trials import kernel_trials

adapt = attention_backward_op


def trials():
    """Return the cases, smallest first."""
    cases = {
        "one token: its weight is 1": {"B": 1, "T": 1, "H": 1, "D": 2},
        "two tokens": {"B": 1, "T": 2, "H": 1, "D": 2},
        "five tokens": {"B": 1, "T": 5, "H": 1, "D": 3},
        "two queries, four keys": {"B": 1, "T": 2, "S": 4, "H": 1, "D": 2},
        "two sequences, four heads, two of keys": {"B": 2, "T": 7, "S": 9, "H": 4, "G": 2, "D": 5},
        "33 tokens": {"B": 1, "T": 33, "H": 2, "D": 16},
    }
    hide = ("out", "lse")  # the learner gets the weights instead
    return kernel_trials("attention_backward", attention_backward_op, cases, hide=hide, one_head=True)


def _parts(dout, v, weights):
    """Return dweights, and the sum that the softmax subtracts."""
    dweights = dout @ v.T
    return dweights, (weights * dweights).sum(axis=1, keepdims=True)


def without_scale(dout, q, k, v, weights, scale):
    """dq and dk lack the factor scale.

    scores = scale q k^T, so scale is a factor of both gradients. dv has none, since v comes after the scores.
    """
    dweights, mean = _parts(dout, v, weights)
    dscores = weights * (dweights - mean)
    return dscores @ k, dscores.T @ q, weights.T @ dout


def scale_everywhere(dout, q, k, v, weights, scale):
    """dv has the factor scale, and it must not.

    scale belongs to the scores. v meets the weights, which come later.
    """
    dweights, mean = _parts(dout, v, weights)
    dscores = np.float32(scale) * weights * (dweights - mean)
    return dscores @ k, dscores.T @ q, np.float32(scale) * (weights.T @ dout)


def without_sum(dout, q, k, v, weights, scale):
    """The sum over the row is missing in the gradient of the softmax.

    A larger score takes weight away from all others of its row: subtract sum(weights * dweights) from dweights.
    """
    dscores = np.float32(scale) * weights * (dout @ v.T)
    return dscores @ k, dscores.T @ q, weights.T @ dout


def sum_of_column(dout, q, k, v, weights, scale):
    """The sum in the gradient of the softmax was taken over a column instead of a row.

    The softmax normalises over the keys of one query: axis 1 of (T, S), with keepdims=True.
    """
    dweights = dout @ v.T
    dscores = np.float32(scale) * weights * (dweights - (weights * dweights).sum(axis=0, keepdims=True))
    return dscores @ k, dscores.T @ q, weights.T @ dout


def sum_of_dweights(dout, q, k, v, weights, scale):
    """The sum in the gradient of the softmax is over dweights alone; it must be weighted by the weights.

    Subtract (weights * dweights).sum(axis=1, keepdims=True).
    """
    dweights = dout @ v.T
    dscores = np.float32(scale) * weights * (dweights - dweights.sum(axis=1, keepdims=True))
    return dscores @ k, dscores.T @ q, weights.T @ dout


def without_weights(dout, q, k, v, weights, scale):
    """The factor weights in front of the gradient of the softmax is missing.

    dscores = weights * (dweights - sum): a key with weight 0 gets no gradient.
    """
    dweights, mean = _parts(dout, v, weights)
    dscores = np.float32(scale) * (dweights - mean)
    return dscores @ k, dscores.T @ q, weights.T @ dout


def without_softmax(dout, q, k, v, weights, scale):
    """The softmax was left out: the gradient of the weights was used as that of the scores.

    Between scores and weights lies the softmax: dscores = weights * (dweights - sum(weights * dweights)).
    """
    dscores = np.float32(scale) * (dout @ v.T)
    return dscores @ k, dscores.T @ q, weights.T @ dout


def exchanged(dout, q, k, v, weights, scale):
    """q and k are exchanged in the last step.

    scores = q k^T: the gradient of q meets k, and the gradient of k meets q.
    """
    dweights, mean = _parts(dout, v, weights)
    dscores = np.float32(scale) * weights * (dweights - mean)
    return dscores @ q, dscores.T @ k, weights.T @ dout


def not_transposed(dout, q, k, v, weights, scale):
    """A transposition is missing: weights or dscores must be transposed for dv and dk.

    dv[s] adds up weights[t, s] dout[t] over t, which is weights.T @ dout. The same holds for dk.
    """
    dweights, mean = _parts(dout, v, weights)
    dscores = np.float32(scale) * weights * (dweights - mean)
    return dscores @ k, dscores @ q, weights @ dout


MISTAKES = (
    without_scale,
    scale_everywhere,
    without_sum,
    sum_of_column,
    sum_of_dweights,
    without_weights,
    without_softmax,
    exchanged,
    not_transposed,
)
