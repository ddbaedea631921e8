"""`tinygpt generate`."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tinygpt.cli.options import Compute, load_model

if TYPE_CHECKING:
    from tinygpt.model import GPT
    from tinygpt.tokenizers.base import Tokenizer


@dataclass(kw_only=True)
class GenerateOptions(Compute):
    """One field per flag."""

    model: str = "runs/tiny"
    """Model directory."""
    prompt: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    """Text to continue; - reads standard input. Without one, a new document begins."""
    prompt_file: str | None = None
    """File with the text to continue."""
    length: int = 200
    """Tokens to sample; the end of a document ends the text earlier."""
    temp: float = 0.8
    """Temperature; 0 always takes the most likely token."""
    topk: int | None = None
    """Sample among the k most likely tokens; 0 means all, the default."""
    topp: float | None = None
    """Sample among the most likely tokens that together have this probability; all by default."""
    min_p: float | None = None
    """Sample among the tokens that have this share of the probability of the most likely one; all by default."""
    repetition_penalty: float = 1.0
    """Divides the logits of tokens in the context if positive, multiplies them if negative; 1 means off."""
    presence_penalty: float = 0.0
    """Is subtracted from the logits of tokens in the context; 0 means off."""
    frequency_penalty: float = 0.0
    """Is subtracted once for each time that a token is in the context; 0 means off."""
    num_samples: int = 1
    """Texts that continue the prompt, sampled as one batch and printed one after the other."""
    seed: int | None = None
    """For the same text again; drawn and printed if it is not given."""
    quiet: bool = False
    """Print the text only."""

    def validate(self) -> None:
        """Raise ValueError, naming the flag, for a value out of range."""
        for name in ("length", "temp", "topk", "seed"):
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
        if self.num_samples < 1:
            raise ValueError(f"--num-samples must be at least 1, got {self.num_samples}")
        if self.prompt is not None and self.prompt_file is not None:
            raise ValueError("--prompt and --prompt-file cannot both be given")


def generate(options: Annotated[GenerateOptions, Parameter(name="*")] = GenerateOptions()) -> int:  # noqa: B008
    """Continue a text with a trained model.

    The text goes to standard output as it is sampled; seed and speed go to
    standard error. Of several samples the first comes as it is sampled, and
    each other once those before it have ended.
    """
    import secrets

    options.validate()
    options.apply()
    seed = secrets.randbelow(2**31) if options.seed is None else options.seed
    prompt = _prompt(options)
    model, tokenizer = load_model(options.model)
    start = time.perf_counter()
    count = _write(model, tokenizer, prompt, seed, options)
    if not options.quiet:
        rate = count / max(1e-9, time.perf_counter() - start)
        print(f"[{count} tokens, {rate:,.0f} tokens/s, seed {seed}]", file=sys.stderr)
    return 0


def _write(model: GPT, tokenizer: Tokenizer, prompt: str, seed: int, options: GenerateOptions) -> int:
    """Print the texts as they come, each with the prompt before it; several have a header each. Returns the tokens."""
    from tinygpt.cli.console import harmless
    from tinygpt.generate import stream_texts
    from tinygpt.sampling import Sampler

    samples = options.num_samples
    penalties = (options.repetition_penalty, options.presence_penalty, options.frequency_penalty)
    sampler = Sampler(options.temp, options.topk, options.topp, seed, samples, options.min_p, *penalties)
    shown = harmless if sys.stdout.isatty() else str
    header = f"--- sample {{}} of {samples} ---\n" if samples > 1 else ""
    sys.stdout.write(shown(header.format(1) + prompt))
    at, pieces = 0, 0
    try:
        for text, piece in stream_texts(model, tokenizer, prompt, options.length, sampler, samples):
            if text != at:
                sys.stdout.write(shown(f"\n{header.format(text + 1)}{prompt}"))
            at = text
            sys.stdout.write(shown(piece))
            sys.stdout.flush()
            pieces += 1
    finally:
        sys.stdout.write("\n")
        sys.stdout.flush()
    return pieces - samples  # the last piece of each is what its decoder still held


def _prompt(options: GenerateOptions) -> str:
    source = options.prompt_file or ("standard input" if options.prompt == "-" else "--prompt")
    try:
        if options.prompt_file is not None:
            with open(options.prompt_file, encoding="utf-8") as file:
                return file.read()
        text = sys.stdin.read() if options.prompt == "-" else options.prompt or ""
        text.encode()  # Python hands on bytes that are not UTF-8 as lone surrogates
        return text
    except UnicodeError as error:
        raise ValueError(f"{source}: not UTF-8: {getattr(error, 'reason', error)}") from None
