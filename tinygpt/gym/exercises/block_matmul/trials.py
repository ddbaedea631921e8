"""Trials of block-matmul: shapes around the tile, and every combination that a linear layer uses."""

import numpy as np

from tinygpt.gym.adapters import matmul_op
from tinygpt.gym.trials import kernel_trials, variants

adapt = matmul_op
TILE = 64
SIZES = (64, 32, 16, 8, 4, 48, 96, 128, 256)  # tiles that a learner may choose


def trials():
    """Return the cases, smallest first."""
    cases = {
        "1 x 1": {"M": 1, "N": 1, "K": 1},
        "2 x 3 times 3 x 2": {"M": 2, "N": 2, "K": 3},
        "no rows": {"M": 0, "N": 3, "K": 2},
        "nothing to sum: K is 0": {"M": 2, "N": 2, "K": 0},
        "one full tile": {"M": TILE, "N": TILE, "K": TILE},
        "two tiles in K": {"M": 3, "N": 5, "K": 2 * TILE},
        "one more than a tile in N": {"M": 3, "N": TILE + 1, "K": 5},
        "one more than a tile in M": {"M": TILE + 1, "N": 3, "K": 5},
        "one more than a tile in K": {"M": 3, "N": 5, "K": TILE + 1},
        "one less than a tile": {"M": TILE - 1, "N": TILE - 1, "K": TILE - 1},
        "no tile divides it": {"M": 71, "N": 101, "K": 97},
        "a long sum": {"M": 2, "N": 300, "K": 600},
        "many rows": {"M": 300, "N": 3, "K": 5},
        "with a bias, b transposed (a linear layer)": {"M": 9, "N": 12, "K": 70, "trans_b": True, "bias": True},
        "added to out, a transposed (a gradient)": {"M": 9, "N": 12, "K": 70, "trans_a": True, "accumulate": True},
    }
    return kernel_trials("matmul", matmul_op, cases)


def _whole(x, axis, size):
    """Cut an axis to whole tiles."""
    return x[: len(x) // size * size] if axis == 0 else x[:, : x.shape[1] // size * size]


def not_cleared(a, b, out):
    """The products were added to what out held before, and that is NaN.

    out is not 0 before the call. Set it to 0 before the first tile, or let the first step of the
    sum write instead of add.
    """
    out += a @ b


def only_the_last_tile(a, b, out, tile=TILE):
    """Only the last tile along K is in the result: it was written over the tiles before it.

    The sum over p is spread over several tiles, so every tile must add to out. Clear out once, outside the loops over
    tiles.
    """
    start = max(0, (a.shape[1] - 1) // tile * tile)
    np.matmul(a[:, start:], b[start:], out=out)


def last_term(a, b, out):
    """Only the last term of the sum over p is in the result.

    Use += in the inner loop; = keeps the last product only.
    """
    out[...] = a[:, -1:] * b[-1:] if a.shape[1] else 0


def lost_tail_of_k(a, b, out, tile=TILE):
    """The sum stops at the last whole tile of K.

    Run p to min(p0 + TILE, K), and start a tile for every p0 below K: range(0, K, TILE) does.
    """
    np.matmul(_whole(a, 1, tile), _whole(b, 0, tile), out=out)


def lost_columns(a, b, out, tile=TILE):
    """Columns behind the last whole tile of N were left out.

    Run j to min(j0 + TILE, N), and start a tile for every j0 below N.
    """
    out[...] = 0
    right = _whole(b, 1, tile)
    np.matmul(a, right, out=out[:, : right.shape[1]])


def lost_rows(a, b, out, tile=TILE):
    """Rows behind the last whole tile of M were left out.

    Run i to min(i0 + TILE, M), or do not tile i at all: a row of out is used with one tile of b at a time anyway.
    """
    out[...] = 0
    left = _whole(a, 0, tile)
    np.matmul(left, b, out=out[: len(left)])


def b_transposed(a, b, out):
    """b was read as if it were transposed.

    The sum runs down the rows of b: b[p, j] with p the index of the sum.
    """
    if a.shape[1] != b.shape[0] or b.shape[0] != b.shape[1]:
        np.matmul(a, b.reshape(b.shape[::-1]).T, out=out)
    else:
        np.matmul(a, b.T, out=out)


TAILS = (only_the_last_tile, lost_tail_of_k, lost_columns, lost_rows)
MISTAKES = (not_cleared, last_term, b_transposed, *(one for tail in TAILS for one in variants(tail, tile=SIZES)))
