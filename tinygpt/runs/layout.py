"""Layout of a run directory: the name of every file in it, and its checkpoints in order.

    run/config.json  model.safetensors  tokenizer.json      a model directory: the best model so far
    run/run.toml                                            the settings of the run
    run/metrics.jsonl                                       one record per step and per evaluation
    run/watch.jsonl                                         statistics of every layer, with the setting watch
    run/run.lock                                            held by the process that trains, see `lock`
    run/checkpoints/step-N/                                 the whole state after N steps: a model directory, and
        optimizer.safetensors                                   the optimizer's state, its class and step count
        state.json                                              step, losses, ...: the state of the training loop
        adapter/                                                instead of the model, where only adapters are trained
        checksums.json                                          of all files of the checkpoint

`tinygpt train` writes these files through `tinygpt.runs`; pages and commands read them through it.
"""

from __future__ import annotations

import re
from pathlib import Path

from tinygpt.files import adapters, model_directory
from tinygpt.io import atomic
from tinygpt.io.strict import StrPath

SETTINGS = model_directory.RUN
METRICS = "metrics.jsonl"
WATCH = "watch.jsonl"
CHECKPOINTS = "checkpoints"
LOCK = "run.lock"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
DAMAGED = ".damaged"  # ends the name of a checkpoint that was found damaged on resuming
# Regular expression of the names that are first written under a temporary name.
_NAMES = (SETTINGS, METRICS, WATCH, model_directory.TEMPORARY, adapters.FOLDER)
WRITTEN = "|".join(map(re.escape, _NAMES))
STEP = re.compile(r"step-(0|[1-9][0-9]{0,17})")


def is_run(directory: StrPath) -> bool:
    """Tell whether a directory holds a run: it has a settings file."""
    return (Path(directory) / SETTINGS).is_file()


def is_begun(directory: StrPath) -> bool:
    """Tell whether a directory holds only what a run writes before its settings, because the run was killed there."""
    left = re.compile(atomic.leftover(WRITTEN))
    return all(path.name in (LOCK, CHECKPOINTS) or left.fullmatch(path.name) for path in Path(directory).iterdir())


def checkpoint_directory(run_directory: StrPath, step: int) -> Path:
    """Return the directory of the checkpoint after `step` steps."""
    return Path(run_directory) / CHECKPOINTS / f"step-{step}"


def checkpoints(run_directory: StrPath) -> list[Path]:
    """List the checkpoints of a run, ordered by step; names other than ``step-N`` are ignored."""
    parent = Path(run_directory) / CHECKPOINTS
    found = [path for path in parent.iterdir() if STEP.fullmatch(path.name)] if parent.is_dir() else []
    return sorted((path for path in found if path.is_dir()), key=lambda path: int(path.name.removeprefix("step-")))


def latest_checkpoint(run_directory: StrPath) -> Path | None:
    """Find the checkpoint with the highest step in a run directory.

    Parameters
    ----------
    run_directory : path

    Returns
    -------
    Path or None
        None if there is no checkpoint.
    """
    found = checkpoints(run_directory)
    return found[-1] if found else None
