"""Runs read back from their files: records, settings and model size, as a page shows them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinygpt.config import GPTConfig
from tinygpt.files import config as config_file
from tinygpt.io.records import Record, Records, is_number
from tinygpt.io.strict import StrPath, is_count, read_toml
from tinygpt.model import GPT
from tinygpt.runs.layout import METRICS, SETTINGS, WATCH, latest_checkpoint
from tinygpt.runs.metrics import MOST_KEPT, Kept, check_metrics
from tinygpt.runs.watch import MOST_WATCHED, check_watch

MAX_SETTINGS_BYTES = 2**20


@dataclass(eq=False)
class RunData:
    """One run, as a page shows it.

    Attributes
    ----------
    name : str
        Title of the run in the page.
    records : list of dict
        Lines of metrics.jsonl.
    settings : dict
        The table of run.toml; empty if there is no such file.
    vocab_size, parameters, total_steps : int or None
        None if no file of the run has the value.
    watch : list of dict
        Lines of watch.jsonl.
    state : str
        ``running``, ``complete``, ``stopped``, or empty for a run read from its files.
    score : float or None
        Loss of the best model on the whole validation split.
    notes : list of str
        Remarks on the files, for the reader of the page.
    """

    name: str
    records: list[Record]
    settings: dict[str, Any] = field(default_factory=dict)
    vocab_size: int | None = None
    parameters: int | None = None
    total_steps: int | None = None
    watch: list[Record] = field(default_factory=list)
    state: str = ""
    score: float | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def steps(self) -> list[Record]:
        """The records of steps."""
        return [record for record in self.records if record.get("loss") is not None]

    @property
    def evaluations(self) -> list[Record]:
        """The records of evaluations."""
        return [record for record in self.records if record.get("val_loss") is not None]

    @property
    def resumptions(self) -> list[int]:
        """Steps at which the run was resumed."""
        return [record["step"] for record in self.records if record.get("resumed")]

    @property
    def tokens_per_step(self) -> int | None:
        """Number of tokens in the batch of one step; None if the settings do not say."""
        sizes = [_count(self.settings.get(name)) for name in ("batch", "grad-accum", "seq")]
        return math.prod(sizes) or None

    @property
    def warmup(self) -> int:
        """Number of warm-up steps, by the rule of `tinygpt.train.setup`."""
        if self.total_steps is None or self.settings.get("schedule") == "constant":
            return 0
        return min(_count(self.settings.get("warmup")), self.total_steps // 10)

    @property
    def clip(self) -> float | None:
        """Norm to which gradients are clipped; None without clipping."""
        return _positive(self.settings.get("clip"))


def read_run(path: StrPath) -> RunData:
    """Read a run from its directory, or from its metrics.jsonl and the files beside it.

    Parameters
    ----------
    path : path
        A run directory, or a file in the format of metrics.jsonl.

    Returns
    -------
    RunData
        An unfinished last line is left out, and a note says so.

    Raises
    ------
    FileNotFoundError
        The path does not exist or is not a run.
    ValueError
        A file is damaged; the message names the file and the line.
    """
    given = Path(path)
    if not given.exists():
        raise FileNotFoundError(f"{path}: no such run")
    folder, file = (given, given / METRICS) if given.is_dir() else (given.parent, given)
    if not file.exists():
        raise FileNotFoundError(f"{path} is not a training run: it has no {METRICS}")
    run = RunData(str(path), [])
    run.records = _read(file, check_metrics, run.notes)
    run.settings = _settings(folder / SETTINGS)
    if (folder / WATCH).exists():
        run.watch = _read(folder / WATCH, check_watch, run.notes, MOST_WATCHED)
    config = _config(folder)
    if config is not None:
        run.vocab_size = config.vocab_size
        run.parameters = GPT(config, None).num_parameters()
    run.total_steps = _total(run)
    return run


def _count(value: Any) -> int:
    """Return a setting that is a count; 0 for any other value."""
    return int(value) if is_count(value) else 0


def _positive(value: Any) -> float | None:
    """Return a setting that is a positive number; None for any other value."""
    return float(value) if is_number(value) and value > 0 else None


def _read(file: Path, check: Any, notes: list[str], most: int = MOST_KEPT) -> list[Record]:
    """Read the records of a file, whose steps must not go back; note an incomplete last line and thinning."""
    found, kept, before = Records(file, check), Kept(most), -1
    for record in found:
        if record["step"] < before:
            raise ValueError(f"{file}: step {record['step']} comes after step {before}")
        before = record["step"]
        kept.add(record)
    if found.torn is not None:
        notes.append(f"{file}: line {found.torn} is incomplete and is left out: the run was cut off while writing it.")
    if kept.stretch > 1:
        notes.append(thinning(file.name, kept.stretch))
    return kept.records


def thinning(name: str, stretch: int) -> str:
    """Say that a run is too long for all of its records to be shown."""
    return (
        f"{name} is long: of every {stretch:,} records the page uses the first, those with the lowest and the highest "
        "loss and the one with the highest gradient norm. Averages and smooth curves are those of these records."
    )


def _settings(file: Path) -> dict[str, Any]:
    """Read the settings of a run; none if it has no such file."""
    if not file.exists():
        return {}
    return read_toml(file, MAX_SETTINGS_BYTES)


def _config(folder: Path) -> GPTConfig | None:
    """Read the config of the run's model; before the first evaluation only a checkpoint has one."""
    places = [folder, latest_checkpoint(folder) if folder.is_dir() else None]
    for place in places:
        if place is not None and (place / config_file.NAME).exists():
            return config_file.read(place)[1]
    return None


def _total(run: RunData) -> int | None:
    """Return the number of steps in the settings; with epochs, compute it from the steps per epoch so far."""
    steps, epochs = _count(run.settings.get("steps")), _positive(run.settings.get("epochs"))
    tokens = _count(run.settings.get("tokens"))
    if tokens and run.tokens_per_step:
        return -(-tokens // run.tokens_per_step)
    if steps or epochs is None:
        return steps or None
    # The epoch of a step is step x sequences / windows. The last one has the smallest relative rounding error.
    made = [record for record in run.steps if is_number(record.get("epoch")) and record["epoch"] > 0]
    if not made:
        return None
    last = made[-1]
    return max(last["step"] + 1, round(epochs * last["step"] / last["epoch"]))


def differences(runs: Sequence[RunData]) -> list[str]:
    """List the settings in which runs differ, in the order of run.toml.

    Parameters
    ----------
    runs : sequence of RunData
        Runs to compare.

    Returns
    -------
    list of str
        Names, without `out`, which always differs.
    """
    names = dict.fromkeys(name for run in runs for name in run.settings)
    return [name for name in names if name != "out" and len({as_text(run.settings.get(name)) for run in runs}) > 1]


def as_text(value: Any) -> str:
    """Format the value of a setting for a page."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    return ", ".join(map(as_text, value)) if isinstance(value, list) else str(value)
