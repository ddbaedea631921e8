"""Moving average of the weights (EMA): evaluated and saved in place of the weights, which training continues from.

    a <- a + (1 - d) (w - a)        d = min(decay, (1 + t) / (10 + t)), so that the first weights are soon forgotten

A learning rate that is still high makes the weights wander around a good place. Their average lies nearer to it. It is
kept beside the optimizer's state, so that checkpoints contain it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from tinygpt.optim import Optimizer

NAME = "ema"  # of the array in the optimizer's state
CHUNK = 2**16  # values updated at once: 256 KiB, so that differences stay in the cache


class Average:
    """Moving average of an optimizer's weights; without a decay it does nothing.

    Parameters
    ----------
    optimizer : Optimizer
        Its state receives the average.
    decay : float or None
        At least 0 and less than 1. None: no average.
    """

    def __init__(self, optimizer: Optimizer, decay: float | None):
        self.optimizer, self.decay = optimizer, decay
        if decay is not None:
            optimizer.state[NAME] = optimizer.arena.data.copy()

    def update(self) -> None:
        """Take the weights after an update into account."""
        if self.decay is None:
            return
        t = self.optimizer.steps
        share = np.float32(1 - min(self.decay, (1 + t) / (10 + t)))
        for average, weights in self._chunks():
            average += share * (weights - average)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Context in which the model has the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for average, weights in self._chunks() if self.decay is not None else ():
            held = weights.copy()
            weights[...] = average
            average[...] = held

    def _chunks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the same parts of the average and of the weights."""
        average, weights = self.optimizer.state[NAME], self.optimizer.arena.data
        for start in range(0, len(weights), CHUNK):
            yield average[start : start + CHUNK], weights[start : start + CHUNK]
