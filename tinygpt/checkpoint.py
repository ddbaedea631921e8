"""Models and whole training states on disk.

    run/config.json  model.safetensors  tokenizer.json      a model directory: the best model so far
        tokenizer_config.json                                   tells transformers how to read tokenizer.json
    run/checkpoints/step-N/                                 the same, and what it takes to go on:
        optimizer.safetensors                                   m.<parameter>, v.<parameter>; class and steps
        state.json                                              step, losses, ...: whatever the training loop keeps
        adapter/                                                instead of the model, where adapters alone are trained

Design
- A run directory holds more than the model (metrics, checkpoints), so it cannot be replaced as a whole: the files of a
  save are finished in a temporary folder inside, then moved out one right after the other. During a run only the
  weights differ from what is there, so a kill at any point leaves a directory that loads.
- A checkpoint is a folder of its own, finished under a hidden name and renamed once: it is there whole or not at all.
- Loading a checkpoint checks every tensor before it changes the first, so after an error the model is as it was. Each
  is read again to be used.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tinygpt import lora, tokenizers
from tinygpt.config import GPTConfig
from tinygpt.files import config as config_file
from tinygpt.files import hf, weights
from tinygpt.io import atomic
from tinygpt.io.strict import MAX_BYTES, StrPath, is_count, naming, read_object, shown
from tinygpt.model import GPT
from tinygpt.nn import Parameter
from tinygpt.optim import Optimizer
from tinygpt.tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
CHECKPOINTS = "checkpoints"
_STEP = re.compile(r"step-(0|[1-9][0-9]{0,17})")
# What a killed save leaves behind: its temporary folder, or the old one that `atomic.replace_directory` moved aside.
_TEMPORARY = re.compile(r"\.(model|step-[0-9]+)\.[0-9a-f]{8}\.(tmp|old)")


def save(
    directory: StrPath,
    model: GPT,
    tokenizer: Tokenizer | None = None,
    dtype: str = "float32",
    progress: weights.Progress | None = None,
) -> None:
    """Write a model directory.

    Parameters
    ----------
    directory : path
        Is made if it is not there. A model in it is replaced; other files stay.
    model : GPT
        With adapters, what is written is the model that they make, and in a folder ``adapter`` they themselves.
    tokenizer : Tokenizer, optional
    dtype : str
        Of the weights in the file: float32, float16 or bfloat16.
    progress : callable, optional
        Is called with the number of values written and that of all, after every tensor.

    Raises
    ------
    ValueError
        A weight is NaN or infinite, or too large for `dtype`; the tokenizer has more tokens than the model; or none is
        given and the directory holds one from an earlier save, which nothing says fits this model. The directory is
        then as it was.
    OSError
        A file cannot be written.
    """
    folder = Path(directory)
    if tokenizer is None and (folder / TOKENIZER).exists():
        raise ValueError(f"{folder / TOKENIZER}: belongs to an earlier save: pass a tokenizer too, or remove the file")
    check_vocabulary("[save] 'tokenizer'", model.config, tokenizer)
    folder.mkdir(parents=True, exist_ok=True)
    with _temporary(folder / "model") as temporary:  # the name that `prune_checkpoints` knows
        with lora.merged_weights(model):
            _write_model(temporary, model, tokenizer, dtype, progress)
        # The config first: a new one beside old weights of another shape is refused by name, not misread.
        for name in (config_file.NAME, TOKENIZER_CONFIG, TOKENIZER, hf.WEIGHTS):
            if (temporary / name).exists():
                os.replace(temporary / name, folder / name)
        atomic.sync_folder(folder)
    if lora.of(model) is not None:
        lora.save(folder / lora.FOLDER, model)


def load(directory: StrPath, weights: str = "float32") -> tuple[GPT, Tokenizer | None]:
    """Read a model directory.

    Parameters
    ----------
    directory : path
    weights : str
        ``float32``; or ``bfloat16`` or ``int8``: weights then take 2 or 1.06 bytes each, and the model only runs.

    Returns
    -------
    model : GPT
    tokenizer : Tokenizer or None
        None if there is no tokenizer.json.

    Raises
    ------
    FileNotFoundError
        The directory or one of its files is missing.
    ValueError
        A file is not what it must be. The message is one line with the file's name and what is wrong. Or `weights` is
        none of these.
    """
    folder = Path(directory)
    model = hf.read(folder, weights)
    if not (folder / TOKENIZER).exists():
        return model, None
    tokenizer = tokenizers.load(folder / TOKENIZER)
    check_vocabulary(f"{folder / TOKENIZER}:", model.config, tokenizer)
    return model, tokenizer


def checkpoint_directory(run_directory: StrPath, step: int) -> Path:
    """Where the checkpoint of a step lies in a run directory."""
    return Path(run_directory) / CHECKPOINTS / f"step-{step}"


def save_checkpoint(
    directory: StrPath, model: GPT, tokenizer: Tokenizer | None, optimizer: Optimizer, state: dict[str, Any]
) -> None:
    """Write a whole training state.

    Parameters
    ----------
    directory : path
        Of this checkpoint, see `checkpoint_directory`; is made, with its parents. One of that name is replaced.
    model : GPT
        With adapters, they alone are written: they are all that is trained.
    tokenizer : Tokenizer or None
    optimizer : Optimizer
        Of parameters of the model.
    state : dict
        Plain JSON: None, bool, int, finite float, str, and lists and str-keyed dicts of them. `step` must be there, a
        count from 0.

    Raises
    ------
    TypeError, ValueError
        `state` is not plain JSON, the optimizer is of another model, or a value is NaN or infinite. Nothing is written.
    OSError
        A file cannot be written.
    """
    target = Path(directory)
    text = _state_text(state)
    tensors = _optimizer_tensors("save_checkpoint", model, optimizer)
    check_vocabulary("[save_checkpoint] 'tokenizer'", model.config, tokenizer)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(target) as temporary:
        if lora.of(model) is None:
            _write_model(temporary, model, tokenizer)
        else:
            (temporary / lora.FOLDER).mkdir()
            lora.write(temporary / lora.FOLDER, model)
        metadata = {"format": "pt", "optimizer": type(optimizer).__name__, "steps": str(optimizer.steps)}
        weights.write(temporary / OPTIMIZER, tensors.items(), metadata)
        atomic.write_text(temporary / STATE, text)
        atomic.replace_directory(temporary, target)


def load_checkpoint(directory: StrPath, model: GPT, optimizer: Optimizer) -> dict[str, Any]:
    """Restore a training state, bit for bit.

    Parameters
    ----------
    directory : path
        Of the checkpoint.
    model : GPT
        Of the same config. Is given the weights; or, where there are adapters, those, over the same base.
    optimizer : Optimizer
        Of the same class and of the same parameters. Is given its state and its count of steps; the learning rate and
        other settings are the caller's.

    Returns
    -------
    dict
        The `state` that was saved.

    Raises
    ------
    FileNotFoundError
        The directory or one of its files is missing.
    ValueError
        A file is not what it must be, or belongs to another model or optimizer. Neither has then been changed.
    """
    folder = Path(directory)
    assign = _open_model(folder, model) if lora.of(model) is None else _open_adapters(folder, model)
    state = read_object(folder / STATE)
    with naming(folder / STATE):
        _check_state(state)
    held = _optimizer_tensors("load_checkpoint", model, optimizer)
    moments, steps = _open_optimizer(folder / OPTIMIZER, held, type(optimizer).__name__)
    for name in held:  # kept from the check to the use, the values would take the memory of a second optimizer
        moments.read(name)
    assign()
    for name, array in held.items():
        array[...] = moments.read(name)
    optimizer.steps = steps
    return state


def load_weights(directory: StrPath, model: GPT) -> None:
    """Give a model the weights of a model directory of the same config, without making a second model.

    Parameters
    ----------
    directory : path
    model : GPT
        Without adapters.

    Raises
    ------
    FileNotFoundError, ValueError
        As `load`, or the directory holds another model. The model is then as it was.
    """
    _open_model(Path(directory), model)()


def _open_model(folder: Path, model: GPT) -> Callable[[], None]:
    """Check every tensor of a model directory; what is returned copies them into the model."""
    source = hf.ModelDirectory(folder)
    _check_config(folder / config_file.NAME, source, model)
    for _ in source.values():  # kept until they are used, the values would take the memory of a second model
        pass
    return lambda: hf.assign(model, source.values())


def _open_adapters(folder: Path, model: GPT) -> Callable[[], None]:
    """The same for the adapters of a checkpoint."""
    source = lora.AdapterFiles(folder / lora.FOLDER)
    source.check(model)
    return lambda: source.assign(model)


def latest_checkpoint(run_directory: StrPath) -> Path | None:
    """The checkpoint of the highest step in a run directory.

    Parameters
    ----------
    run_directory : path

    Returns
    -------
    Path or None
        None if there is none. What is named otherwise than ``step-N`` is not looked at.
    """
    found = _checkpoints(run_directory)
    return found[-1] if found else None


def prune_checkpoints(run_directory: StrPath, keep: int = 2) -> None:
    """Remove all checkpoints but the newest, and what killed saves have left.

    Only one process may write to a run directory, as the temporary of a save that is going on goes too.

    Parameters
    ----------
    run_directory : path
    keep : int
        At least 1.

    Raises
    ------
    ValueError
        `keep` is less than 1.
    OSError
        A directory cannot be removed.
    """
    if keep < 1:
        raise ValueError(f"[prune_checkpoints] 'keep' must be at least 1, got {keep}")
    for old in _checkpoints(run_directory)[:-keep]:
        # First out of sight: a kill in the middle must not leave half a checkpoint under a good name.
        hidden = _hidden(old)
        os.rename(old, hidden)
        shutil.rmtree(hidden)
    for parent in (Path(run_directory), Path(run_directory) / CHECKPOINTS):
        for path in list(parent.iterdir()) if parent.is_dir() else []:
            left = _TEMPORARY.fullmatch(path.name)
            # An old tree is all that is left of its step if the kill came before the new one had its name.
            if left and path.is_dir() and (left[2] == "tmp" or (parent / left[1]).exists()):
                shutil.rmtree(path)


def _checkpoints(run_directory: StrPath) -> list[Path]:
    """All checkpoints of a run, by step."""
    parent = Path(run_directory) / CHECKPOINTS
    found = [path for path in parent.iterdir() if _STEP.fullmatch(path.name)] if parent.is_dir() else []
    return sorted((path for path in found if path.is_dir()), key=lambda path: int(path.name.removeprefix("step-")))


def _hidden(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


@contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """A new directory with a hidden name beside `target`; what is left of it at the end is removed."""
    made = _hidden(target)
    made.mkdir()  # with the permissions of any new folder, which tempfile would take from group and others
    try:
        yield made
    finally:
        if made.exists():
            shutil.rmtree(made)


def _write_model(
    folder: Path,
    model: GPT,
    tokenizer: Tokenizer | None,
    dtype: str = "float32",
    progress: weights.Progress | None = None,
) -> None:
    if tokenizer is None:
        hf.write(folder, model, dtype=dtype, progress=progress)
    else:
        hf.write(folder, model, tokenizer.start_id, tokenizer.end_ids, dtype, progress)
        tokenizer.save(folder / TOKENIZER)
        # By model_type alone, AutoTokenizer would take GPT-2's own class, which splits and drops spaces.
        facts = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": model.config.block_size}
        facts.update(tokenizer.config_fields())
        atomic.write_text(folder / TOKENIZER_CONFIG, json.dumps(facts, indent=2) + "\n")


def check_vocabulary(what: str, config: GPTConfig, tokenizer: Tokenizer | None) -> None:
    """Raise ValueError for ids without a row in the model; the model may have more rows, for alignment.

    Parameters
    ----------
    what : str
        The words that the message begins with.
    config : GPTConfig
    tokenizer : Tokenizer or None
    """
    if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
        raise ValueError(f"{what} must have at most the model's {config.vocab_size} tokens, got {tokenizer.vocab_size}")


def _check_config(file: Path, source: hf.ModelDirectory, model: GPT) -> None:
    """The file must describe the very model that it is loaded into."""
    found, wanted = vars(config_file.canonical(source.config)), vars(config_file.canonical(model.config))
    # A family leaves out what it does not use, such as the rotary base of learned positions.
    skipped = {"rope_theta"} if model.config.position == "learned" else set()
    for name, value in wanted.items():
        if found[name] != value and name not in skipped:
            raise ValueError(f"{file}: belongs to another model: {name} is {found[name]}, this one has {value}")


def _check_state(state: dict[str, Any]) -> None:
    if not is_count(state.get("step")):
        raise ValueError(f"'step' must be a count from 0, got {shown(state.get('step'))}")


def _state_text(state: dict[str, Any]) -> str:
    """`state` as JSON that gives the same back; a tuple, say, would come back as a list."""
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
    """The optimizer's parameters with their names in the model."""
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    if any(id(parameter) not in known for parameter in optimizer.parameters):
        raise ValueError(f"[{op}] 'optimizer' must be one of the parameters of 'model'")
    return [(known[id(parameter)], parameter) for parameter in optimizer.parameters]


def _optimizer_tensors(op: str, model: GPT, optimizer: Optimizer) -> dict[str, np.ndarray]:
    """Views of the optimizer's state, by the names that they have in the file."""
    return {
        f"{key}.{name}": array
        for name, parameter in _named(op, model, optimizer)
        for key, array in optimizer.state_of(parameter).items()
    }


def _open_optimizer(file: Path, held: dict[str, np.ndarray], wanted: str) -> tuple[weights.TensorFile, int]:
    """The file of an optimizer's state, its names and shapes checked against the state that is held, and the steps."""
    source = weights.TensorFile(file)
    kind, steps = source.metadata.get("optimizer"), source.metadata.get("steps", "")
    if kind != wanted:
        raise ValueError(f"{file}: must be the state of {wanted}, got {shown(kind)}")
    if not re.fullmatch("[0-9]{1,18}", steps):
        raise ValueError(f"{file}: must have a count of steps in its metadata, got {shown(steps)}")
    source.expect(((name, array.shape) for name, array in held.items()), (), "the model")
    return source, int(steps)
