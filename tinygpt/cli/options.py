"""Options that several commands share."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from tinygpt.sampling import Sampler


@dataclass(kw_only=True)
class Compute:
    """How to compute."""

    kernels: Annotated[str | None, Parameter(group="Computing")] = None
    """Rung of the kernels, as in blocked or blocked,softmax=naive."""
    threads: Annotated[int | None, Parameter(group="Computing")] = None
    """Threads; by default what the machine grants."""

    def apply(self) -> None:
        """Switch to what was asked for."""
        from tinygpt.kernels import threads
        from tinygpt.train.settings import use_kernels

        check_threads(self.threads)
        use_kernels(self.kernels or "")
        if self.threads is not None:
            threads.set_num_threads(self.threads)


@dataclass(kw_only=True)
class Sampling(Compute):
    """How to draw tokens."""

    temp: Annotated[float, Parameter(alias="--temperature", group="Sampling")] = 0.8
    """Temperature; 0 always takes the most likely token."""
    topk: Annotated[int | None, Parameter(alias="--top-k", group="Sampling")] = None
    """Sample among the k most likely tokens; 0 means all, the default."""
    topp: Annotated[float | None, Parameter(alias="--top-p", group="Sampling")] = None
    """Sample among the most likely tokens that together have this probability; all by default."""
    min_p: Annotated[float | None, Parameter(group="Sampling")] = None
    """Sample among the tokens that have this share of the probability of the most likely one; all by default."""
    repetition_penalty: Annotated[float, Parameter(group="Sampling")] = 1.0
    """Divides the logits of tokens in the context if positive, multiplies them if negative; 1 means off."""
    presence_penalty: Annotated[float, Parameter(group="Sampling")] = 0.0
    """Is subtracted from the logits of tokens in the context; 0 means off."""
    frequency_penalty: Annotated[float, Parameter(group="Sampling")] = 0.0
    """Is subtracted once for each time that a token is in the context; 0 means off."""
    seed: Annotated[int | None, Parameter(group="Sampling")] = None
    """For the same text again; drawn and printed if it is not given."""

    def validate_sampling(self) -> None:
        """Raise ValueError, naming the flag, for a value out of range."""
        for name in ("temp", "topk", "seed"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"--{name} must be 0 or more, got {value}")
        if self.topp is not None and not 0 < self.topp <= 1:
            raise ValueError(f"--topp must be more than 0 and at most 1, got {self.topp}")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise ValueError(f"--min-p must be at least 0 and at most 1, got {self.min_p}")
        if not (math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0):
            raise ValueError(f"--repetition-penalty must be more than 0, got {self.repetition_penalty}")
        for name in ("presence", "frequency"):
            value = getattr(self, f"{name}_penalty")
            if not math.isfinite(value):
                raise ValueError(f"--{name}-penalty must be finite, got {value}")

    def sampler(self, seed: int, rows: int | Sequence[int] = 1) -> Sampler:
        """What draws for a batch of so many rows, or of rows with these numbers."""
        from tinygpt.sampling import Sampler

        penalties = (self.repetition_penalty, self.presence_penalty, self.frequency_penalty)
        return Sampler(self.temp, self.topk, self.topp, seed, rows, self.min_p, *penalties)


def check_threads(n: int | None) -> None:
    """Raise ValueError for a number of threads that cannot be."""
    if n is not None and n < 1:
        raise ValueError(f"--threads must be at least 1, got {n}")


def load_model(directory: str, weights: str = "float32"):
    """The model and the tokenizer of a directory; both must be there. `weights` is what --weights says."""
    from tinygpt import checkpoint
    from tinygpt.packed import KINDS

    if weights not in KINDS:
        raise ValueError(f"--weights must be {', '.join(KINDS[:-1])} or {KINDS[-1]}, got {weights}")
    model, tokenizer = checkpoint.load(directory, weights)
    if tokenizer is None:
        raise ValueError(f"{directory}: there is no tokenizer.json, so text cannot be turned into tokens")
    return model, tokenizer


def text_of(options: Any, name: str) -> str:
    """The text of a flag, or that of the file that the flag with `-file` names; `-` as a prompt is standard input."""
    text, file = getattr(options, name), getattr(options, f"{name}_file")
    source = file or ("standard input" if name == "prompt" and text == "-" else f"--{name}")
    try:
        if file is not None:
            return Path(file).read_text(encoding="utf-8")
        text = sys.stdin.read() if source == "standard input" else text or ""
        text.encode()  # Python hands on bytes that are not UTF-8 as lone surrogates
        return text
    except UnicodeError as error:
        raise ValueError(f"{source}: not UTF-8: {getattr(error, 'reason', error)}") from None


def some_prompt(options: Any) -> str:
    """The text of --prompt or --prompt-file, where there must be one."""
    if options.prompt is not None and options.prompt_file is not None:
        raise ValueError("--prompt and --prompt-file cannot both be given")
    prompt = text_of(options, "prompt")
    if not prompt:
        file = options.prompt_file
        raise ValueError("--prompt must not be empty" if file is None else f"--prompt-file {file}: is empty")
    return prompt
