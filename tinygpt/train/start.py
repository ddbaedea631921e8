"""The model and tokenizer that a run starts from: fresh, from a model directory, or from the newest checkpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import get_args

from tinygpt import lora
from tinygpt.files import config as config_file
from tinygpt.files import hf, model_directory
from tinygpt.model import GPT
from tinygpt.tokenizers.base import Tokenizer
from tinygpt.train.memory import check_memory
from tinygpt.train.settings import Target, TrainSettings

FURTHER_SEQ = 256  # tokens; the cost of a sequence grows faster than its length
# Peak learning rate times width. At the rate for fresh weights (0.2), a model of 135M parameters lost its knowledge
# within 30 steps. Adapters allow a larger rate, because the weights below them stay frozen.
FURTHER_LR = 0.06
ADAPTER_LR = 0.6
FEWEST_TOKENS = 257  # vocabulary of the smallest character tokenizer: 256 bytes and a separator
# Field of a model's config -> the setting that decides it.
SETTING_OF = {"n_layer": "layers", "n_head": "heads", "n_embd": "embed", "block_size": "seq", "n_kv_head": "kv_heads",
              "ffn_dim": "ffn", "position": "rope", "norm": "rmsnorm", "activation": "swiglu", "bias": "bias",
              "tie_embeddings": "tie", "dropout": "dropout"}  # fmt: skip


@dataclasses.dataclass
class Start:
    """Settings, model and tokenizer at the start of a run.

    Attributes
    ----------
    settings : TrainSettings
        With every default that depends on the model filled in.
    model : GPT or None
        None if it is built later, when the vocabulary is known. Has adapters if the settings ask for them.
    tokenizer : Tokenizer or None
        None if it is trained later.
    """

    settings: TrainSettings
    model: GPT | None = None
    tokenizer: Tokenizer | None = None


def begin_from(settings: TrainSettings, resumed: Path | None = None) -> Start:
    """Load the model and the tokenizer, before anything else is done.

    Parameters
    ----------
    settings : TrainSettings
        Valid settings.
    resumed : Path, optional
        Checkpoint to resume from.

    Returns
    -------
    Start

    Raises
    ------
    FileNotFoundError, ValueError
        There is no such model, it has no tokenizer, or its context is shorter than `seq`.
    """
    if settings.model.from_ is None:
        settings = settings.replace(seq=settings.model.length)
        vocabulary = settings.corpus.vocab_size if settings.corpus.tokenizer_type == "bpe" else FEWEST_TOKENS
        check_memory(settings, settings.model.config(vocabulary))
        return Start(settings, None, None if resumed is None else _tokenizer_of(resumed, settings))
    model, tokenizer = _read(settings, resumed)
    given, config = settings.model, model.config
    check_memory(settings, config)
    if given.dropout is not None:
        model.config = dataclasses.replace(config, dropout=given.dropout)
    if (given.seq or 1) > config.block_size:
        raise ValueError(f"[train] 'seq' {given.seq} must be at most the context of the model, {config.block_size}")
    rate = (FURTHER_LR if given.lora_rank is None else ADAPTER_LR) / config.n_embd
    lr = settings.optimisation.lr
    settings = settings.replace(seq=given.seq or min(config.block_size, FURTHER_SEQ), lr=rate if lr is None else lr)
    if given.lora_rank is not None:
        settings = _add_adapters(settings, model, given.lora_rank)
    return Start(settings, model, tokenizer)


def _tokenizer_of(resumed: Path, settings: TrainSettings) -> Tokenizer | None:
    """Load the tokenizer of a checkpoint; ValueError if the settings describe another model than the checkpoint has."""
    source = hf.ModelDirectory(resumed)
    wanted = vars(config_file.canonical(settings.model.config(source.config.vocab_size)))
    for field, found in vars(config_file.canonical(source.config)).items():
        if field in SETTING_OF and found != wanted[field]:
            raise ValueError(
                f"[train] '{SETTING_OF[field]}' cannot change when a run is resumed: the checkpoint has {field} "
                f"{found}, not {wanted[field]}"
            )
    return model_directory.load_tokenizer(resumed, source)


def _add_adapters(settings: TrainSettings, model: GPT, rank: int) -> TrainSettings:
    """Add adapters to a model; returns the settings with the adapters' defaults filled in."""
    given = settings.model
    base = str(Path(given.from_ or "").expanduser().absolute())
    lora.add(model, rank, given.lora_alpha, given.lora_targets, settings.optimisation.seed, base=base)
    adapters = lora.of(model)
    if adapters is None:
        return settings
    targets = [name for name in get_args(Target) if name in adapters.targets]
    return settings.replace(lora_alpha=adapters.alpha, lora_targets=targets)


def _read(settings: TrainSettings, resumed: Path | None) -> tuple[GPT, Tokenizer]:
    """Load the model to train further, or its newest checkpoint, unless that holds adapters alone."""
    folder = Path(settings.model.from_ or "").expanduser()
    if resumed is not None and settings.model.lora_rank is None:
        folder = resumed
    try:
        model, tokenizer = model_directory.load(folder)
    except FileNotFoundError as error:
        if resumed is None:
            raise
        where = f"the run in {settings.output.out} needs it; say with 'from' where it is now"
        raise FileNotFoundError(f"[train] {error}; {where}") from None
    if tokenizer is None:
        raise ValueError(f"{folder}: there is no tokenizer.json, so text cannot be turned into tokens")
    return model, tokenizer
