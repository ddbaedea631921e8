"""Pack a matrix into slivers of some columns each."""

import numpy as np


def pack(b, width):
    """Return the slivers of b, one after the other."""
    rows, columns = b.shape
    slivers = -(-columns // width)
    panel = np.zeros((slivers, rows, width), np.float32)  # zeros fill up the last sliver
    for s in range(slivers):
        part = b[:, s * width : (s + 1) * width]
        panel[s, :, : part.shape[1]] = part
    return panel
