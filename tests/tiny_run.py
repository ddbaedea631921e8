"""A small tree of sources, and settings for training runs that take a fraction of a second."""

import json
from pathlib import Path

import numpy as np
from safetensors import safe_open

from tinygpt.io import checksums
from tinygpt.train.loop import Trainer
from tinygpt.train.outputs import Outputs
from tinygpt.train.report import Report
from tinygpt.train.settings import TrainSettings

NAMES = ("alpha", "beta", "gamma", "delta", "kappa", "sigma", "theta", "omega")
# Fields that may differ between two runs with the same settings. All others must be equal.
CLOCK = ("tokens_per_s", "gflops", "peak_share", "seconds", "resumed")
MODEL = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def write_sources(folder: Path) -> Path:
    """Write eight files that differ in the names they use, so that a small model can learn them."""
    folder.mkdir(parents=True)
    for i, name in enumerate(NAMES):
        other = NAMES[i - 1]
        lines = [f"def {name}_{n}(x):\n    return {other}(x, {n}) + {n}\n" for n in range(1, 9)]
        (folder / f"{name}.py").write_text("\n\n".join(lines))
    return folder


def tiny(sources: Path, out: Path, **changes) -> TrainSettings:
    """Settings for 12 steps: 1 layer, width 16, context 16, batch 4, one thread."""
    shape = {"layers": 1, "embed": 16, "heads": 2, "seq": 16}
    pace = {"steps": 12, "eval_every": 4, "checkpoint_every": 5, "samples": 0, "threads": 1}
    return TrainSettings(**{"data": [str(sources)], "out": str(out), **shape, **pace, **changes})


def train_arrays(run, steps: int) -> np.ndarray:
    """The losses of the first `steps` steps of a prepared run, without writing files."""
    trainer = Trainer(run, Path(), Outputs(run.settings.output, Report()))
    losses = []
    for trainer.step in range(steps):
        losses.append(trainer.one_step()["loss"])
    return np.array(losses)


def flags(settings: TrainSettings, *names: str) -> list[str]:
    """The named settings as command-line flags; by default all that `tiny` sets."""
    words = []
    for name in names or ("data", "out", "layers", "embed", "heads", "seq", "steps", "eval_every", "checkpoint_every",
                          "samples", "threads"):  # fmt: skip
        value = settings.flat()[name]
        words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, (list, tuple)) else [value])]
    return words


def without_clock(records: list[dict]) -> list[dict]:
    """Lines of metrics.jsonl without the fields that depend on the machine's speed."""
    return [{key: value for key, value in record.items() if key not in CLOCK} for record in records]


def content(folder: Path) -> dict[str, bytes]:
    """The bytes of every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def state(folder: Path) -> dict:
    """Read the content of a checkpoint or model directory for comparison.

    The order within files and the elapsed seconds are left out. The checksums depend on both, so they are only checked
    against the files.
    """
    said = {}
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        if path.suffix == ".safetensors":
            with safe_open(path, "numpy") as file:
                said[path.name] = file.metadata(), {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118 - no dict
        elif path.name == checksums.NAME:
            said[path.name] = checksums.check(folder)
        elif path.name in ("config.json", "tokenizer.json", "tokenizer_config.json", "state.json"):
            said[path.name] = {key: value for key, value in json.loads(path.read_text()).items() if key != "seconds"}
    return said


class Listening(Report):
    """A report that keeps all events; `at` maps a step to a function called after it."""

    def __init__(self, **at):
        self.facts, self.notes, self.records, self.evaluations = {}, [], [], []
        self.at = {int(name.removeprefix("step")): call for name, call in at.items()}

    def fact(self, name, text):
        self.facts[name] = text

    def note(self, text):
        self.notes.append(text)

    def step(self, record):
        self.records.append(record)
        self.at.get(record["step"], lambda: None)()

    def evaluation(self, record, best):
        self.evaluations.append((record, best))
