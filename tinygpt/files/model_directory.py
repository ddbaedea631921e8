"""Model directories: a model and its tokenizer, saved and loaded in the Hugging Face layout.

    config.json  model.safetensors  tokenizer.json          tokenizer.json may be vocab.json and merges.txt of a GPT-2
    tokenizer_config.json                                   tells transformers how to read tokenizer.json
    adapter/                                                the adapters, if the model was trained with some

Design
- A directory may hold more than the model (a run has its metrics and checkpoints there), so it cannot be replaced as a
  whole. The files of a save are finished in a temporary folder inside, then moved out one right after the other. During
  a run only the weights differ from the ones in place, so a kill at any point leaves a directory that loads.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from tinygpt import lora, tokenizers
from tinygpt.config import GPTConfig
from tinygpt.files import adapters, hf, weights
from tinygpt.files import config as config_file
from tinygpt.files.weights import check_sum
from tinygpt.io import atomic
from tinygpt.io.strict import StrPath
from tinygpt.model import GPT
from tinygpt.tokenizers import Tokenizer, gpt2_file
from tinygpt.tokenizers import config_file as tokenizer_config

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
# Files of another program that describe the model before a save. The reader would apply them to the new model too.
_STALE = ("special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "generation_config.json")
# A model directory with a file of this name belongs to a training run (`tinygpt.runs`); imports and exports refuse it.
RUN = "run.toml"
# The temporary folder of a save is named after this, for `atomic.remove_leftovers`.
TEMPORARY = "model"


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
        Created if missing. A model in it is replaced, with the files that describe its special tokens; others stay.
    model : GPT
        A model with adapters is written merged, and its adapters also by themselves in a folder ``adapter``.
    tokenizer : Tokenizer, optional
        Must not have more tokens than the model.
    dtype : str
        Type of the weights in the file: float32, float16 or bfloat16.
    progress : callable, optional
        Called after every tensor with the number of values written and the total.

    Raises
    ------
    ValueError
        A weight is NaN or infinite, or too large for `dtype`; the tokenizer has more tokens than the model; or no
        tokenizer is given and the directory has one from an earlier save, which may not fit this model. The directory
        is then unchanged.
    OSError
        A file cannot be written.
    """
    folder = Path(directory)
    before = tokenizer_file(folder)
    if tokenizer is None and before is not None:
        raise ValueError(f"{before}: belongs to an earlier save: pass a tokenizer too, or remove the file")
    check_vocabulary("[save] 'tokenizer'", model.config, tokenizer)
    atomic.make_directory(folder)
    with atomic.temporary_directory(folder / TEMPORARY) as temporary:
        with lora.merged_weights(model):
            write_model(temporary, model, tokenizer, dtype, progress)
        # The config goes first, because a new config beside old weights of another shape is refused, not misread.
        for name in (config_file.NAME, TOKENIZER_CONFIG, TOKENIZER, hf.WEIGHTS):
            if (temporary / name).exists():
                os.replace(temporary / name, folder / name)
        for name in _STALE:
            (folder / name).unlink(missing_ok=True)
        atomic.sync_folder(folder)
    if lora.of(model) is not None:
        adapters.save(folder / adapters.FOLDER, model)


def load(directory: StrPath, weights: str = "float32") -> tuple[GPT, Tokenizer | None]:
    """Read a model directory.

    Parameters
    ----------
    directory : path
    weights : str
        ``float32``; or ``bfloat16`` or ``int8``, whose weights take 2 or 1.06 bytes each. Such a model cannot be
        trained.

    Returns
    -------
    model : GPT
    tokenizer : Tokenizer or None
        None if the directory has neither a tokenizer.json nor a vocab.json with a merges.txt.

    Raises
    ------
    FileNotFoundError
        The directory or one of its files is missing.
    ValueError
        A file is damaged or does not describe a supported model; the message is one line that names the file and the
        fault. Or `weights` has another value.
    """
    folder = Path(directory)
    source = hf.ModelDirectory(folder)
    tokenizer = load_tokenizer(folder, source)
    model = hf.build(source, weights=weights)
    check_sum(folder / hf.WEIGHTS)
    return model, tokenizer


def tokenizer_file(folder: Path) -> Path | None:
    """Return the file that a directory's tokenizer is read from; None if it has none."""
    if (folder / TOKENIZER).exists():
        return folder / TOKENIZER
    return folder / gpt2_file.VOCAB if gpt2_file.in_folder(folder) else None


def load_tokenizer(folder: Path, source: hf.Source) -> Tokenizer | None:
    """Read the tokenizer of a model directory.

    Parameters
    ----------
    folder : Path
    source : Source
        The model of the directory.

    Returns
    -------
    Tokenizer or None
        None if the directory has no tokenizer.

    Raises
    ------
    ValueError
        The tokenizer is damaged or of another kind than byte-level BPE, or has more tokens than the model.
    """
    file = tokenizer_file(folder)
    if file is None:
        return None
    # The two files of GPT-2 do not say how a text is split. For another model a class of tokenizers must say it.
    if file.name == gpt2_file.VOCAB and source.family != "gpt2" and tokenizer_config.read(folder).kind is None:
        raise ValueError(
            f"{file}: belongs to no GPT-2, so the pattern that splits a text is not known: save the tokenizer with "
            f"transformers as {TOKENIZER}"
        )
    tokenizer = tokenizers.load(folder)
    check_vocabulary(f"{file}:", source.config, tokenizer)
    return tokenizer


def load_weights(directory: StrPath, model: GPT) -> None:
    """Load the weights of a model directory into a model of the same config, without making a second model.

    Parameters
    ----------
    directory : path
    model : GPT
        Must have no adapters.

    Raises
    ------
    FileNotFoundError, ValueError
        The directory cannot be loaded, or holds another model. The model is then unchanged.
    """
    open_model(Path(directory), model)()


def open_model(folder: Path, model: GPT) -> Callable[[], None]:
    """Check every tensor of a model directory, and return a function that copies all of them into the model."""
    source = hf.ModelDirectory(folder)
    _check_config(folder / config_file.NAME, source, model)
    # The values are read again when they are copied, because keeping them would take the memory of a second model.
    for _ in source.values():
        pass
    check_sum(folder / hf.WEIGHTS)
    return lambda: hf.assign(model, source.values())


def check_vocabulary(what: str, config: GPTConfig, tokenizer: Tokenizer | None) -> None:
    """Raise ValueError if a token id has no row in the model; the model may have more rows, for alignment.

    Parameters
    ----------
    what : str
        First words of the message.
    config : GPTConfig
    tokenizer : Tokenizer or None
    """
    if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
        raise ValueError(f"{what} must have at most the model's {config.vocab_size} tokens, got {tokenizer.vocab_size}")


def write_model(
    folder: Path,
    model: GPT,
    tokenizer: Tokenizer | None,
    dtype: str = "float32",
    progress: weights.Progress | None = None,
) -> None:
    """Write the files of a model directory into an empty folder; not atomic, so the folder must be a temporary one."""
    if tokenizer is None:
        hf.write(folder, model, dtype=dtype, progress=progress)
    else:
        hf.write(folder, model, tokenizer.start_id, tokenizer.end_ids, dtype, progress)
        tokenizer.save(folder / TOKENIZER)
        # Without a class here, AutoTokenizer would choose GPT-2's by model_type, which splits and drops spaces.
        facts = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": model.config.block_size}
        facts.update(tokenizer.config_fields())
        atomic.write_text(folder / TOKENIZER_CONFIG, json.dumps(facts, indent=2) + "\n")


def _check_config(file: Path, source: hf.ModelDirectory, model: GPT) -> None:
    """Raise ValueError unless the file describes the model that it is to be loaded into."""
    found, wanted = vars(config_file.canonical(source.config)), vars(config_file.canonical(model.config))
    # A family leaves out what it does not use, such as the rotary base of learned positions.
    skipped = {"rope_theta"} if model.config.position == "learned" else set()
    for name, value in wanted.items():
        if found[name] != value and name not in skipped:
            raise ValueError(f"{file}: belongs to another model: {name} is {found[name]}, this one has {value}")
