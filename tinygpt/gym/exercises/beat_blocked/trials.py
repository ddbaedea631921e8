"""Trials of beat-blocked: the shapes of block-matmul, and edges of common micro-tiles."""

from tinygpt.gym.adapters import matmul_op
from tinygpt.gym.exercises.block_matmul import trials as tiles
from tinygpt.gym.trials import kernel_trials, variants

adapt = matmul_op


def trials():
    """Return the cases, smallest first."""
    edges = {
        f"{m} x {n}, a sum of {k}": {"M": m, "N": n, "K": k}
        for m, n, k in ((5, 31, 3), (6, 32, 3), (7, 33, 3), (4, 8, 255), (8, 16, 256), (9, 17, 257), (13, 49, 513))
    }
    return [*tiles.trials(), *kernel_trials("matmul", matmul_op, edges)]


SHARED = (tiles.not_cleared, tiles.last_term, tiles.b_transposed)
MISTAKES = (
    *SHARED,
    *(one for tail in tiles.TAILS for one in variants(tail, tile=(4, 6, 8, 12, 14, 16, 24, 32, 48, 64, 128, 256))),
)
