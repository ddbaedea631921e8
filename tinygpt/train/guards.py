"""Guards of the training loop: skip steps whose loss jumps, and name the first tensor that became NaN or infinite."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygpt.io.records import is_number
from tinygpt.io.strict import is_count
from tinygpt.model import GPT, Hidden
from tinygpt.optim import Optimizer
from tinygpt.tensor import Tensor, no_grad

MEMORY = 0.98  # decay of mean and variance: they describe about the last 50 steps
FEWEST = 50  # steps before the guard acts, because the loss falls fast at first
MOST_IN_A_ROW = 10  # steps left out one after another; then the loss has changed for good, and the guard starts over
DEVIATION = 0.01  # least standard deviation, as a share of the mean; a loss that hardly varies has no spikes below


class SpikeGuard:
    """Tell steps whose loss is far above the recent ones, by their mean and standard deviation.

    Parameters
    ----------
    sigma : float or None
        Standard deviations above the mean from which a loss is a spike. None: no loss is.

    Attributes
    ----------
    skipped : int
        Number of spikes so far.
    """

    def __init__(self, sigma: float | None):
        self.sigma = sigma
        self.mean = self.variance = 0.0
        self.seen = self.skipped = self.row = 0

    def spike(self, loss: float) -> bool:
        """Return whether a loss is a spike, and take it into account if it is none."""
        if self.sigma is None:
            return False
        deviation = max(math.sqrt(self.variance), DEVIATION * abs(self.mean))
        if self.seen >= FEWEST and self.row < MOST_IN_A_ROW and loss > self.mean + self.sigma * deviation:
            self.skipped += 1
            self.row += 1
            return True
        if self.row == MOST_IN_A_ROW:
            self.mean = self.variance = 0.0
            self.seen = 0
        self.row = 0
        weight = 1 - min(MEMORY, self.seen / (self.seen + 1))
        change = loss - self.mean
        self.mean += weight * change
        self.variance = (1 - weight) * (self.variance + weight * change * change)
        self.seen += 1
        return False

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint, as plain JSON."""
        return {name: value for name, value in vars(self).items() if name != "sigma"}

    def restore(self, state: Any) -> None:
        """Restore what `state` returned; a checkpoint of a run without the guard has none.

        Raises
        ------
        ValueError
            The state is damaged.
        """
        if self.sigma is None or not state:
            return
        numbers = isinstance(state, dict) and all(is_number(state.get(name)) for name in ("mean", "variance"))
        if not (numbers and all(is_count(state.get(name)) for name in ("seen", "skipped", "row"))):
            raise ValueError("'spikes' of the checkpoint must have mean, variance, seen, skipped and row")
        vars(self).update({name: state[name] for name in self.state()})

    def summary(self, steps: int) -> str:
        """Describe the spikes of a run of `steps` steps in one line; empty if there were none."""
        if not self.skipped:
            return ""
        return f"{self.skipped:,} of {steps:,} updates were left out: their loss was a spike ({self.sigma:g} sigma)"


def first_bad(model: GPT, optimizer: Optimizer, tokens: np.ndarray | None = None) -> str:
    """Name the first tensor with a value that is NaN or infinite, in the order in which a step computes them.

    Parameters
    ----------
    model : GPT
    optimizer : Optimizer
    tokens : int array, shape (B, T), optional
        Batch of the step. Without it only weights and the optimizer's state are examined.

    Returns
    -------
    str
        Empty if all are finite.
    """
    names = list(model.named_parameters())
    for name, parameter in names:
        if not _finite(parameter.data):
            return f"the weight {name}"
    held = {id(parameter) for parameter in optimizer.parameters}
    trained = [(name, parameter) for name, parameter in names if id(parameter) in held]
    for name, parameter in trained:
        for key, array in optimizer.state_of(parameter).items():
            if not _finite(array):
                return f"the optimizer state {key} of {name}"
    if tokens is None:
        return ""
    found = _first_activation(model, tokens)
    if found:
        return found
    for name, parameter in reversed(trained):  # backward computes the last layer first
        if parameter.grad is not None and not _finite(parameter.grad):
            return f"the gradient of {name}"
    return ""


def _first_activation(model: GPT, tokens: np.ndarray) -> str:
    """Name the first activation of a forward pass without dropout that is not finite."""
    stream: list[Tensor] = []
    probe: list[Hidden] = []
    with no_grad():
        hidden = model.hidden(tokens, stream=stream, probe=probe)
    if not _finite(stream[0].data):
        return "the embeddings"
    for i, mlp in enumerate(probe):
        if not _finite(mlp.values):
            return f"the hidden activations of blocks.{i}.mlp"
        if not _finite(stream[i + 1].data):
            return f"the residual stream after blocks.{i}"
    return "" if _finite(hidden.data) else "the output of the last norm"


def _finite(array: np.ndarray) -> bool:
    """Return whether all values are finite."""
    return bool(array.size == 0 or (math.isfinite(array.min()) and math.isfinite(array.max())))
