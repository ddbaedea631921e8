"""Maximum and sum of exponentials of a row that arrives in blocks."""

import numpy as np


def max_and_sum(blocks):
    """Return the maximum of all scores and the sum of exp(score - maximum)."""
    top, total = -np.inf, 0.0
    for block in blocks:
        new = max(top, float(block.max()))
        if new == -np.inf:
            continue  # only masked scores so far
        # exp(top - new) is at most 1, and 0 for the first block, whose top is -inf.
        total = total * np.exp(top - new) + float(np.exp(block - np.float32(new)).sum())
        top = new
    return top, total
