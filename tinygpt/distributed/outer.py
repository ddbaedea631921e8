"""Outer steps: ranks train alone for many steps, then average their weights (Douillard et al. 2023, DiLoCo).

    d = w - mean(w_r)         w: weights after the last outer step, w_r: those of rank r now
    b = mu b + d
    w = w - eta (d + mu b)    Nesterov momentum; every rank continues from w

With H steps between two outer steps, each rank sends 1/H of the bytes of synchronous training, and waits 1/H as often.
"""

from __future__ import annotations

import numpy as np

from tinygpt.distributed.communicator import Communicator


class OuterSteps:
    """Outer optimizer: SGD with Nesterov momentum on the average change of the weights.

    Parameters
    ----------
    comm : Communicator
    weights : float32 array, shape (n,)
        Weights of this rank, the same on all ranks now.
    momentum : float32 array, shape (n,)
        Buffer b, zeros at the start of a run.
    lr, mu : float
        Learning rate eta and momentum.
    """

    def __init__(self, comm: Communicator, weights: np.ndarray, momentum: np.ndarray, lr: float, mu: float):
        self.comm, self.weights, self.momentum = comm, weights, momentum
        self.lr, self.mu = np.float32(lr), np.float32(mu)
        self._before = weights.copy()

    def restart(self) -> None:
        """Take the present weights, which were just loaded, for those after the last outer step."""
        self._before[...] = self.weights

    def step(self) -> None:
        """Average the weights of all ranks and take one outer step."""
        self.comm.all_reduce(self.weights).wait()
        change = self._before - self.weights / np.float32(self.comm.size)
        self.momentum *= self.mu
        self.momentum += change
        self._before -= self.lr * (change + self.mu * self.momentum)
        self.weights[...] = self._before
