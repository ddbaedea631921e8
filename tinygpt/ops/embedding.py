"""Tokens to vectors."""

from __future__ import annotations

import numpy as np

from tinygpt import memory
from tinygpt.ops import calls
from tinygpt.ops.linear import Weight, refuse_gradients
from tinygpt.ops.shapes import expect
from tinygpt.packed import PackedWeight
from tinygpt.tensor import Tensor, traced


@traced
def embedding(tokens: np.ndarray, table: Weight, positions: Tensor | None = None, start: int = 0) -> Tensor:
    """Rows of `table` picked by `tokens`, plus rows of `positions` from `start` on.

    Parameters
    ----------
    tokens : int array, shape (B, T)
        In 0..V-1.
    table : Tensor or PackedWeight, shape (V, C); a packed one has no gradient
    positions : Tensor, shape (P, C), optional
    start : int
        Position of the first token; start + T <= P.

    Returns
    -------
    Tensor, shape (B, T, C)

    Raises
    ------
    TypeError
        Tokens are not integers.
    ValueError
        Shapes do not fit, or a position is past the table.
    IndexError
        A token is not in the table.

    Notes
    -----
    Every row of dy is added to the row of the table that it came from, in the order of (b, t); the gradient of a
    position is the sum over the batch.
    """
    expect("embedding", "table", table, (None, None))
    V, C = table.shape
    tokens = _checked(tokens, V)
    B, T = tokens.shape
    if positions is not None:
        expect("embedding", "positions", positions.data, (None, C))
        if not 0 <= start <= positions.shape[0] - T:
            raise ValueError(f"[embedding] 'start' + T must be at most {positions.shape[0]}, got {start} + {T}")
    out = memory.empty((B * T, C))
    p = None if positions is None else positions.data
    if isinstance(table, PackedWeight):
        refuse_gradients("embedding", positions)
        return Tensor.plain(_of_packed(tokens, table, p, start))
    calls.embedding(tokens, table=table.data, positions=p, start=start, out=out)

    def backward(dy: np.ndarray) -> None:
        if not table.requires_grad:
            dtable, add = np.empty(table.shape, np.float32), False
        else:
            dtable, add = table.grad_buffer()
        dpositions, add_positions = None, False
        if positions is not None and positions.requires_grad:
            dpositions, add_positions = positions.grad_buffer()
        calls.embedding_backward(
            dy.reshape(B * T, C), tokens=tokens, dtable=dtable, dpositions=dpositions, start=start,
            accumulate=add, accumulate_positions=add_positions,
        )  # fmt: skip

    return Tensor.from_op(out.reshape(B, T, C), (table, positions), backward)


def _of_packed(tokens: np.ndarray, table: PackedWeight, positions: np.ndarray | None, start: int) -> np.ndarray:
    """The same of a packed table, as a table of the rows that were asked for: (B, T, C)."""
    (B, T), C = tokens.shape, table.shape[1]
    ids, out = np.arange(B * T, dtype=np.int32).reshape(B, T), memory.empty((B * T, C))
    calls.embedding(ids, table=table.rows(tokens.reshape(-1)), positions=positions, start=start, out=out)
    return out.reshape(B, T, C)


def inside(tokens: np.ndarray, V: int) -> bool:
    """Whether all of at least one integer are in 0..V-1; a negative one is a very large unsigned one."""
    return int(tokens.view(f"u{tokens.itemsize}").max()) < V


def _checked(tokens: np.ndarray, V: int) -> np.ndarray:
    """`tokens` as int32 (B, T), all of them in 0..V-1."""
    tokens = np.asarray(tokens)
    if tokens.size and tokens.dtype.kind not in "iu":
        raise TypeError(f"[embedding] 'tokens' must be integers, got {tokens.dtype}")
    if tokens.ndim != 2:
        raise ValueError(f"[embedding] 'tokens' must have shape (B, T), got {tokens.shape}")
    if tokens.size and not inside(tokens, V):
        raise IndexError(f"[embedding] 'tokens' must be in 0..{V - 1}, got {tokens.min()}..{tokens.max()}")
    return np.ascontiguousarray(tokens, np.int32)  # after the check: nothing can wrap around
