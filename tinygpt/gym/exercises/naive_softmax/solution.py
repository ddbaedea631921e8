"""Turn every row of scores into probabilities: exponentials and their sum, then a quotient."""

import math


def softmax(x, out):
    """Write exp(x[r, c]) / (sum of exp over row r) into out[r, c]."""
    rows, columns = x.shape
    for r in range(rows):
        total = 0.0  # a new sum for every row
        for c in range(columns):
            out[r, c] = math.exp(x[r, c])
            total += out[r, c]
        for c in range(columns):
            out[r, c] = out[r, c] / total
