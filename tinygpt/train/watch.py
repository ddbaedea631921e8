"""What happens inside a model while it learns: figures of every layer, now and then, in watch.jsonl.

    weights      mean, standard deviation, largest absolute value, share of zeros, quantiles; update / weight
    gradients    the same; gradient / weight
    activations  the same of what every block hands on, and of the inside of its MLP, with the share of dead units

A ratio is one of root mean squares: of the change that the step made (the learning rate, the optimizer and weight decay
together) or of the gradient before clipping, over that of the weights before the step.

Design
- Only matrices and embedding tables are watched. Vectors (biases, norms) are few and start at 0 or 1, where ratios say
  nothing.
- Activations come from a second forward pass over the batch, without gradients and without dropout. `GPT.hidden` hands
  out the residual stream and the hidden activations of every MLP. Rejected: hooks in the forward pass that trains,
  because every step would pay for them.
- Nothing here draws a random number or writes to a weight: a run that is watched learns the same to the last bit.
- Quantiles and changes of a large tensor are those of a part of it, taken at even distances: they are pictures, and a
  million numbers draw the same one as a hundred million.
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

SAMPLES = 100  # of a run, unless the settings give an interval
SHARE = 0.03  # of the training time that samples may cost, unless the settings give an interval
MOST_TOKENS = 2048  # of a batch whose activations are looked at
MOST_SORTED = 2**13  # numbers of a tensor that its quantiles are taken from
MOST_COMPARED = 2**18  # numbers of a tensor that are kept to tell how far a step moved it
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
    """Looks at a model at some steps of its training.

    Parameters
    ----------
    path : Path
        watch.jsonl.
    kinds : sequence of str
        Some of KINDS.
    model : GPT
    every : int or None
        Steps between two looks. None chooses a hundredth of the run. A look is then left out while the time since the
        last one is so short that looks would cost more than SHARE of it.
    total : int
        Steps of the run; the last is looked at too.
    first : int
        Step at which this process begins; what the file has of it and of later ones is dropped.
    say : function
        Is told what leaves its healthy range: once for each statistic and layer.

    """

    def __init__(
        self, path: Path, kinds: tuple[str, ...], model: GPT, every: int | None, total: int, first: int, say: Say
    ):
        self.kinds, self.model, self.total, self.say = kinds, model, total, say
        self.every, self.bounded = max(1, total // SAMPLES) if every is None else every, every is None
        self.log = MetricsLog(path, first, MOST_WATCHED)
        self.cost = 0.0  # seconds of the last look
        self.trained = math.inf  # seconds of training since then
        self.names = matrices(model)
        # Of what grows from nothing, as half of every adapter does, sizes and ratios say nothing for a while.
        self.grown = {name for name, p in self.names.items() if not p.data.any()}
        self.record: dict[str, Any] = {}
        self.before: dict[str, Floats] = {}
        self.warned: set[tuple[str, str, str]] = set()

    def due(self, step: int) -> bool:
        """Whether this step is looked at; the answer for a step changes only when it is over."""
        affordable = not self.bounded or self.cost <= SHARE * self.trained
        return step == self.total - 1 or (step % self.every == 0 and affordable)

    def took(self, training: float, look: float) -> None:
        """Take the seconds of a step into account: of its training, and of the look at it if there was one."""
        self.trained += training
        if look:
            self.cost, self.trained = look, 0.0

    @property
    def records(self) -> list[Record]:
        """Lines of the file so far, thinned if there are many."""
        return self.log.records

    def before_update(self, step: int, tokens: npt.NDArray[np.int32]) -> None:
        """Look at gradients and activations, and remember weights.

        Parameters
        ----------
        step : int
        tokens : int array, shape (B, T)
            Of the batch that gave the gradients.
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
        """Look at weights, write the line, warn."""
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
        """Warn about every layer in which a statistic is outside its range, about each once."""
        for name, statistics in self.record.get(healthy.kind, {}).items():
            value = statistics.get(healthy.statistic)
            if value is None or healthy.low <= value <= healthy.high or name in self.grown:
                continue
            # No gradient reaches half of an adapter at first, and a schedule may end at 0.
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
    """The matrices and tables that are trained, by name without the ``.weight`` that most end with."""
    found = ((name, p) for name, p in model.named_parameters() if len(p.shape) == 2 and p.requires_grad)
    return {name.removesuffix(".weight"): p for name, p in found}


def activations(model: GPT, tokens: npt.NDArray[np.int32]) -> dict[str, dict[str, Any]]:
    """Figures of what flows through a model.

    Parameters
    ----------
    model : GPT
    tokens : int array, shape (B, T)

    Returns
    -------
    dict
        ``embeddings``; for every block ``blocks.N.stream``, which it hands on, and ``blocks.N.mlp``, the inside of its
        MLP. `dead` is the share of MLP units that no token of `tokens` turns on: their activation (with swiglu their
        gate) is never above 0.
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
    """Mean, standard deviation, largest absolute value, share of zeros, quantiles; None for what is not finite.

    Parameters
    ----------
    values : float32 array

    Returns
    -------
    dict
        Values of five digits.
    """
    flat = values.reshape(-1)
    mean = flat.mean(dtype=np.float64)
    # From the sum of squares: one pass, no array of differences. In float64 nothing of weight is lost.
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
    """At most about `most` of the values, at even distances that are no multiple of a row's length."""
    flat = values.reshape(-1)
    stride = -(-flat.size // most)
    while stride > 1 and math.gcd(stride, values.shape[-1]) > 1:
        stride += 1
    return flat[::stride]


def squares(values: Floats) -> float:
    """The sum of squares, with double precision where it matters: between chunks."""
    flat = values.reshape(-1)
    return math.fsum(float(np.dot(part, part)) for part in np.array_split(flat, -(-flat.size // 4096) or 1))


def rms(values: Floats) -> float:
    """The root mean square."""
    total = squares(values) / max(1, values.size)
    return math.sqrt(total) if total >= 0 else math.nan


def ratio(a: float, b: float) -> float | None:
    """A / b with five digits; None where b is 0 or the quotient no finite number."""
    return rounded(a / b) if b else None


def rounded(value: Any) -> float | None:
    """Five digits, which a picture cannot show; None for what JSON has no word for."""
    return float(f"{value:.5g}") if math.isfinite(value) else None
