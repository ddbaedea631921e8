"""AdamW and Muon on real code for the same time: the modules of Python's standard library.

usage: python benchmarks/optimizers.py OUT.json [--seconds 40] [--only NAME]

Every run gets as many steps as fit the seconds, by a calibration of its own, so that its learning rate reaches the end
of its schedule. Evaluations are not counted. Both optimizers are tried at three learning rates, because one that suits
AdamW need not suit Muon. Results are added to OUT.json run by run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from tinygpt.cli.info import processor
from tinygpt.kernels import threads
from tinygpt.runs.metrics import read_metrics
from tinygpt.train.loop import train
from tinygpt.train.settings import TrainSettings

SHAPE = {"layers": 4, "heads": 4, "embed": 128, "seq": 128, "batch": 16}
RATES = (8e-4, 1.6e-3, 3.2e-3)
RUNS = {f"{optimizer} {rate:g}": (optimizer, rate) for optimizer in ("adamw", "muon") for rate in RATES}
CALIBRATION = 25  # steps; the first ones also pay for memory pages


def settings(out: Path, optimizer: str, rate: float, steps: int, evaluations: int) -> TrainSettings:
    """Return the settings of a run."""
    library = Path(json.__file__).parents[1]
    return TrainSettings(
        data=[str(library / "*.py")], out=str(out), optimizer=optimizer, lr=rate, steps=steps, samples=0, keep=1,
        eval_every=max(1, steps // evaluations), checkpoint_every=10 * steps, warmup=40, **SHAPE,
    )  # fmt: skip


def measure(optimizer: str, rate: float, seconds: float) -> dict[str, object]:
    """Calibrate, train, and return the loss of the best model on the whole validation split."""
    with tempfile.TemporaryDirectory() as folder:
        train(settings(Path(folder, "short"), optimizer, rate, CALIBRATION, 1))
        taken = [line["seconds"] for line in read_metrics(Path(folder, "short", "metrics.jsonl")) if "loss" in line]
        each = (taken[-1] - taken[4]) / (len(taken) - 5)
        out, steps = Path(folder, "long"), round(seconds / each)
        score = train(settings(out, optimizer, rate, steps, 8))
        lines = read_metrics(out / "metrics.jsonl")
        losses = [(line["step"] + 1, round(line["val_loss"], 4)) for line in lines if "val_loss" in line]
        took = [line["seconds"] for line in lines if "loss" in line][-1]
    found = {"optimizer": optimizer, "lr": rate, "steps": steps, "seconds": round(took, 1)}
    return found | {"val_loss": round(score.loss, 4), "curve": losses}


def main() -> None:
    """Measure all runs, or one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=40.0, help="training time of each run")
    parser.add_argument("--only", choices=RUNS, help="one run")
    given = parser.parse_args()
    found = json.loads(given.out.read_text()) if given.out.exists() else {"runs": {}}
    for name in [given.only] if given.only else list(RUNS):
        found["runs"][name] = measure(*RUNS[name], given.seconds)
        print(name, found["runs"][name], flush=True)
        found |= {
            "machine": processor(),
            "threads": threads.get_num_threads(),
            "date": time.strftime("%Y-%m-%d"),
            "seconds": given.seconds,
            "shape": SHAPE,
        }
        given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
