"""Learn one merge of byte-pair encoding."""

from collections import Counter
from itertools import pairwise


def merge_step(tokens, new):
    """Replace the most frequent pair of neighbours by a new token."""
    counts = Counter(pairwise(tokens))
    best = min(counts, key=lambda pair: (-counts[pair], pair))
    merged, i = [], 0
    while i < len(tokens):
        if tuple(tokens[i : i + 2]) == best:
            merged.append(new)
            i += 2  # both tokens are used
        else:
            merged.append(tokens[i])
            i += 1
    return best, merged
