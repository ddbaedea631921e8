"""Draw a token from the most likely ones."""

import numpy as np


def top_p(probabilities, p, u):
    """Return the token that top-p sampling draws."""
    order = np.argsort(-probabilities, kind="stable")
    sums = np.cumsum(probabilities[order])
    kept = 1 + np.searchsorted(sums, p)  # up to and including the first token whose sum reaches p
    sums = sums[: min(kept, len(sums))]
    return int(order[np.searchsorted(sums, u * sums[-1], side="right")])
