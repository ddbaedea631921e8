"""Addition and dropout."""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import numpy as np

from tinygpt import memory
from tinygpt.ops import calls
from tinygpt.ops.shapes import expect
from tinygpt.tensor import Tensor, traced


class DropoutKey(NamedTuple):
    """Key of the random generator for dropout masks; a sequence gets the same mask in any batch.

    Attributes
    ----------
    seed : int
        Seed of the run.
    step : int
        Optimizer step.
    sequence : int
        Index of the first sequence of this batch among all sequences of the step.
    """

    seed: int
    step: int
    sequence: int = 0

    @property
    def bits(self) -> int:
        """Seed and step in 64 bits, the input of the kernel's generator.

        The odd factor separates seeds of any size: two seeds share a key only at steps that are far apart.
        """
        return (
            int(self.seed) * 0x9E3779B97F4A7C15 + int(self.step)
        ) % 2**64  # int(), because NumPy integers would overflow


def add(a: Tensor, b: Tensor) -> Tensor:
    """Add two tensors of the same shape; `Tensor` implements it as an operator.

    Parameters
    ----------
    a, b : Tensor, one shape

    Returns
    -------
    Tensor, the same shape
    """
    return a + b


@traced
def dropout(x: Tensor, rate: float, key: DropoutKey, site: int, residual: Tensor | None = None) -> Tensor:
    """Compute residual + x keep / (1 - rate), keep = 1 with probability 1 - rate (Srivastava et al. 2014).

    Parameters
    ----------
    x : Tensor, shape (B, T, C)
    rate : float
        Probability of dropping an element, at least 0 and less than 1.
    key : DropoutKey
    site : int
        Number of the dropout layer in the model, so that each layer draws different masks.
    residual : Tensor, shape (B, T, C), optional

    Returns
    -------
    Tensor, shape (B, T, C)

    Notes
    -----
    dx = dy keep / (1 - rate). Backward draws the mask again, so that no memory holds it.
    """
    expect("dropout", "x", x.data, (None, None, None))
    if not 0 <= rate < 1:
        raise ValueError(f"[dropout] 'rate' must be at least 0 and less than 1, got {rate}")
    if residual is not None:
        expect("dropout", "residual", residual.data, x.shape)
    B, T, C = x.shape
    flat = (math.prod((B, T)), C)
    masked = partial(calls.dropout, rate=rate, key=key.bits, site=site, sequence=key.sequence, T=T)
    out, r = memory.empty(flat), None if residual is None else residual.data.reshape(flat)
    masked(x.data.reshape(flat), residual=r, out=out)

    def backward(dy: np.ndarray) -> None:
        if residual is not None:
            residual.receive(dy)
        if x.requires_grad:
            dx = memory.empty(flat)
            masked(dy.reshape(flat), residual=None, out=dx)
            x.receive(dx.reshape(x.shape))

    return Tensor.from_op(out.reshape(x.shape), (x, residual), backward)
