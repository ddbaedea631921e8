"""Token and position embeddings."""

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
    """Look up the rows of `table` at `tokens` and add rows of `positions`, beginning with row `start`.

    Parameters
    ----------
    tokens : int array, shape (B, T)
        Token ids in 0..V-1.
    table : Tensor or PackedWeight, shape (V, C)
        A packed table has no gradient.
    positions : Tensor, shape (P, C), optional
    start : int
        Position of the first token; start + T must be at most P.

    Returns
    -------
    Tensor, shape (B, T, C)

    Raises
    ------
    TypeError
        Tokens are not integers.
    ValueError
        Shapes do not match, or a position is outside `positions`.
    IndexError
        A token id is outside the table.

    Notes
    -----
    dtable[tokens[b, t]] += dy[b, t], in the order of (b, t); dpositions[start + t] is the sum of dy[b, t] over b.
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
    """Look up (B, T, C) in a packed table: unpack one row per token, then run the kernel on this small table."""
    (B, T), C = tokens.shape, table.shape[1]
    ids, out = np.arange(B * T, dtype=np.int32).reshape(B, T), memory.empty((B * T, C))
    calls.embedding(ids, table=table.rows(tokens.reshape(-1)), positions=positions, start=start, out=out)
    return out.reshape(B, T, C)


def inside(tokens: np.ndarray, V: int) -> bool:
    """Tell whether all integers are in 0..V-1, in one pass: viewed as unsigned, a negative one is very large."""
    return int(tokens.view(f"u{tokens.itemsize}").max()) < V


def _checked(tokens: np.ndarray, V: int) -> np.ndarray:
    """Return `tokens` as int32 (B, T), after checking that all are in 0..V-1."""
    tokens = np.asarray(tokens)
    if tokens.size and tokens.dtype.kind not in "iu":
        raise TypeError(f"[embedding] 'tokens' must be integers, got {tokens.dtype}")
    if tokens.ndim != 2:
        raise ValueError(f"[embedding] 'tokens' must have shape (B, T), got {tokens.shape}")
    if tokens.size and not inside(tokens, V):
        raise IndexError(f"[embedding] 'tokens' must be in 0..{V - 1}, got {tokens.min()}..{tokens.max()}")
    return np.ascontiguousarray(tokens, np.int32)  # after the check, so that no large value wraps around
