"""Statistics of every layer's weights, gradients and activations, written to watch.jsonl every N steps.

    weights      mean, standard deviation, largest absolute value, share of zeros, quantiles; update / weight
    gradients    the same statistics; gradient / weight
    activations  the same statistics of the residual stream after every block and inside its MLP; share of dead units

Both ratios divide root mean squares. The numerator is the change of the weights by the step (learning rate, optimizer
and weight decay together), or the gradient before clipping. The denominator is the weights before the step.

Design
- Only matrices and embedding tables are watched. Vectors (biases, norms) are few and start at 0 or 1, where ratios have
  no meaning.
- Activations come from a second forward pass over the batch, without gradients and without dropout. `GPT.hidden` hands
  out the residual stream and the hidden activations of every MLP. Rejected: hooks in the training forward pass, because
  they would slow down every step.
- Nothing here draws a random number or writes to a weight, so that a watched run computes the same bits.
- Quantiles and changes of a large tensor are computed from a sample of its values at equal distances, because a million
  values give nearly the same quantiles as a hundred million.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinygpt.io.records import Record
from tinygpt.model import GPT, Hidden
from tinygpt.nn import Parameter
from tinygpt.runs.metrics import MetricsLog
from tinygpt.runs.watch import HEALTHY, KINDS, MOST_WATCHED, QUANTILES, Range, place
from tinygpt.tensor import Tensor, no_grad

SAMPLES = 100  # records of a run, unless the settings give an interval
SHARE = 0.03  # largest share of the training time for records, unless the settings give an interval
MOST_TOKENS = 2048  # tokens of a batch from which statistics of activations are computed
MOST_SORTED = 2**13  # values of a tensor that its quantiles are computed from
MOST_COMPARED = 2**18  # values of a tensor that are copied to measure the change by a step
GUIDE = "docs/troubleshooting.md, 'A statistic leaves its healthy range'"

Floats = npt.NDArray[np.float32]
Say = Callable[[str], None]


def kinds_of(text: str) -> tuple[str, ...]:
    """Parse the kinds to watch; returns them in the order of KINDS.

    Parameters
    ----------
    text : str
        Separated by commas.

    Returns
    -------
    tuple of str

    Raises
    ------
    ValueError
        One is unknown.
    """
    wanted = [word.strip() for word in text.split(",")]
    for word in wanted:
        if word not in KINDS:
            raise ValueError(f"[train] 'watch' must name some of {','.join(KINDS)}, got '{word}'")
    return tuple(kind for kind in KINDS if kind in wanted)


class Watch:
    """Records statistics of a model at some steps of its training.

    Parameters
    ----------
    path : Path
        watch.jsonl.
    kinds : sequence of str
        Some of KINDS.
    model : GPT
    every : int or None
        Steps between two records. None chooses a hundredth of the run, and skips a record as long as records would cost
        more than SHARE of the training time.
    total : int
        Steps of the run; the last step is always recorded.
    first : int
        First step of this process. Records of this step and later ones are dropped from the file.
    say : function
        Receives a warning when a statistic leaves its healthy range, once for each statistic and layer.

    """

    def __init__(
        self, path: Path, kinds: tuple[str, ...], model: GPT, every: int | None, total: int, first: int, say: Say
    ):
        self.kinds, self.model, self.total, self.say = kinds, model, total, say
        self.every, self.bounded = max(1, total // SAMPLES) if every is None else every, every is None
        self.log = MetricsLog(path, first, MOST_WATCHED)
        self.cost = 0.0  # seconds to compute the last record
        self.trained = math.inf  # seconds of training since then
        self.names = matrices(model)
        # Half of every adapter starts at zero, so that its ratios mean nothing for a while.
        self.grown = {name for name, p in self.names.items() if not p.data.any()}
        self.record: dict[str, Any] = {}
        self.before: dict[str, Floats] = {}
        self.warned: set[tuple[str, str, str]] = set()

    def due(self, step: int) -> bool:
        """Tell whether to record this step; the answer is the same until the step has ended."""
        affordable = not self.bounded or self.cost <= SHARE * self.trained
        return step == self.total - 1 or (step % self.every == 0 and affordable)

    def took(self, training: float, recording: float) -> None:
        """Count the seconds of a step: those of training, and those of its record, 0 if there is none."""
        self.trained += training
        if recording:
            self.cost, self.trained = recording, 0.0

    @property
    def records(self) -> list[Record]:
        """Lines of the file so far, thinned if there are many."""
        return self.log.records

    def before_update(self, step: int, tokens: npt.NDArray[np.int32]) -> None:
        """Compute statistics of gradients and activations, and copy weights.

        Parameters
        ----------
        step : int
        tokens : int array, shape (B, T)
            Batch whose gradients were computed.
        """
        self.record = {"step": step}
        if "gradients" in self.kinds:
            found = {name: (p.grad, p.data) for name, p in self.names.items()}
            self.record["gradients"] = {
                name: figures(grad) | {"ratio": ratio(rms(grad), rms(data))}
                for name, (grad, data) in found.items()
                if grad is not None
            }
        if "activations" in self.kinds:
            rows = max(1, MOST_TOKENS // tokens.shape[1])
            self.record["activations"] = activations(self.model, tokens[:rows])
        if "weights" in self.kinds:
            self.before = {name: spread(p.data, MOST_COMPARED).copy() for name, p in self.names.items()}

    def after_update(self) -> None:
        """Compute statistics of weights, write the record, and warn."""
        if "weights" in self.kinds:
            self.record["weights"] = {}
            for name, p in self.names.items():
                old = self.before.pop(name)
                change = spread(p.data, MOST_COMPARED) - old
                self.record["weights"][name] = figures(p.data) | {"update": ratio(rms(change), rms(old))}
        self.log.write(self.record)
        self.log.flush()
        for one in HEALTHY:
            self._judge(one)

    def close(self) -> None:
        """Flush and close the file."""
        self.log.close()

    def _judge(self, healthy: Range) -> None:
        """Warn about every layer in which a statistic is outside its range, once each."""
        for name, statistics in self.record.get(healthy.kind, {}).items():
            value = statistics.get(healthy.statistic)
            if value is None or healthy.low <= value <= healthy.high or name in self.grown:
                continue
            # At first no gradient reaches half of an adapter, and a schedule may end at a learning rate of 0.
            if value == 0 and (self.record["step"] == 0 or healthy.statistic == "update"):
                continue
            key = (healthy.kind, healthy.statistic, place(name)[0])
            if key not in self.warned:
                self.warned.add(key)
                bound = f"below {healthy.low:g}" if value < healthy.low else f"above {healthy.high:g}"
                self.say(
                    f"step {self.record['step']}: {healthy.title} of {name} is {value:.3g}, {bound}: {healthy.hint}; "
                    f"see {GUIDE}"
                )


def matrices(model: GPT) -> dict[str, Parameter]:
    """Map the names of trained matrices and tables, without the ending ``.weight``, to their parameters."""
    found = ((name, p) for name, p in model.named_parameters() if len(p.shape) == 2 and p.requires_grad)
    return {name.removesuffix(".weight"): p for name, p in found}


def activations(model: GPT, tokens: npt.NDArray[np.int32]) -> dict[str, dict[str, Any]]:
    """Compute statistics of a model's activations.

    Parameters
    ----------
    model : GPT
    tokens : int array, shape (B, T)

    Returns
    -------
    dict
        ``embeddings``; for every block ``blocks.N.stream``, the residual stream after it, and ``blocks.N.mlp``, the
        hidden activations of its MLP. `dead` is the share of MLP units whose activation (with swiglu, gate) is never
        above 0 for any token of `tokens`.
    """
    stream: list[Tensor] = []
    probe: list[Hidden] = []
    with no_grad():
        model.hidden(tokens, stream=stream, probe=probe)
    found = {"embeddings": figures(stream[0].data)}
    for i, hidden in enumerate(probe):
        dead = float((hidden.gate.reshape(-1, hidden.gate.shape[-1]).max(0) <= 0).mean())
        found[f"blocks.{i}.stream"] = figures(stream[i + 1].data)
        found[f"blocks.{i}.mlp"] = figures(hidden.values) | {"dead": rounded(dead)}
    return found


def figures(values: Floats) -> dict[str, Any]:
    """Compute mean, standard deviation, largest absolute value, share of zeros and quantiles.

    Parameters
    ----------
    values : float32 array

    Returns
    -------
    dict
        Values of five digits; None for one that is not finite.
    """
    flat = values.reshape(-1)
    mean = flat.mean(dtype=np.float64)
    # From the sum of squares, in one pass and without an array of differences; float64 keeps enough digits.
    variance = squares(flat) / flat.size - mean * mean
    ordered = np.sort(spread(values, MOST_SORTED))
    places = [round(q * (len(ordered) - 1)) for q in QUANTILES]
    return {
        "mean": rounded(mean),
        "std": rounded(math.sqrt(max(variance, 0.0))),
        "max": rounded(max(flat.max(), -flat.min())),
        "zeros": rounded(1 - np.count_nonzero(flat) / flat.size),
        "q": [rounded(ordered[i]) for i in places],
    }


def spread(values: Floats, most: int) -> Floats:
    """Sample about `most` values at equal distances, coprime to the row length so that every column is sampled."""
    flat = values.reshape(-1)
    stride = -(-flat.size // most)
    while stride > 1 and math.gcd(stride, values.shape[-1]) > 1:
        stride += 1
    return flat[::stride]


def squares(values: Floats) -> float:
    """Sum the squares, with double precision between chunks."""
    flat = values.reshape(-1)
    return math.fsum(float(np.dot(part, part)) for part in np.array_split(flat, -(-flat.size // 4096) or 1))


def rms(values: Floats) -> float:
    """Compute the root mean square."""
    total = squares(values) / max(1, values.size)
    return math.sqrt(total) if total >= 0 else math.nan


def ratio(a: float, b: float) -> float | None:
    """Divide, to five digits; None if b is 0 or the quotient is not finite."""
    return rounded(a / b) if b else None


def rounded(value: Any) -> float | None:
    """Round to five digits, more than a picture shows; None for NaN and infinity, which JSON does not have."""
    return float(f"{value:.5g}") if math.isfinite(value) else None
