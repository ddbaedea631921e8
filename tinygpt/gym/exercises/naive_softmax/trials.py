"""Trials of naive-softmax: the cases of the softmax rungs with small scores."""

import numpy as np

from tinygpt.gym.adapters import loss_with_softmax, softmax_op
from tinygpt.gym.trials import kernel_trials

adapt = softmax_op
train_ops = loss_with_softmax


def trials():
    """Return the cases, smallest first."""
    cases = {
        "one row, scores 0 and 1": {"R": 1, "C": 2, "x": [[0, 1]]},
        "one row of equal scores": {"R": 1, "C": 4, "x": [[2, 2, 2, 2]]},
        "two rows of three": {"R": 2, "C": 3, "x": [[0, 1, 2], [1, 0, -1]]},
        "a single column": {"R": 3, "C": 1},
        "no rows at all": {"R": 0, "C": 5},
        "5 rows of 17 random scores": {"R": 5, "C": 17},
        "2 rows of 300": {"R": 2, "C": 300},
    }
    return kernel_trials("softmax", softmax_op, cases)


def sum_of_everything(x, out):
    """The exponentials were divided by the sum over the whole array instead of the sum of their own row.

    Every row is a distribution of its own. Set the total back to 0 at the start of each row; in NumPy, sum along axis 1
    with keepdims=True.
    """
    powers = np.exp(x)
    out[...] = powers / powers.sum()


def sum_of_columns(x, out):
    """The exponentials were summed down each column instead of along each row.

    In x[r, c] the row r stays fixed while c runs. In NumPy that is axis 1, or axis -1.
    """
    powers = np.exp(x)
    out[...] = powers / powers.sum(axis=0)


def running_total(x, out):
    """The total carries over from row to row: the first row is right, and later rows are too small.

    The line `total = 0` belongs inside the loop over rows.
    """
    powers = np.exp(x)
    out[...] = powers / np.cumsum(powers.sum(axis=1))[:, None]


def partial_total(x, out):
    """Each exponential was divided by the sum so far, before the row was complete: the first element of a row is 1.

    Two loops are needed, because the first quotient needs the last exponential: finish the sum, then divide.
    """
    powers = np.exp(x)
    out[...] = powers / np.cumsum(powers, axis=1)


def not_divided(x, out):
    """The exponentials are right, and they were not divided by their sum.

    A second loop over the row divides each of them by the total.
    """
    out[...] = np.exp(x)


def without_exp(x, out):
    """The scores themselves were divided by their sum, without exp.

    exp makes every score positive; without it, negative scores would become negative probabilities.
    """
    out[...] = x / x.sum(axis=1, keepdims=True)


def base_2(x, out):
    """The powers have base 2, and softmax has base e = 2.718.

    Use math.exp or np.exp.
    """
    powers = np.exp2(x)
    out[...] = powers / powers.sum(axis=1, keepdims=True)


MISTAKES = (sum_of_everything, sum_of_columns, running_total, partial_total, not_divided, without_exp, base_2)
