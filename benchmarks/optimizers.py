"""AdamW and Muon on real code for the same time: the modules of Python's standard library.

usage: python benchmarks/optimizers.py OUT.json [--steps 500] [--only NAME]

A step of Muon takes longer, so it gets fewer of them: the cost of a step is measured first, both optimizers in turn,
and the shortest steps are compared, because other programs can only make a step longer. Every run reaches the end of
its schedule. Both optimizers are tried at several learning rates, because one that suits AdamW need not suit Muon.
Results are added to OUT.json run by run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from tinygpt.cli.info import processor
from tinygpt.io import atomic
from tinygpt.kernels import threads
from tinygpt.train.loop import Trainer, train
from tinygpt.train.outputs import Outputs
from tinygpt.train.report import Report
from tinygpt.train.settings import TrainSettings
from tinygpt.train.setup import prepare

SHAPE = {"layers": 3, "heads": 4, "embed": 128, "seq": 128, "batch": 16}
OPTIMIZERS = ("adamw", "muon")
RATES = (1.6e-3, 3.2e-3, 6.4e-3, 1.28e-2)
RUNS = {f"{optimizer} {rate:g}": (optimizer, rate) for optimizer in OPTIMIZERS for rate in RATES}
TIMED = 20  # steps of each optimizer whose shortest counts


def settings(out: Path, optimizer: str, rate: float, steps: int) -> TrainSettings:
    """Return the settings of a run; on one thread, which is disturbed least by other programs."""
    library = Path(json.__file__).parents[1]
    return TrainSettings(
        data=[str(library / "*.py")], out=str(out), optimizer=optimizer, lr=rate, steps=steps, samples=0, keep=1,
        eval_every=max(1, steps // 8), checkpoint_every=10 * steps, warmup=40, threads=1, **SHAPE,
    )  # fmt: skip


def step_seconds() -> dict[str, float]:
    """Measure the shortest step of each optimizer, in turn."""
    trainers = {}
    for optimizer in OPTIMIZERS:
        run = prepare(settings(Path("unused"), optimizer, RATES[0], 1000), Report())
        trainers[optimizer] = Trainer(run, Path("unused"), Outputs(run.settings.output, Report()))
    taken: dict[str, list[float]] = {optimizer: [] for optimizer in OPTIMIZERS}
    with threads.fixed(1):
        for _ in range(TIMED):
            for optimizer, trainer in trainers.items():
                before = trainer.seconds
                trainer.one_step()
                trainer.step += 1
                taken[optimizer].append(trainer.seconds - before)
    return {optimizer: min(seconds) for optimizer, seconds in taken.items()}


def measure(optimizer: str, rate: float, steps: int) -> dict[str, Any]:
    """Train, and return the loss of the best model on the whole validation split."""
    with tempfile.TemporaryDirectory() as folder:
        score = train(settings(Path(folder, "run"), optimizer, rate, steps))
    return {"optimizer": optimizer, "lr": rate, "steps": steps, "val_loss": round(score.loss, 4)}


def main() -> None:
    """Measure all runs, or one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=500, help="steps of AdamW")
    parser.add_argument("--only", choices=RUNS, help="one run")
    given = parser.parse_args()
    if not given.out.exists():
        start = {"machine": processor(), "date": time.strftime("%Y-%m-%d"), "shape": SHAPE, "runs": {}}
        atomic.write_text(given.out, json.dumps(start | {"step_seconds": step_seconds()}, indent=1) + "\n")
    each = json.loads(given.out.read_text())["step_seconds"]
    for name in [given.only] if given.only else list(RUNS):
        optimizer, rate = RUNS[name]
        result = measure(optimizer, rate, round(given.steps * each["adamw"] / each[optimizer]))
        print(name, result, flush=True)
        found = json.loads(given.out.read_text())
        found["runs"][name] = result
        atomic.write_text(given.out, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
