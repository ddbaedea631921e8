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
    """What a dropout mask is drawn from: the same key gives the same mask, however sequences are batched.

    Attributes
    ----------
    seed, step : int
        Of the run, and of the optimizer within it.
    sequence : int
        Global index of the first sequence of the batch within its step.
    """

    seed: int
    step: int
    sequence: int = 0

    @property
    def bits(self) -> int:
        """Seed and step in 64 bits, which the kernel's generator mixes.

        The odd factor keeps seeds of any size apart: two of them share a key only at steps that lie far apart.
        """
        return (int(self.seed) * 0x9E3779B97F4A7C15 + int(self.step)) % 2**64  # NumPy's integers would overflow


def add(a: Tensor, b: Tensor) -> Tensor:
    """a + b; the operator of `Tensor` has the code.

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
    """residual + x keep / (1 - rate), keep = 1 with probability 1 - rate (Srivastava et al. 2014).

    Parameters
    ----------
    x : Tensor, shape (B, T, C)
    rate : float
        At least 0 and less than 1.
    key : DropoutKey
    site : int
        Number of this place in the model: every place has masks of its own.
    residual : Tensor, shape (B, T, C), optional

    Returns
    -------
    Tensor, shape (B, T, C)

    Notes
    -----
    The mask is drawn again in backward instead of being kept: dx = dy keep / (1 - rate).
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
