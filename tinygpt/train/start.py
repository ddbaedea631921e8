"""What a run starts from: fresh weights, a model directory, or its own last checkpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import get_args

from tinygpt import lora
from tinygpt.files import model_directory
from tinygpt.model import GPT
from tinygpt.tokenizers.base import Tokenizer
from tinygpt.train.settings import Target, TrainSettings

FURTHER_SEQ = 256  # tokens; what a sequence costs grows faster than its length
# The highest learning rate times the width of the model. At the rate of fresh weights (0.2) a model of 135M parameters
# lost what it knew within 30 steps; adapters, under which the weights stay, bear a larger one.
FURTHER_LR = 0.06
ADAPTER_LR = 0.6


@dataclasses.dataclass
class Start:
    """What a run starts from.

    Attributes
    ----------
    settings : TrainSettings
        With all that depends on the model.
    model : GPT or None
        None: to be made, once the vocabulary is known. With ``--lora-rank`` it has its adapters.
    tokenizer : Tokenizer or None
        None: to be trained.
    """

    settings: TrainSettings
    model: GPT | None = None
    tokenizer: Tokenizer | None = None


def begin_from(settings: TrainSettings, resumed: Path | None = None) -> Start:
    """Read what there is to read, before anything else is done.

    Parameters
    ----------
    settings : TrainSettings
        Valid ones.
    resumed : Path, optional
        Checkpoint of a run that goes on.

    Returns
    -------
    Start

    Raises
    ------
    FileNotFoundError, ValueError
        There is no such model, it has no tokenizer, or its context is shorter than ``--seq``.
    """
    if settings.from_ is None:
        tokenizer = None if resumed is None else model_directory.load(resumed)[1]
        return Start(dataclasses.replace(settings, seq=settings.length), None, tokenizer)
    model, tokenizer = _read(settings, resumed)
    config = model.config
    if settings.dropout is not None:
        _set_dropout(model, settings.dropout)
    if (settings.seq or 1) > config.block_size:
        raise ValueError(f"--seq {settings.seq} must be at most the context of the model, {config.block_size}")
    rate = (FURTHER_LR if settings.lora_rank is None else ADAPTER_LR) / config.n_embd
    settings = dataclasses.replace(
        settings,
        seq=settings.seq or min(config.block_size, FURTHER_SEQ),
        lr=rate if settings.lr is None else settings.lr,
    )
    if settings.lora_rank is not None:
        given = settings.lora_alpha, settings.lora_targets, settings.seed
        base = str(Path(settings.from_ or "").expanduser().absolute())
        lora.add(model, settings.lora_rank, *given, base=base)
        adapters = lora.of(model)
        if adapters is not None:
            targets = [name for name in get_args(Target) if name in adapters.targets]
            settings = dataclasses.replace(settings, lora_alpha=adapters.alpha, lora_targets=targets)
    return Start(settings, model, tokenizer)


def _set_dropout(model: GPT, rate: float) -> None:
    """Train with another dropout than the model says; what is saved says this one."""
    model.config = dataclasses.replace(model.config, dropout=rate)
    for block in model.blocks:
        block.dropout, block.attn.config = rate, model.config


def _read(settings: TrainSettings, resumed: Path | None) -> tuple[GPT, Tokenizer]:
    """The model that trains further: of a run that goes on its checkpoint, unless that holds adapters alone."""
    folder = Path(settings.from_ or "").expanduser()
    if resumed is not None and settings.lora_rank is None:
        folder = resumed
    try:
        model, tokenizer = model_directory.load(folder)
    except FileNotFoundError as error:
        if resumed is None:
            raise
        raise FileNotFoundError(f"{error}; the run in {settings.out} needs it: --from says where it is now") from None
    if tokenizer is None:
        raise ValueError(f"{folder}: there is no tokenizer.json, so text cannot be turned into tokens")
    return model, tokenizer
