"""A small tree of sources, and settings that train on it in the blink of an eye."""

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
# Fields that may differ between two runs of the same settings; all others must not.
CLOCK = ("tokens_per_s", "gflops", "peak_share", "seconds", "resumed")
MODEL = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def write_sources(folder: Path) -> Path:
    """Eight files that differ in the names they use: much to predict, little to learn."""
    folder.mkdir(parents=True)
    for i, name in enumerate(NAMES):
        other = NAMES[i - 1]
        lines = [f"def {name}_{n}(x):\n    return {other}(x, {n}) + {n}\n" for n in range(1, 9)]
        (folder / f"{name}.py").write_text("\n\n".join(lines))
    return folder


def tiny(sources: Path, out: Path, **changes) -> TrainSettings:
    """Settings of a run of 12 steps: 1 layer, 16 wide, context 16, batch 4, on one thread."""
    shape = {"layers": 1, "embed": 16, "heads": 2, "seq": 16}
    pace = {"steps": 12, "eval_every": 4, "checkpoint_every": 5, "samples": 0, "threads": 1}
    return TrainSettings(**{"data": [str(sources)], "out": str(out), **shape, **pace, **changes})


def train_arrays(run, steps: int) -> np.ndarray:
    """The losses of the first `steps` steps of a prepared run, with nothing written."""
    trainer = Trainer(run, Path(), Outputs(run.settings.output, Report()))
    losses = []
    for trainer.step in range(steps):
        losses.append(trainer.one_step()["loss"])
    return np.array(losses)


def flags(settings: TrainSettings, *names: str) -> list[str]:
    """The named settings as a user would type them; all that `tiny` sets by default."""
    words = []
    for name in names or ("data", "out", "layers", "embed", "heads", "seq", "steps", "eval_every", "checkpoint_every",
                          "samples", "threads"):  # fmt: skip
        value = settings.flat()[name]
        words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, (list, tuple)) else [value])]
    return words


def without_clock(records: list[dict]) -> list[dict]:
    """Lines of metrics.jsonl without what depends on the speed of the machine."""
    return [{key: value for key, value in record.items() if key not in CLOCK} for record in records]


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def state(folder: Path) -> dict:
    """Read the content of a checkpoint or a model directory, apart from the order in its files and the seconds it took.

    Of the checksums, which depend on both, only that they are those of the files.
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
    """Keeps what a run says; `at` maps a step to a function that is called after it."""

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
