"""Trials of online-softmax: a maximum that comes early or late, masked blocks, large scores, many blocks."""

import numpy as np

from tinygpt.gym.adapters import loss_with_softmax, softmax_of_blocks, softmax_op
from tinygpt.gym.trials import kernel_trials

WIDTH = 4  # columns of a block in the trials: small, so that a row that one can read has several
TIMED_WIDTH = 128  # where NumPy's calls are timed, a block must be worth a call
MASKED = [-np.inf] * WIDTH


def adapt(function):
    """Build the softmax op on the learner's function, with blocks that are worth a call."""
    return softmax_op(softmax_of_blocks(function, TIMED_WIDTH))


def _adapt_small(function):
    return softmax_op(softmax_of_blocks(function, WIDTH))


def train_ops(function):
    """Build the training loss on the softmax."""
    return loss_with_softmax(softmax_of_blocks(function, TIMED_WIDTH))


def trials():
    """Return the cases, simplest first."""
    cases = {
        "a single block": {"R": 1, "C": 4, "x": [[0, 1, 2, 3]]},
        "two blocks, the maximum in the first": {"R": 1, "C": 8, "x": [[3, 2, 1, 0, 0, 1, 1, 0]]},
        "two blocks, the maximum in the second": {"R": 1, "C": 8, "x": [[0, 1, 1, 0, 3, 2, 1, 0]]},
        "all scores are very negative": {"R": 1, "C": 8, "x": [[-1000, -1001, -999, -1000, -998, -1000, -1001, -999]]},
        "large scores that grow": {"R": 1, "C": 8, "x": [[1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007]]},
        "a second block far below the first": {"R": 1, "C": 8, "x": [[1000, 999, 998, 999, -1000, -999, -998, -999]]},
        "the second block is masked": {"R": 1, "C": 8, "x": [[1, 2, 3, 4, *MASKED]]},
        "the first block is masked": {"R": 1, "C": 8, "x": [[*MASKED, 1, 2, 3, 4]]},
        "a short last block": {"R": 3, "C": 13},
        "many blocks": {"R": 2, "C": 250},
    }
    return kernel_trials("softmax", _adapt_small, cases)


def _run(blocks, factor=lambda top, new: np.exp(top - new), start=-np.inf, skip=True):
    top, total = start, 0.0
    for block in blocks:
        new = max(top, float(block.max()))
        if skip and new == -np.inf:
            continue
        total = total * factor(top, new) + float(np.exp(block - np.float32(new)).sum())
        top = new
    return top, total


def not_rescaled(blocks):
    """The old sum was not corrected when the maximum grew: its terms are relative to a smaller maximum.

    Multiply the old sum by exp(old maximum - new maximum) before the new terms are added.
    """
    return _run(blocks, factor=lambda top, new: 1.0)


def wrong_way(blocks):
    """The old sum was multiplied by exp(new - old); it must be exp(old - new).

    A term exp(x - old) becomes exp(x - new) by the factor exp(old - new), which is at most 1 and cannot overflow.
    """
    return _run(blocks, factor=lambda top, new: np.exp(new - top) if top > -np.inf else 0.0)


def starts_at_0(blocks):
    """The running maximum starts at 0: if all scores are far below, all exponentials are 0, and 0 / 0 is NaN.

    Start at -inf: the first block then sets the maximum.
    """
    return _run(blocks, start=0.0)


def masked_block(blocks):
    """A first block of nothing but -inf makes NaN: -inf - (-inf) has no value.

    As long as the maximum is -inf, there is nothing to add: skip the block.
    """
    return _run(blocks, skip=False)


def last_block(blocks):
    """Only the last block is in the sum.

    Add to the total of the blocks before: total = total * factor + new terms.
    """
    return _run(blocks, factor=lambda top, new: 0.0)


def read_twice(blocks):
    """The iterator was read a second time, and then it is empty: the sum is 0.

    Everything must be done in one loop, and that is the point of the exercise: update the sum while you look for the
    maximum.
    """
    top = max(float(block.max()) for block in blocks)
    return top, sum(float(np.exp(block - np.float32(top)).sum()) for block in blocks)


def block_maximum(blocks):
    """Each block used its own maximum instead of the largest so far.

    new = max(top, block.max()): the running maximum never falls.
    """
    top, total = -np.inf, 0.0
    for block in blocks:
        new = float(block.max())
        if new == -np.inf:
            continue
        total = total * np.exp(top - new) + float(np.exp(block - np.float32(new)).sum())
        top = new
    return top, total


def without_maximum(blocks):
    """The exponentials were summed as they are, without subtracting the maximum.

    exp(1000) is inf. Subtract the running maximum before exp.
    """
    parts = list(blocks)
    return max(float(part.max()) for part in parts), sum(float(np.exp(part).sum()) for part in parts)


MISTAKES = (
    not_rescaled,
    wrong_way,
    starts_at_0,
    masked_block,
    last_block,
    read_twice,
    block_maximum,
    without_maximum,
)
