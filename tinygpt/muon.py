"""Muon: momentum whose matrix updates are made orthogonal (Jordan et al. 2024, "Muon: an optimizer for hidden layers").

A gradient of a weight matrix has a few large singular values, so that an update along it moves few directions. Muon
replaces all singular values of the momentum by about 1. Five steps of a Newton-Schulz iteration do this with matrix
products alone, no decomposition:

    X = M / ||M||        A = X X^T        X <- a X + (b A + c A A) X        (a, b, c) = (3.4445, -4.7750, 2.0315)

Design
- The coefficients are Jordan's. They drive singular values into 0.7..1.2 quickly instead of to exactly 1, which does
  not change how well the update works.
- An update is scaled by 0.2 sqrt(max(rows, columns)), so that its root mean square is about that of AdamW (Liu et al.
  2025, "Muon is scalable for LLM training"). Learning rate and weight decay of AdamW therefore fit both.
- Embeddings, the head and all vectors are updated by AdamW, as in the source.
- The momentum of a matrix takes the place of AdamW's first moment, so that state and checkpoints have the same form.
  The second moment of a matrix stays zero. Rejected: no memory for it, because the state is one array over the arena.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from tinygpt.nn import Parameter
from tinygpt.ops.product import product
from tinygpt.optim import AdamW, Run, _runs

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
SMALLEST = 1e-7  # added to the norm, so that a zero gradient gives a zero update
LIKE_ADAMW = 0.2  # root mean square of a usual update of AdamW, as a share of the learning rate


def orthogonal(matrix: np.ndarray) -> np.ndarray:
    """Move all singular values of a matrix close to 1, by five Newton-Schulz steps.

    Parameters
    ----------
    matrix : float32 array, shape (M, N)

    Returns
    -------
    float32 array, shape (M, N)
        Singular values in about 0.7..1.2, those near zero excepted.
    """
    a, b, c = (np.float32(value) for value in COEFFICIENTS)
    wide = matrix.shape[0] <= matrix.shape[1]  # the product X X^T is then the small one
    x = np.ascontiguousarray(matrix if wide else matrix.T)
    x = x / np.float32(math.sqrt(float(np.vdot(x, x))) + SMALLEST)
    for _ in range(ITERATIONS):
        gram = product(x, x, trans_b=True)
        polynomial = c * product(gram, gram)
        polynomial += b * gram
        x = product(polynomial, x, residual=a * x)
    return x if wide else np.ascontiguousarray(x.T)


class Muon(AdamW):
    """Orthogonalised momentum for matrices, AdamW for everything else.

    Parameters
    ----------
    parameters : iterable of Parameter
        All parameters to train.
    matrices : iterable of Parameter
        Those with two axes that get orthogonal updates: the layers of the blocks.
    lr : float
        Learning rate of both.
    betas, eps, weight_decay
        Of AdamW; the decay applies to the matrices too.
    momentum : float
        Factor of the previous momentum of a matrix, at least 0 and less than 1.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        matrices: Iterable[Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
    ):
        super().__init__(parameters, lr, betas, eps, weight_decay)
        if not 0 <= momentum < 1:
            raise ValueError(f"[Muon] 'momentum' must be at least 0 and less than 1, got {momentum}")
        self.momentum, self.matrices = momentum, list(matrices)
        own = {id(parameter) for parameter in self.matrices}
        if any(len(parameter.shape) != 2 for parameter in self.matrices):
            raise ValueError("[Muon] 'matrices' must have two axes each")
        if own - {id(parameter) for parameter in self.parameters}:
            raise ValueError("[Muon] 'matrices' must be among 'parameters'")
        self._rest = [parameter for parameter in self.parameters if id(parameter) not in own]

    def _runs(self, split_decay: bool) -> list[Run]:
        """Return what AdamW updates; for the gradient norm, which does not split by decay, everything."""
        return _runs(self._rest if split_decay else self.parameters, split_decay)

    def step(self, grad_scale: float = 1.0, within: Sequence[slice] | None = None) -> None:
        """Update every parameter that has a gradient, as `Optimizer.step` does.

        Parameters
        ----------
        grad_scale : float
        within : None
            A matrix must be updated as a whole, so that processes cannot divide the arena.
        """
        if within is not None:
            raise ValueError("[Muon] 'within' must be None: a matrix is updated as a whole")
        super().step(grad_scale)
        for parameter in self.matrices:
            if parameter.fresh and parameter.requires_grad:
                self._update_matrix(parameter, grad_scale)

    def _update_matrix(self, parameter: Parameter, grad_scale: float) -> None:
        """Compute M = mu M + g, and W = W (1 - lr decay) - lr scale orthogonal(g + mu M)."""
        slot = self.arena.grad[parameter.start : parameter.start + parameter.data.size].reshape(parameter.shape)
        grad = np.float32(grad_scale) * slot
        momentum, mu = self.state_of(parameter)["m"], np.float32(self.momentum)
        momentum *= mu
        momentum += grad
        update = orthogonal(grad + mu * momentum)
        weight = self.arena.data[parameter.start : parameter.start + parameter.data.size].reshape(parameter.shape)
        if parameter.decay:
            weight *= np.float32(1 - self.lr * self.weight_decay)
        weight -= np.float32(self.lr * LIKE_ADAMW * math.sqrt(max(parameter.shape))) * update
