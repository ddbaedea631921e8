"""`tinygpt generate`."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from tinygpt.cli.options import Compute, load_model


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
        if self.prompt is not None and self.prompt_file is not None:
            raise ValueError("--prompt and --prompt-file cannot both be given")


def generate(options: Annotated[GenerateOptions, Parameter(name="*")] = GenerateOptions()) -> int:  # noqa: B008
    """Continue a text with a trained model.

    The text goes to standard output as it is sampled; seed and speed go to
    standard error.
    """
    import secrets

    from tinygpt.cli.console import harmless
    from tinygpt.generate import stream_text
    from tinygpt.sampling import Sampler

    options.validate()
    options.apply()
    seed = secrets.randbelow(2**31) if options.seed is None else options.seed
    sampler = Sampler(options.temp, options.topk, options.topp, seed)
    prompt = _prompt(options)
    model, tokenizer = load_model(options.model)
    shown = harmless if sys.stdout.isatty() else str
    sys.stdout.write(shown(prompt))
    start, count = time.perf_counter(), 0
    try:
        for piece in stream_text(model, tokenizer, prompt, options.length, sampler):
            sys.stdout.write(shown(piece))
            sys.stdout.flush()
            count += 1
    finally:
        sys.stdout.write("\n")
        sys.stdout.flush()
    if not options.quiet:
        count = max(0, count - 1)  # the last piece is what the decoder still held
        rate = count / max(1e-9, time.perf_counter() - start)
        print(f"[{count} tokens, {rate:,.0f} tokens/s, seed {seed}]", file=sys.stderr)
    return 0


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
