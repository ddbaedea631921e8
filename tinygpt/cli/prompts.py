"""Prompts of `tinygpt generate`: texts read from flags and files, turned into tokens that fit the context."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tinygpt.cli.flags import in_flags
from tinygpt.cli.options import text_of

if TYPE_CHECKING:
    import numpy as np

    from tinygpt.cli.generate_flags import GenerateOptions
    from tinygpt.tokenizers.base import Tokenizer


@dataclass(frozen=True, eq=False)
class Prompt:
    """A prompt as text and tokens.

    Attributes
    ----------
    number : int
        Number of the prompt, from 0.
    text : str
        Text to print before the continuation: the prompt, or the text before a gap.
    ids : int32 array, shape (n,)
        Tokens of the prompt.
    length : int
        Maximum number of tokens to sample.
    after : str
        Text to print after the continuation: empty, or the text after a gap.
    """

    number: int
    text: str
    ids: np.ndarray
    length: int
    after: str = ""


class Notes:
    """Remarks on prompts that do not fit the context, each printed once, before the text.

    Parameters
    ----------
    context : int
        Context length of the model, in tokens.
    """

    def __init__(self, context: int):
        self.context = context
        self.notes: dict[str, str] = {}

    def cut(self, n: int, where: str) -> None:
        """Add the remark that `n` tokens of a prompt do not fit the context; `where` says which part."""
        self.notes.setdefault("cut", f"{where} truncated: the model sees {self.context:,} tokens ({n:,} dropped)")

    def room(self, prompt: Prompt) -> None:
        """Add the remark that the context will be full before a text has its full length, if it will."""
        if min(len(prompt.ids), self.context) + prompt.length - 1 > self.context:
            text = f"the context has {self.context:,} tokens: whenever it is full, the text continues from its newest "
            self.notes.setdefault("full", f"{text}{max(1, self.context // 2):,} tokens")

    def print(self) -> None:
        """Print the remarks to standard error."""
        for note in self.notes.values():
            print(f"[{note}]", file=sys.stderr)


def read_texts(options: GenerateOptions) -> list[str]:
    """Read the prompts; for a gap, the texts before and after it."""
    if options.prompts is not None:
        return _read_prompts(options.prompts)
    if not options.fills_a_gap:
        return [text_of(options, "prompt")]
    return [text_of(options, side) for side in ("prefix", "suffix")]


def _read_prompts(name: str) -> list[str]:
    """Read a prompt from each non-empty line of a file."""
    try:
        # Split at newlines alone, because a form feed or U+2028 may be part of a prompt.
        lines = [line.removesuffix("\r") for line in Path(name).read_bytes().decode("utf-8-sig").split("\n")]
    except UnicodeError as error:
        raise ValueError(f"{name}: not UTF-8: {getattr(error, 'reason', error)}") from None
    prompts = [_line_prompt(name, i, line) for i, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise ValueError(f"{name}: contains no prompt")
    return prompts


def _line_prompt(name: str, number: int, line: str) -> str:
    """Parse the prompt in one line of a file."""
    if not name.endswith(".jsonl"):
        return line
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: line {number}: not JSON: {error}") from None
    prompt = found.get("prompt") if isinstance(found, dict) else None
    if not isinstance(prompt, str):
        raise ValueError(f"{name}: line {number}: must be an object with a string 'prompt'")
    try:
        prompt.encode()
    except UnicodeError:
        raise ValueError(f"{name}: line {number}: 'prompt' has a lone surrogate") from None
    return prompt


def encode_prompts(
    options: GenerateOptions, texts: Sequence[str], tokenizer: Tokenizer, notes: Notes
) -> Iterator[Prompt]:
    """Encode prompts, and note those that do not fit the context.

    Parameters
    ----------
    options : GenerateOptions
    texts : sequence of str
        One text per prompt; for a gap, the text before and the text after it.
    tokenizer : Tokenizer
    notes : Notes
        Receives the remarks.

    Yields
    ------
    Prompt
    """
    context = notes.context
    if not options.fills_a_gap:
        for number, text in enumerate(texts):
            ids = tokenizer.prompt(text)
            if len(ids) > context:
                notes.cut(len(ids) - context, "beginning of the prompt")
            prompt = Prompt(number, text, ids, options.length)
            notes.room(prompt)
            yield prompt
        return
    from tinygpt.generate import gap

    prefix, suffix = texts
    try:
        asked = gap(tokenizer, prefix, suffix, options.length, context)
    except ValueError as error:
        raise ValueError(f"{options.model}: {in_flags(str(error), {})}") from None
    if asked.cut:
        notes.cut(asked.cut, "text far from the gap")
    before, after = (prefix, suffix) if options.whole or options.json else ("", "")
    yield Prompt(0, before, asked.ids, min(options.length, asked.room), after)
