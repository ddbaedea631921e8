"""Trials of pack-panel: widths that divide the matrix, and widths that do not."""

import numpy as np

from tinygpt.gym.adapters import matmul_of_panels, matmul_op
from tinygpt.gym.trials import ValueTrial, Wrong

WIDTH = 16  # columns of a sliver in training


def train_ops(function):
    """Build the product of training on the learner's panels."""
    return {"matmul": matmul_op(matmul_of_panels(function, WIDTH))}


def contiguous(function, b, width):
    """Call the learner's function, and hold its result to the order in memory."""
    panel = function(b, width)
    if isinstance(panel, np.ndarray):
        if panel.ndim == 3 and not panel.flags.c_contiguous:
            raise Wrong("the result must be C-contiguous: np.ascontiguousarray copies its elements into this order")
        if panel.dtype != np.float32:
            raise Wrong(f"the result must be float32, got {panel.dtype}")
        if np.shares_memory(panel, b):
            raise Wrong("the result must be a new array, and it shares the memory of b")
    return panel


def _trial(title, rows, columns, width):
    b = np.arange(1, rows * columns + 1, dtype=np.float32).reshape(rows, columns)
    panel = np.zeros((-(-columns // width), rows, width), np.float32)
    for j in range(columns):
        panel[j // width, :, j % width] = b[:, j]
    return ValueTrial(title, {"b": b, "width": width}, panel, 0.0, contiguous)


def trials():
    """Return the cases, smallest first."""
    return [
        _trial("one sliver", 2, 2, 2),
        _trial("two slivers", 2, 4, 2),
        _trial("the last sliver is half empty", 2, 5, 2),
        _trial("one row", 1, 6, 4),
        _trial("b is narrower than a sliver", 3, 2, 4),
        _trial("slivers of one column", 2, 3, 1),
        _trial("no columns", 2, 0, 4),
        _trial("a panel of a real product", 64, 100, 16),
    ]


def _padded(b, width):
    return np.pad(b, ((0, 0), (0, -b.shape[1] % width)))


def rows_in_order(b, width):
    """The elements are in the order of b: reshaping alone does not bring the columns of a sliver together.

    Reshape to (K, slivers, width) first, and then exchange the first two axes.
    """
    return _padded(b, width).reshape(-1, b.shape[0], width).copy()


def without_the_rest(b, width):
    """The last, narrower sliver is missing.

    The number of slivers is N / width rounded up: -(-N // width).
    """
    whole = b.shape[1] // width
    return b[:, : whole * width].reshape(b.shape[0], whole, width).transpose(1, 0, 2).copy()


def one_sliver_too_many(b, width):
    """There is a sliver too many where width divides N: it holds zeros only.

    N // width + 1 rounds up too far. Use -(-N // width).
    """
    wide = np.pad(b, ((0, 0), (0, width - b.shape[1] % width)))
    return np.ascontiguousarray(wide.reshape(b.shape[0], -1, width).transpose(1, 0, 2))


def not_exchanged(b, width):
    """The axes are (K, slivers, width), and they must be (slivers, K, width).

    Exchange the first two with transpose(1, 0, 2), then make the result contiguous.
    """
    return _padded(b, width).reshape(b.shape[0], -1, width).copy()


def a_view(b, width):
    """The shape and the values are right, but the elements are still where they were in memory.

    transpose makes a view. np.ascontiguousarray copies it into the new order.
    """
    return _padded(b, width).reshape(b.shape[0], -1, width).transpose(1, 0, 2)


def columns_first(b, width):
    """Each sliver is stored column after column, and it must be row after row.

    The micro-kernel needs the elements of one row p beside each other: the last axis is the column.
    """
    slivers = _padded(b, width).reshape(b.shape[0], -1, width).transpose(1, 2, 0)
    return np.ascontiguousarray(slivers).reshape(slivers.shape[0], b.shape[0], width)


def empty_rest(b, width):
    """The rest of the last sliver holds the last column of b again, instead of zeros.

    The micro-kernel computes with these elements. Only zeros do no harm.
    """
    wide = np.pad(b, ((0, 0), (0, -b.shape[1] % width)), mode="edge") if b.shape[1] else b
    return np.ascontiguousarray(wide.reshape(b.shape[0], -1, width).transpose(1, 0, 2))


MISTAKES = (
    rows_in_order,
    without_the_rest,
    one_sliver_too_many,
    not_exchanged,
    a_view,
    columns_first,
    empty_rest,
)
