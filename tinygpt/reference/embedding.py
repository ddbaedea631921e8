"""Formulas of the embedding: rows looked up by token and by position."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tinygpt.reference.common import Array, f64


def embedding(tokens: ArrayLike, table: ArrayLike, positions: ArrayLike | None = None, start: int = 0) -> Array:
    """Look up rows: out[b T + t] = table[tokens[b, t]] + positions[start + t].

    Parameters
    ----------
    tokens : array of int, shape (B, T)
        Token ids in 0..V-1.
    table : array, shape (V, C)
        One row for each token of the vocabulary.
    positions : array, shape (P, C), optional
        One row for each position of the context.
    start : int
        Position of the first token in the context.

    Returns
    -------
    out : array, shape (B T, C)
    """
    tokens, table = np.asarray(tokens), f64(table)
    out = table[tokens]
    if positions is not None:
        out = out + f64(positions)[start : start + tokens.shape[1]]
    return out.reshape(tokens.size, table.shape[1])


def embedding_backward(dy: ArrayLike, tokens: ArrayLike, V: int, P: int = 0, start: int = 0) -> tuple[Array, Array]:
    """Compute the gradient of `embedding`: add every row of dy to the rows that were looked up.

        dtable[v] = sum of dy[b T + t] over tokens[b, t] = v          dpositions[start + t] = sum_b dy[b T + t]

    Parameters
    ----------
    dy : array, shape (B T, C)
    tokens : array of int, shape (B, T)
    V, P : int
        Number of rows of the table and of the positions. Kernels take these sizes from their output arrays instead.
    start : int
        Position of the first token in the context.

    Returns
    -------
    dtable : array, shape (V, C)
    dpositions : array, shape (P, C)
    """
    dy, tokens = f64(dy), np.asarray(tokens)
    length = tokens.shape[1]
    dtable, dpositions = np.zeros((V, dy.shape[1])), np.zeros((P, dy.shape[1]))
    np.add.at(dtable, tokens.ravel(), dy)
    if P:
        dpositions[start : start + length] = dy.reshape(*tokens.shape, dy.shape[1]).sum(axis=0)
    return dtable, dpositions
