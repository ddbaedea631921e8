"""Trials of stable-softmax: large, very negative and masked scores, then random ones of many sizes."""

import math

import numpy as np

from tinygpt.gym.adapters import loss_with_softmax, softmax_op
from tinygpt.gym.trials import kernel_trials

adapt = softmax_op
train_ops = loss_with_softmax


def trials():
    """Return the cases, smallest first."""
    masked = [[1, -np.inf, 2], [-np.inf, 0, -np.inf]]
    cases = {
        "one row, scores 0 and 1": {"R": 1, "C": 2, "x": [[0, 1]]},
        "two rows of three": {"R": 2, "C": 3, "x": [[0, 1, 2], [1, 0, -1]]},
        "large scores": {"R": 1, "C": 2, "x": [[1000, 1001]]},
        "very negative scores": {"R": 1, "C": 2, "x": [[-1000, -1001]]},
        "one row large, one very negative": {"R": 2, "C": 2, "x": [[1000, 1001], [-1000, -1001]]},
        "one score far below the others": {"R": 1, "C": 3, "x": [[0, 1, -100]]},
        "masked scores": {"R": 2, "C": 3, "x": masked},
        "no rows at all": {"R": 0, "C": 5},
        "7 rows of 33 random scores": {"R": 7, "C": 33},
        "3 rows of 1000": {"R": 3, "C": 1000},
    }
    return kernel_trials("softmax", softmax_op, cases)


def overflowing(x, out):
    """exp overflows: exp(1000) is inf in floating point, and inf / inf is NaN.

    Subtract a number from every score of the row before exp. It cancels in the quotient.
    """
    powers = np.exp(x)
    out[...] = powers / powers.sum(axis=1, keepdims=True)


def overflowing_scalar(x, out):
    """math.exp raises OverflowError for scores above 709.

    Subtract a number from every score of the row before exp. It cancels in the quotient.
    """
    for r in range(len(x)):
        powers = [math.exp(score) for score in x[r]]
        out[r] = np.array(powers) / sum(powers)


def one_maximum(x, out):
    """The maximum of the whole array was subtracted: rows far below it underflow to 0 / 0, which is NaN.

    Take one maximum per row: axis=1, with keepdims=True so that it broadcasts.
    """
    powers = np.exp(x - x.max())
    out[...] = powers / powers.sum(axis=1, keepdims=True)


def minimum(x, out):
    """The minimum of the row was subtracted, so that the largest exponent is still large; a minimum of -inf gives NaN.

    After the subtraction no exponent may be above 0, so subtract the largest score.
    """
    powers = np.exp(x - x.min(axis=1, keepdims=True))
    out[...] = powers / powers.sum(axis=1, keepdims=True)


def mean(x, out):
    """The mean of the row was subtracted: with one score of -inf the mean is -inf, and -inf - (-inf) is NaN.

    The maximum is the number to subtract: it is finite whenever one score is.
    """
    powers = np.exp(x - x.mean(axis=1, keepdims=True))
    out[...] = powers / powers.sum(axis=1, keepdims=True)


def sum_of_columns(x, out):
    """The exponentials were summed down each column instead of along each row.

    Sum along axis 1, with keepdims=True so that the sums broadcast against the rows.
    """
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    out[...] = powers / powers.sum(axis=0)


def sum_before_shift(x, out):
    """The denominator is the sum of exp(x) and the numerator is exp(x - max): the maximum was subtracted once only.

    Use the shifted scores in both: compute exp(x - max) once, then divide it by its own sum.
    """
    out[...] = np.exp(x - x.max(axis=1, keepdims=True)) / np.exp(x).sum(axis=1, keepdims=True)


def epsilon(x, out):
    """A small constant was added to the sum, so that every probability is a little too small.

    After the maximum is subtracted one term of the sum is exp(0) = 1, so it can never be 0: no constant is needed.
    """
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    out[...] = powers / (powers.sum(axis=1, keepdims=True) + np.float32(1e-5))


def clipped(x, out):
    """Scores were clipped before exp, so that different large scores became equal.

    Clipping hides the overflow and changes the result. Subtracting the maximum is exact.
    """
    powers = np.exp(np.clip(x, -80, 80))
    out[...] = powers / powers.sum(axis=1, keepdims=True)


MISTAKES = (overflowing, overflowing_scalar, one_maximum, minimum, mean, sum_of_columns, sum_before_shift, epsilon,
            clipped)  # fmt: skip
