"""Optimizers, gradient clipping and learning-rate schedules.

A step is one pass over the arena: neighbouring parameters with the same settings are updated by one kernel call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from tinygpt.kernels.registry import active
from tinygpt.kernels.spec import WORK
from tinygpt.kernels.threads import for_work
from tinygpt.nn import ALIGN, Parameter
from tinygpt.ops import calls

Schedule = Callable[[int], float]
Run = tuple[Parameter, slice]


def _runs(parameters: Iterable[Parameter], split_decay: bool = True) -> list[Run]:
    """Return slices of the arena that can be updated as one array: parameters that have a gradient.

    Parameters start at multiples of ALIGN. The gaps between them are zero in values, gradients and state, and a zero
    gradient leaves them zero.
    """
    return _joined([p for p in parameters if p.fresh and p.requires_grad], split_decay)


def _joined(parameters: list[Parameter], split_decay: bool) -> list[Run]:
    """Merge neighbouring parameters into slices of the arena."""
    runs: list[Run] = []
    for parameter in sorted(parameters, key=lambda p: (id(p.arena), p.start)):
        start, stop = parameter.start, parameter.start + parameter.data.size
        if runs:
            first, held = runs[-1]
            same = first.arena is parameter.arena and (not split_decay or first.decay == parameter.decay)
            if same and -(-held.stop // ALIGN) * ALIGN == start:
                runs[-1] = (first, slice(held.start, stop))
                continue
        runs.append((parameter, slice(start, stop)))
    return runs


def _within(runs: list[Run], parts: Sequence[slice] | None) -> list[Run]:
    """Cut runs to the given parts of the arena."""
    if parts is None:
        return runs
    cut = [
        (first, slice(max(run.start, part.start), min(run.stop, part.stop))) for first, run in runs for part in parts
    ]
    return [(first, part) for first, part in cut if part.start < part.stop]


def grad_norm(parameters: Iterable[Parameter]) -> float:
    """Compute the Euclidean norm of all gradients together; parameters without a gradient count as zero.

    Parameters
    ----------
    parameters : iterable of Parameter

    Returns
    -------
    float
    """
    return _norm(_runs(parameters, split_decay=False))


def _norm(runs: list[Run]) -> float:
    total = 0.0
    for first, part in runs:
        grad = first.arena.grad[part]
        total += active.squared_norm(grad, for_work(WORK["squared_norm"] * grad.size))
    return math.sqrt(total)


def clip_scale(norm: float, max_norm: float) -> float:
    """Return the factor, at most 1, that clips a gradient of length `norm` to `max_norm` (Pascanu et al. 2013)."""
    return min(1.0, max_norm / (norm + 1e-6))


def clip_grad_norm(parameters: Iterable[Parameter], max_norm: float) -> float:
    """Scale all gradients so that their joint norm is at most `max_norm`.

    Parameters
    ----------
    parameters : iterable of Parameter
    max_norm : float
        Upper bound of the norm; positive.

    Returns
    -------
    float
        Norm before clipping. If it is not finite, the gradients are left unchanged.
    """
    if not max_norm > 0:
        raise ValueError(f"[clip_grad_norm] 'max_norm' must be positive, got {max_norm}")
    parameters = list(parameters)
    norm = grad_norm(parameters)
    scale = clip_scale(norm, max_norm)
    if scale < 1 and math.isfinite(norm):
        for first, part in _runs(parameters, split_decay=False):
            first.arena.grad[part] *= np.float32(scale)
    return norm


class Optimizer:
    """Base class of optimizers: parameters, learning rate, number of steps, state.

    Parameters
    ----------
    parameters : iterable of Parameter
        Parameters of one initialised module.
    lr : float
        Learning rate; may be changed between steps.
    """

    state_names: tuple[str, ...] = ()

    def __init__(self, parameters: Iterable[Parameter], lr: float):
        self.parameters = list(parameters)
        self.lr = lr
        self.steps = 0
        name = type(self).__name__
        if not self.parameters:
            raise ValueError(f"[{name}] 'parameters' must not be empty")
        if any(not isinstance(p, Parameter) or not p.placed for p in self.parameters):
            raise ValueError(f"[{name}] 'parameters' must be those of an initialised module")
        if len({id(p) for p in self.parameters}) < len(self.parameters):
            raise ValueError(f"[{name}] 'parameters' must name every parameter once")
        if len({id(p.arena) for p in self.parameters}) > 1:
            raise ValueError(f"[{name}] 'parameters' must belong to one module")
        if not (math.isfinite(lr) and lr >= 0):
            raise ValueError(f"[{name}] 'lr' must be 0 or more, got {lr}")
        self.arena = self.parameters[0].arena
        self.state = {key: np.zeros(len(self.arena.data), np.float32) for key in self.state_names}
        # Slices for the usual step, in which every parameter has a gradient; by whether they split where decay changes.
        self._all = {split: _joined(self.parameters, split) for split in (True, False)}

    def _runs(self, split_decay: bool) -> list[Run]:
        if all(parameter.fresh and parameter.requires_grad for parameter in self.parameters):
            return self._all[split_decay]
        return _runs(self.parameters, split_decay)

    def grad_norm(self, within: Sequence[slice] | None = None) -> float:
        """Compute the Euclidean norm of all gradients together, or of the given parts of the arena."""
        return _norm(_within(self._runs(split_decay=False), within))

    def zero_grad(self) -> None:
        """Mark all gradients stale."""
        for parameter in self.parameters:
            parameter.zero_grad()

    def step(self, grad_scale: float = 1.0, within: Sequence[slice] | None = None) -> None:
        """Update every parameter that has a gradient.

        Parameters
        ----------
        grad_scale : float
            Factor applied to all gradients inside the update, so that clipping needs no extra pass.
        within : sequence of slice, optional
            Parts of the arena to update, when other processes update the rest. Default: all of it.

        Raises
        ------
        RuntimeError
            The module was initialised again after this optimizer was made, so its parameters have moved.
        """
        if any(parameter.arena is not self.arena for parameter in self.parameters):
            raise RuntimeError(f"[{type(self).__name__}] the module was initialised again: make a new optimizer")
        self.steps += 1
        for first, part in _within(self._runs(split_decay=True), within):
            self._update(self.arena.data[part], self.arena.grad[part], part, first.decay, grad_scale)

    def state_of(self, parameter: Parameter) -> dict[str, np.ndarray]:
        """Return the state of one parameter by name: views in the shape of the parameter."""
        part = slice(parameter.start, parameter.start + parameter.data.size)
        return {key: array[part].reshape(parameter.shape) for key, array in self.state.items()}

    def _update(self, param: np.ndarray, grad: np.ndarray, part: slice, decay: bool, grad_scale: float) -> None:
        raise TypeError(f"[{type(self).__name__}] is a base class; use SGD, Adam or AdamW")


class SGD(Optimizer):
    """Stochastic gradient descent with momentum: b = momentum b + g, p = p - lr b (Sutskever et al. 2013, as PyTorch).

    Parameters
    ----------
    parameters : iterable of Parameter
    lr : float
    momentum : float
        Factor of the previous update, at least 0 and less than 1.
    """

    state_names = ("momentum",)

    def __init__(self, parameters: Iterable[Parameter], lr: float = 1e-2, momentum: float = 0.0):
        super().__init__(parameters, lr)
        if not 0 <= momentum < 1:
            raise ValueError(f"[SGD] 'momentum' must be at least 0 and less than 1, got {momentum}")
        self.momentum = momentum

    def _update(self, param: np.ndarray, grad: np.ndarray, part: slice, decay: bool, grad_scale: float) -> None:
        held = self.state["momentum"][part]
        held *= np.float32(self.momentum)
        held += np.float32(grad_scale) * grad
        param -= np.float32(self.lr) * held


class _Moments(Optimizer):
    """Base class of Adam and AdamW: their arguments and the two moments."""

    state_names = ("m", "v")

    def __init__(self, parameters, lr, betas, eps):
        super().__init__(parameters, lr)
        name = type(self).__name__
        if not (len(betas) == 2 and all(0 <= beta < 1 for beta in betas)):
            raise ValueError(f"[{name}] 'betas' must be two numbers, at least 0 and less than 1, got {betas}")
        if not eps >= 2.0**-149:  # the smallest float32; less would be 0 in the kernel
            raise ValueError(f"[{name}] 'eps' must be positive in float32, got {eps}")
        self.betas, self.eps = tuple(betas), eps


class Adam(_Moments):
    """Adam (Kingma & Ba 2015, algorithm 1) in NumPy, without weight decay: a readable form of the AdamW kernel.

    Parameters
    ----------
    parameters : iterable of Parameter
    lr : float
        Learning rate.
    betas : pair of float
        Decay rates of the two moments, at least 0 and less than 1.
    eps : float
        Added to the root of the second moment; positive in float32.

    Notes
    -----
    Bias correction counts the steps of the optimizer, including those in which a parameter had no gradient.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ):
        super().__init__(parameters, lr, betas, eps)

    def _update(self, param: np.ndarray, grad: np.ndarray, part: slice, decay: bool, grad_scale: float) -> None:
        m, v, (beta1, beta2) = self.state["m"][part], self.state["v"][part], self.betas
        g = np.float32(grad_scale) * grad
        m += np.float32(1 - beta1) * (g - m)
        v += np.float32(1 - beta2) * (g * g - v)
        unbiased = np.sqrt(v / np.float32(1 - beta2**self.steps)) + np.float32(self.eps)
        param -= np.float32(self.lr / (1 - beta1**self.steps)) * m / unbiased


class AdamW(_Moments):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2), one kernel pass over the arena.

    Parameters
    ----------
    parameters : iterable of Parameter
    lr : float
        Learning rate.
    betas : pair of float
        Decay rates of the two moments, at least 0 and less than 1.
    eps : float
        Added to the root of the second moment; positive in float32.
    weight_decay : float
        Weight decay of matrices and embeddings; biases and norms have none.

    Notes
    -----
    Bias correction counts the steps of the optimizer, including those in which a parameter had no gradient.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
    ):
        super().__init__(parameters, lr, betas, eps)
        if not weight_decay >= 0:
            raise ValueError(f"[AdamW] 'weight_decay' must be 0 or more, got {weight_decay}")
        self.weight_decay = weight_decay

    def _update(self, param: np.ndarray, grad: np.ndarray, part: slice, decay: bool, grad_scale: float) -> None:
        calls.adamw(
            param, grad=grad, m=self.state["m"][part], v=self.state["v"][part], lr=self.lr, betas=self.betas,
            eps=self.eps, weight_decay=self.weight_decay if decay else 0.0, step=self.steps, grad_scale=grad_scale,
        )  # fmt: skip


def constant(lr: float) -> Schedule:
    """Return a schedule with the same learning rate at every step."""
    return lambda step: lr


def linear(lr: float, steps: int, warmup: int = 0, final: float = 0.0) -> Schedule:
    """Return a schedule that rises to `lr` over `warmup` steps, then falls linearly to `final`.

    Parameters
    ----------
    lr : float
        Peak learning rate.
    steps : int
        Number of steps of the run.
    warmup : int
        Steps until the peak; step 0 has lr / (warmup + 1). A run that is not longer than this ends at `final`.
    final : float
        Learning rate at the last step of a run with more than one step.
    """
    return _warmup(lr, steps, warmup, lambda progress: final + (lr - final) * (1 - progress))


def cosine(lr: float, steps: int, warmup: int = 0, final: float = 0.0) -> Schedule:
    """Return a schedule that rises to `lr`, then falls along half a cosine (Loshchilov & Hutter 2017, eq. 5).

    Parameters
    ----------
    lr : float
        Peak learning rate.
    steps : int
        Number of steps of the run.
    warmup : int
        Steps until the peak; step 0 has lr / (warmup + 1).
    final : float
        Learning rate at the last step of a run with more than one step.
    """
    return _warmup(lr, steps, warmup, lambda progress: final + (lr - final) * (1 + math.cos(math.pi * progress)) / 2)


def wsd(lr: float, steps: int, warmup: int = 0, final: float = 0.0, decay: float = 0.2) -> Schedule:
    """Return a schedule that rises to `lr`, stays there, and falls at the end: warm-up, stable, decay.

    The length of the stable part need not be known in advance: any of its checkpoints can be resumed with more steps.
    The fall follows 1 - sqrt(progress) (Hagele et al. 2024, "Scaling laws and compute-optimal training beyond fixed
    training durations").

    Parameters
    ----------
    lr : float
        Peak learning rate.
    steps : int
        Number of steps of the run.
    warmup : int
        Steps until the peak; step 0 has lr / (warmup + 1).
    final : float
        Learning rate at the last step of a run with more than one step.
    decay : float
        Fraction of the steps in which the rate falls, more than 0 and at most 1.
    """
    falls = max(1, round(decay * (steps - 1)))

    def after(progress: float) -> float:
        done = progress * max(1, steps - 1 - warmup) - max(0, steps - 1 - warmup - falls)
        return final + (lr - final) * (1 - math.sqrt(min(1.0, max(0.0, done) / falls)))

    return _warmup(lr, steps, warmup, after)


def _warmup(lr: float, steps: int, warmup: int, decay: Callable[[float], float]) -> Schedule:
    def schedule(step: int) -> float:
        if step >= max(1, steps - 1):  # max, because the only step of a run is not its last
            return decay(1.0)
        if step < warmup:
            return lr * (step + 1) / (warmup + 1)
        return decay((step - warmup) / max(1, steps - 1 - warmup))

    return schedule
