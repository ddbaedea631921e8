"""From GPT-2 to Llama, one change at a time: validation loss and speed after each, for the tutorial of this name.

usage: python benchmarks/gpt2_to_llama.py loss|speed OUT.json      about 4 minutes; speed about 20 seconds

`loss` trains every variant on the text of dynamics.py with three seeds. `speed` times training steps of all variants in
turn, so that a busy moment of the machine slows all of them alike. Results are added to OUT.json.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from dynamics import Job, T, Text, batch, mean_loss, one_step, read, rounded, schedule

from tinygpt import GPT, GPTConfig, optim
from tinygpt.cli.info import processor
from tinygpt.kernels import threads

SHAPE = {"block_size": T, "n_layer": 4, "n_head": 4, "n_embd": 64}
# Each line adds to the one before.
CHANGES = {
    "GPT-2": {},
    "rotary positions": {"position": "rope"},
    "RMS norm": {"norm": "rmsnorm"},
    "SwiGLU": {"activation": "swiglu"},
    "no biases": {"bias": False},
    "grouped queries": {"n_kv_head": 2},
}
SEEDS = (0, 1, 2)
JOB = Job(steps=800)
ROUNDS = 40


def variants(V: int) -> dict[str, GPTConfig]:
    """Return the config after each change."""
    found, options = {}, {}
    for name, change in CHANGES.items():
        options = options | change
        found[name] = GPTConfig(vocab_size=V, **SHAPE, **options)
    return found


def loss(config: GPTConfig, text: Text, seed: int) -> float:
    """Train one variant; returns its validation loss."""
    model, rate = GPT(config, seed=seed), schedule(JOB)
    optimizer = optim.AdamW(model.parameters(), weight_decay=JOB.decay)
    for step in range(JOB.steps):
        one_step(model, optimizer, rate(step), text.train, JOB, seed * JOB.steps + step)
    return mean_loss(model, text.validation)


def speeds(configs: dict[str, GPTConfig], text: Text) -> dict[str, float]:
    """Time training steps of all variants in turn, on one thread; returns the median seconds of a step."""
    threads.set_num_threads(1)
    models = {name: GPT(config, seed=0) for name, config in configs.items()}
    optimizers = {name: optim.AdamW(model.parameters()) for name, model in models.items()}
    x, y = batch(text.train, np.arange(JOB.batch) * 101, 1)
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(ROUNDS):
        for name, model in models.items():
            began = time.perf_counter()
            optimizers[name].zero_grad()
            model.loss(x, y).backward()
            optimizers[name].step()
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values[5:]) for name, values in times.items()}


def main() -> None:
    """Measure what the first argument names, and add it to the file."""
    what, out = sys.argv[1], Path(sys.argv[2])
    found: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    text = read()
    configs = variants(text.tokenizer.vocab_size)
    if what == "loss":
        found["loss"] = {
            name: [rounded(loss(config, text, seed)) for seed in SEEDS] for name, config in configs.items()
        }
    else:
        found["speed"] = {name: rounded(seconds) for name, seconds in speeds(configs, text).items()}
    found["parameters"] = {name: GPT(config, seed=None).num_parameters() for name, config in configs.items()}
    found |= {"machine": processor(), "steps": JOB.steps, "vocabulary": text.tokenizer.vocab_size}
    out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("loss", "speed"):
        sys.exit(__doc__)
    main()
