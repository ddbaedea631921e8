"""Time one training step of the same small GPT in nine ways, from plain Python numbers to vectors and threads.

    python benchmarks/one_page.py --out docs/data/one_page.json

Every way starts from the same weights and the same tokens, and its loss and the largest entry of its gradient are
compared with `tinygpt/reference/one_file.py` before it is timed. A step is forward pass, backward pass and Adam.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

import tinygpt
from tinygpt import GPT, GPTConfig, kernels, optim
from tinygpt.cli.info import processor
from tinygpt.kernels import isa
from tinygpt.reference import one_file

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs" / "tutorials"))

import scalar_gpt  # noqa: E402

MODELS = {
    "tiny": {"V": 64, "T": 16, "layers": 1, "width": 16, "H": 4, "B": 1},
    "small": {"V": 256, "T": 128, "layers": 4, "width": 128, "H": 4, "B": 8},
}
RUNGS = ("numpy", "naive", "parallel", "blocked", "simd")


class Job:
    """One model: its weights by name, a batch, and the loss and gradients that every way must find."""

    def __init__(self, V: int, T: int, layers: int, width: int, H: int, B: int):
        self.V, self.T, self.layers, self.width, self.H = V, T, layers, width, H
        random = np.random.default_rng(0)
        self.weights = one_file.new_weights(random, V, T, layers, width)
        text = random.integers(0, V, (B, T + 1))
        self.tokens, self.targets = text[:, :-1], text[:, 1:]
        self.loss, self.gradients = one_file.loss_and_gradients(self.weights, self.tokens, self.targets, H)

    def check(self, name: str, loss: float, gradients: dict) -> None:
        """Raise AssertionError unless loss and gradients are those of the reference to rounding."""
        assert abs(loss - self.loss) < 1e-4 * self.loss, (name, loss, self.loss)
        for key, wanted in self.gradients.items():
            off = np.abs(gradients[key] - wanted).max()
            assert off <= 2e-3 * np.abs(wanted).max() + 1e-7, (name, key, off)


def scalar(job: Job) -> Callable[[], None]:
    """Make a step in plain Python numbers."""
    w = {name: scalar_gpt.numbers(value) for name, value in job.weights.items()}
    flat = {name: [n for row in value for n in (row if isinstance(row, list) else [row])] for name, value in w.items()}
    m = {name: [[0.0, 0.0] for _ in value] for name, value in flat.items()}

    def gradients() -> float:
        for values in flat.values():
            for one in values:
                one.grad = 0.0
        pairs = zip(job.tokens.tolist(), job.targets.tolist(), strict=True)
        losses = [scalar_gpt.loss(w, tokens, targets, job.H) for tokens, targets in pairs]
        loss = scalar_gpt.total(losses).scale(1 / len(losses))
        loss.backward()
        return loss.value

    def step() -> None:
        gradients()
        for name, values in flat.items():
            for one, mean in zip(values, m[name], strict=True):
                mean[0] = 0.9 * mean[0] + 0.1 * one.grad
                mean[1] = 0.95 * mean[1] + 0.05 * one.grad**2
                one.value -= 1e-3 * (mean[0] / 0.1) / ((mean[1] / 0.05) ** 0.5 + 1e-8)

    loss = gradients()
    found = {k: np.reshape([n.grad for n in v], job.weights[k].shape) for k, v in flat.items()}
    job.check("scalar", loss, found)
    return step


def arrays(job: Job, dtype: type) -> Callable[[], None]:
    """Make a step of one_file.py, with arrays of one type."""
    w = {name: value.astype(dtype) for name, value in job.weights.items()}
    m, v = ({name: np.zeros_like(x) for name, x in w.items()} for _ in range(2))
    job.check("one_file", *one_file.loss_and_gradients(w, job.tokens, job.targets, job.H))

    def step() -> None:
        _, g = one_file.loss_and_gradients(w, job.tokens, job.targets, job.H)
        one_file.adam(w, g, m, v, 1, 1e-3)

    return step


def package(job: Job) -> Callable[[], None]:
    """Make a step of tinygpt, with the rung in use."""
    config = GPTConfig(vocab_size=job.V, block_size=job.T, n_layer=job.layers, n_head=job.H, n_embd=job.width)
    model = GPT(config)
    for name, parameter in model.named_parameters():
        parameter.data = job.weights[name]
    optimizer = optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    loss = model.loss(job.tokens, job.targets)
    loss.backward()
    job.check("tinygpt", loss.item(), {name: parameter.grad for name, parameter in model.named_parameters()})

    def step() -> None:
        optimizer.zero_grad()
        model.loss(job.tokens, job.targets).backward()
        optimizer.step()

    return step


def measure(step: Callable[[], None], seconds: float) -> dict:
    """Repeat a step for some seconds, at least three times, and return the median and the number of repetitions."""
    step()
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return {"seconds": statistics.median(times), "least": min(times), "repeats": len(times)}


def ways(job: Job, name: str, seconds: float, threads: int):
    """Yield a row for every way of computing the step; plain Python only for the tiny model."""
    tinygpt.set_num_threads(1)
    if name == "tiny":
        yield {"way": "scalar", "threads": 1, **measure(scalar(job), seconds)}
    with threadpool_limits(1):  # NumPy's BLAS would use all processors
        for dtype in (np.float64, np.float32):
            yield {"way": f"one_file {dtype.__name__}", "threads": 1, **measure(arrays(job, dtype), seconds)}
    for rung in RUNGS:
        with kernels.use(rung):
            yield {"way": rung, "threads": 1, **measure(package(job), seconds)}
    if threads > 1:
        tinygpt.set_num_threads(threads)
        yield {"way": "simd", "threads": threads, **measure(package(job), seconds)}


def main() -> None:
    """Write the times of all ways to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="time to measure each way")
    parser.add_argument("--threads", type=int, default=2, help="number of threads of the last way")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    rows = []
    for name, sizes in MODELS.items():
        job = Job(**sizes)
        for row in ways(job, name, given.seconds, given.threads):
            rows.append({"model": name, **row})
            print(f"{name:6} {row['way']:18} {row['threads']} {1e3 * row['seconds']:10.3f} ms", flush=True)
    facts = {"processor": processor(), "isa": isa.get(), "date": datetime.date.today().isoformat()}
    given.out.write_text(json.dumps({"machine": facts, "models": MODELS, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
