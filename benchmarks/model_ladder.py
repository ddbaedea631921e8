"""Train the models of the tutorial "A ladder of models" for longer than its cells do: validation loss over steps.

    python benchmarks/model_ladder.py --steps 8000 --out docs/data/model_ladder.json

Text, models and settings are those of docs/tutorials/model_ladder.py. The result depends on the seed and on the text of
this Python's standard library, not on the machine's speed.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs" / "tutorials"))

import model_ladder  # noqa: E402

T = 64
MARKS = (100, 250, 500, 1000, 2000, 4000, 8000, 16000)


def follow(name: str, steps: int, text: np.ndarray, validation: np.ndarray, V: int) -> dict:
    """Train one model and record its validation loss at the marks; every mark is a step of one and the same run."""
    make, lr = model_ladder.MODELS[name]
    model = make(V, T)
    found: dict = {"name": name, "lr": lr, "steps": [], "loss": []}
    for step, _ in model_ladder.train(model, text, T, steps, lr):
        if step in MARKS or step == steps:
            found["steps"].append(step)
            found["loss"].append(model_ladder.validation_loss(model, validation, T))
    found["parameters"] = model.num_parameters()
    return found


def main() -> None:
    """Write the losses of all models to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    train, validation = model_ladder.read_corpus()
    letters = sorted(set(train))
    ids = {letter: i for i, letter in enumerate(letters)}
    text, other = (np.array([ids[c] for c in part if c in ids], np.int32) for part in (train, validation))
    runs = []
    for name in model_ladder.MODELS:
        runs.append(follow(name, given.steps, text, other, len(letters)))
        print(f"{name:16} {runs[-1]['loss'][-1]:.3f}", flush=True)
    result = {"python": platform.python_version(), "characters": len(text), "vocabulary": len(letters), "runs": runs}
    given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
