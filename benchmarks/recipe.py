"""nanoGPT's CPU recipe on tiny Shakespeare, in tinygpt and PyTorch, from the same weights on the same batches.

usage: python benchmarks/recipe.py SHAKESPEARE.txt OUT.json [SEED...]      about 10 minutes per seed on two cores

Both sides are scored on the whole validation tenth. nanoGPT's README gives 1.88 for this recipe.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from peers import TorchGPT

from tinygpt.cli.info import processor
from tinygpt.data.windows import StridedWindows
from tinygpt.kernels import threads
from tinygpt.train.loop import train
from tinygpt.train.report import Report
from tinygpt.train.settings import TrainSettings
from tinygpt.train.setup import Run, prepare

PUBLISHED = 1.88


def settings(text: str, out: str, seed: int) -> TrainSettings:
    """Return the settings of the recipe, which the docs show as a command."""
    shape = {"layers": 4, "heads": 4, "embed": 128, "seq": 64, "batch": 12}
    rates = {"lr": 1e-3, "min_lr": 1e-4, "warmup": 100, "betas": (0.9, 0.99), "weight_decay": 0.1}
    return TrainSettings(data=[text], out=out, steps=2000, eval_every=250, samples=0, seed=seed, **shape, **rates)


def pytorch_loss(run: Run) -> float:
    """Train PyTorch's model on the batches of `run`; returns its validation loss."""
    import torch

    chosen = run.settings.optimisation
    peer = TorchGPT.of(run.model, run.settings.peak_lr, chosen.betas, chosen.weight_decay)
    for step in range(run.total_steps):
        x, y = run.windows.batch(step * chosen.batch, chosen.batch)
        peer.step(x, y, run.schedule(step))
    windows = StridedWindows(run.corpus.validation, run.settings.model.seq)
    inputs, targets, _ = windows.batch(np.arange(windows.n_windows))
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(inputs), 128):
            y = targets[start : start + 128]
            total += peer.loss(inputs[start : start + 128], y).item() * int(np.count_nonzero(y >= 0))
    return total / int(np.count_nonzero(targets >= 0))


def main() -> None:
    """Run the recipe for every seed, and write the losses."""
    text, out, *seeds = sys.argv[1:]
    rows = []
    for seed in map(int, seeds or ["0", "1", "2"]):
        chosen = settings(text, f"{out}.run-{seed}", seed)
        peer = pytorch_loss(prepare(chosen, Report()))
        score = train(chosen)
        rows.append({"seed": seed, "val_loss": score.loss, "pytorch_val_loss": peer})
        print(rows[-1], flush=True)
        n = threads.get_num_threads()
        facts = f"{processor()}, {n} thread{'s' * (n > 1)}"
        Path(out).write_text(json.dumps({"machine": facts, "runs": rows, "published": PUBLISHED}, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main()
