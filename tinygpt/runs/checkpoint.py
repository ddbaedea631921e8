"""Checkpoints: the whole state of a training run after a step, saved and restored bit for bit.

Design
- A checkpoint is a folder of its own, finished under a hidden name and renamed once: it exists whole or not at all.
- Loading checks every tensor before it changes the first, so that the model is unchanged after an error. Every tensor
  is therefore read twice; keeping all of them would take the memory of a second model and a second optimizer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tinygpt import lora
from tinygpt.files import adapters, hf, model_directory, weights
from tinygpt.io import atomic, checksums
from tinygpt.io.records import is_number
from tinygpt.io.strict import MAX_BYTES, StrPath, is_count, naming, read_object, shown
from tinygpt.model import GPT
from tinygpt.nn import Parameter
from tinygpt.optim import Optimizer
from tinygpt.runs.layout import CHECKPOINTS, DAMAGED, OPTIMIZER, STATE, STEP, WRITTEN, checkpoint_directory, checkpoints
from tinygpt.tokenizers import Tokenizer


def save_checkpoint(
    directory: StrPath, model: GPT, tokenizer: Tokenizer | None, optimizer: Optimizer, state: dict[str, Any]
) -> None:
    """Write the whole state of a training run.

    Parameters
    ----------
    directory : path
        Directory of the checkpoint, see `checkpoint_directory`; created with its parents. An existing one is replaced.
    model : GPT
        If it has adapters, only they are written, because nothing else is trained.
    tokenizer : Tokenizer or None
        Saved beside the model.
    optimizer : Optimizer
        Its parameters must be those of the model.
    state : dict
        State of the training loop, as plain JSON: None, bool, int, finite float, str, and lists and str-keyed dicts of
        them. Must have a count from 0 as `step`.

    Raises
    ------
    TypeError, ValueError
        `state` is not plain JSON, the optimizer belongs to another model, or a value is NaN or infinite. Nothing is
        written.
    OSError
        A file cannot be written.
    """
    target = Path(directory)
    text = _state_text(state)
    tensors = _optimizer_tensors("save_checkpoint", model, optimizer)
    model_directory.check_vocabulary("[save_checkpoint] 'tokenizer'", model.config, tokenizer)
    atomic.make_directory(target.parent)
    with atomic.temporary_directory(target) as temporary:
        if lora.of(model) is None:
            model_directory.write_model(temporary, model, tokenizer)
        else:
            (temporary / adapters.FOLDER).mkdir()
            adapters.write(temporary / adapters.FOLDER, model)
        metadata = {"format": "pt", "optimizer": type(optimizer).__name__, "steps": str(optimizer.steps)}
        weights.write(temporary / OPTIMIZER, tensors.items(), metadata)
        atomic.write_text(temporary / STATE, text)
        checksums.write(temporary)
        atomic.replace_directory(temporary, target)


def load_checkpoint(directory: StrPath, model: GPT, optimizer: Optimizer) -> dict[str, Any]:
    """Restore the state that `save_checkpoint` wrote, bit for bit.

    Parameters
    ----------
    directory : path
        Directory of the checkpoint.
    model : GPT
        Must have the same config; receives the weights. A model with adapters receives only those, and must have the
        same base weights.
    optimizer : Optimizer
        Must be of the same class, with the same parameters. Receives the optimizer state and the number of steps. The
        learning rate and other settings are left to the caller.

    Returns
    -------
    dict
        The `state` that was saved.

    Raises
    ------
    FileNotFoundError
        The directory or one of its files is missing.
    ValueError
        A file is damaged, or belongs to another model or optimizer. Model and optimizer are then unchanged.
    """
    folder = Path(directory)
    assign = model_directory.open_model(folder, model) if lora.of(model) is None else _open_adapters(folder, model)
    state = read_object(folder / STATE)
    with naming(folder / STATE):
        _check_state(state)
    held = _optimizer_tensors("load_checkpoint", model, optimizer)
    moments, steps = _open_optimizer(folder / OPTIMIZER, held, type(optimizer).__name__)
    for name in held:  # not kept for the copy, because that would take the memory of a second optimizer
        moments.read(name)
    checksums.check(folder)
    assign()
    for name, array in held.items():
        array[...] = moments.read(name)
    optimizer.steps = steps
    return state


def check_checkpoint(directory: StrPath) -> None:
    """Raise an error if a file of a checkpoint is missing or damaged.

    Parameters
    ----------
    directory : path
        Directory of the checkpoint. One of an earlier version has no checksums, so that only the form of its files is
        checked.

    Raises
    ------
    FileNotFoundError, ValueError
        The message names the file.
    """
    folder = Path(directory)
    state = read_object(folder / STATE)
    with naming(folder / STATE):
        _check_state(state)
    for file in (OPTIMIZER, hf.WEIGHTS):
        if file == OPTIMIZER or not (folder / adapters.FOLDER).is_dir():
            weights.TensorFile(folder / file)
    checksums.check(folder)


def _open_adapters(folder: Path, model: GPT) -> Callable[[], None]:
    """Check every tensor of the adapters in a checkpoint, and return a function that copies them into the model."""
    source = adapters.AdapterFiles(folder / adapters.FOLDER)
    source.check(model)
    return lambda: source.assign(model)


def prune_checkpoints(run_directory: StrPath, keep: int = 2, spare: int | None = None) -> None:
    """Remove all but the newest checkpoints, and the temporary directories that killed saves left behind.

    Parameters
    ----------
    run_directory : path
        No other process may be writing there, because the temporary directory of its save would be removed too.
    keep : int
        Number of checkpoints to keep, at least 1.
    spare : int, optional
        Step of one more checkpoint to keep.

    Raises
    ------
    ValueError
        `keep` is less than 1.
    OSError
        A directory cannot be removed.
    """
    if keep < 1:
        raise ValueError(f"[prune_checkpoints] 'keep' must be at least 1, got {keep}")
    run = Path(run_directory)
    for old in checkpoints(run)[:-keep]:
        if spare is None or old != checkpoint_directory(run, spare):
            atomic.remove_directory(old)
    remove_leftovers(run)


def remove_leftovers(run_directory: StrPath) -> None:
    """Remove the temporary files that killed processes left in a run directory, and restore what they had moved aside.

    Parameters
    ----------
    run_directory : path
        No other process may be writing there.
    """
    run = Path(run_directory)
    for folder, names in ((run, WRITTEN), (run / CHECKPOINTS, rf"{STEP.pattern}(?:{re.escape(DAMAGED)})?")):
        if folder.is_dir():
            atomic.remove_leftovers(folder, names)


def set_aside(run_directory: StrPath, after: StrPath) -> None:
    """Rename the checkpoints that are newer than `after`, which are damaged, to ``step-N.damaged``."""
    found = checkpoints(run_directory)
    for path in found[found.index(Path(after)) + 1 :]:
        atomic.replace_directory(path, path.with_name(path.name + DAMAGED))


def _check_state(state: dict[str, Any]) -> None:
    """Raise ValueError unless the state that was read has a step, and numbers that a run can continue with."""
    if not is_count(state.get("step")):
        raise ValueError(f"'step' must be a count from 0, got {shown(state.get('step'))}")
    for name in {"seconds", "best_val_loss"} & state.keys():
        value = state[name]
        if not (is_number(value) and value >= 0) and not (name == "best_val_loss" and value is None):
            raise ValueError(f"'{name}' must be a finite number from 0, got {shown(value)}")
    if state.get("best_step") is not None and not is_count(state["best_step"]):
        raise ValueError(f"'best_step' must be a count from 0, got {shown(state['best_step'])}")


def _state_text(state: dict[str, Any]) -> str:
    """Format `state` as JSON, and check that reading it gives the same state: a tuple would become a list."""
    try:
        text = json.dumps(state, indent=2, allow_nan=False)
        same = json.loads(text) == state
    except (TypeError, ValueError) as error:
        raise type(error)(f"[save_checkpoint] 'state' must be plain JSON: {error}") from None
    if not (same and isinstance(state, dict)):
        raise TypeError("[save_checkpoint] 'state' must be plain JSON: keys are str, sequences are lists")
    if not is_count(state.get("step")):
        raise ValueError(f"[save_checkpoint] 'state' must have a count from 0 as 'step', got {state.get('step')!r}")
    if len(text) >= MAX_BYTES:
        raise ValueError(f"[save_checkpoint] 'state' must take less than {MAX_BYTES} bytes as JSON, got {len(text)}")
    return text + "\n"


def _named(op: str, model: GPT, optimizer: Optimizer) -> list[tuple[str, Parameter]]:
    """Pair the parameters of the optimizer with their names in the model."""
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    if any(id(parameter) not in known for parameter in optimizer.parameters):
        raise ValueError(f"[{op}] 'optimizer' must be one of the parameters of 'model'")
    return [(known[id(parameter)], parameter) for parameter in optimizer.parameters]


def _optimizer_tensors(op: str, model: GPT, optimizer: Optimizer) -> dict[str, np.ndarray]:
    """Map the names of the file to views of the optimizer's state."""
    return {
        f"{key}.{name}": array
        for name, parameter in _named(op, model, optimizer)
        for key, array in optimizer.state_of(parameter).items()
    }


def _open_optimizer(file: Path, held: dict[str, np.ndarray], wanted: str) -> tuple[weights.TensorFile, int]:
    """Open the optimizer's file, check it against the state in memory, and return it with the step count."""
    source = weights.TensorFile(file)
    kind, steps = source.metadata.get("optimizer"), source.metadata.get("steps", "")
    if kind != wanted:
        raise ValueError(f"{file}: must be the state of {wanted}, got {shown(kind)}")
    if not re.fullmatch("[0-9]{1,18}", steps):
        raise ValueError(f"{file}: must have a count of steps in its metadata, got {shown(steps)}")
    source.expect(((name, array.shape) for name, array in held.items()), (), "the model")
    return source, int(steps)
