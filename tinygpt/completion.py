"""Completion at a place in a file, and how well a model completes hidden lines of files.

A model with fill-in-the-middle tokens sees the text on both sides of the gap; another model sees the text before it.

Design
- A line is hidden from its first visible character to its end: the indentation is what an editor has written when
  somebody begins to type. The model must also find where the line ends, so its answer counts up to the line break.
- Lines without a letter or digit, such as a closing bracket, are not hidden: they are easy and would hide the rest.
- Two scores, because one alone misleads: exact matches count what needs no correction, and the edit similarity,
  1 - distance / length of the longer text, tells how near the others are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tinygpt.data.discover import Document
from tinygpt.data.infilling import Markers
from tinygpt.generate import gap, stream_pieces
from tinygpt.model import GPT
from tinygpt.sampling import Sampler
from tinygpt.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class Place:
    """A place in a file, between two characters.

    Parameters
    ----------
    file : str
    line, column : int
        Counted from 1. Column 1 is before the first character of the line.
    """

    file: str
    line: int
    column: int

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read FILE:LINE:COL, as compilers write it; ValueError if it is something else."""
        file, *numbers = text.rsplit(":", 2)
        if not file or len(numbers) < 2 or not all(n.isascii() and n.isdigit() and int(n) > 0 for n in numbers):
            raise ValueError(f"'{text}' must be FILE:LINE:COL, with line and column from 1")
        return cls(file, int(numbers[0]), int(numbers[1]))

    def split(self, text: str) -> tuple[str, str]:
        """Split the text of the file at the place; ValueError if the text has no such place."""
        lines = text.split("\n")
        if self.line > len(lines):
            raise ValueError(f"{self.file}: line {self.line} does not exist: the file has {len(lines)} lines")
        line = lines[self.line - 1]
        if self.column > len(line) + 1:
            raise ValueError(f"{self.file}: line {self.line} has no column {self.column}: it ends at {len(line) + 1}")
        at = sum(len(one) + 1 for one in lines[: self.line - 1]) + self.column - 1
        return text[:at], text[at:]


def complete(
    model: GPT,
    tokenizer: Tokenizer,
    prefix: str,
    suffix: str,
    length: int,
    sampler: Sampler,
    stop: Sequence[str] = (),
) -> Iterator[str]:
    """Yield the text to insert between a prefix and a suffix, one piece per token.

    Parameters
    ----------
    model : GPT
    tokenizer : Tokenizer
        Without fill-in-the-middle tokens, the suffix is not used.
    prefix, suffix : str
        Cut far from the gap to fit the context.
    length : int
        Largest number of tokens.
    sampler : Sampler
        For a batch of one.
    stop : sequence of str
        The text ends before the first of them.

    Yields
    ------
    str
    """
    context = model.config.block_size
    if Markers.of(tokenizer) is not None:
        asked = gap(tokenizer, prefix, suffix, length, context)
        ids, length = asked.ids, min(length, asked.room)
    else:
        ids = tokenizer.prompt(prefix)[-max(1, context - length + 1) :]
        length = min(length, context)
    for piece in stream_pieces(model, tokenizer, ids[None], length, sampler, stop=stop):
        yield piece.piece


@dataclass(frozen=True)
class Hidden:
    """A line to complete.

    Parameters
    ----------
    path : str
    line : int
        Number of the line, from 1.
    prefix, text, suffix : str
        Text before, in and after the gap.
    """

    path: str
    line: int
    prefix: str
    text: str
    suffix: str


def hide_lines(documents: Sequence[Document], count: int, seed: int = 0) -> list[Hidden]:
    """Choose lines of documents at random, each with the same probability.

    Parameters
    ----------
    documents : sequence of Document
    count : int
        Largest number of lines.
    seed : int
        The same seed chooses the same lines of the same files.

    Returns
    -------
    list of Hidden
        Ordered by path and line.

    Raises
    ------
    ValueError
        No document has a line with a letter or digit.
    """
    places = [
        (number, line)
        for number, document in enumerate(documents)
        for line, text in enumerate(document.text.split("\n"))
        if any(char.isalnum() for char in text)
    ]
    if not places:
        raise ValueError("no file has a line with a letter or digit")
    # Ranked by a digest, so that a file more or less exchanges few of the lines.
    ranked = sorted(places, key=lambda place: _digest(seed, documents[place[0]].path, place[1]))
    return [_hidden(documents[number], line) for number, line in sorted(ranked[:count])]


def _digest(seed: int, path: str, line: int) -> bytes:
    return hashlib.sha256(f"hidden line:{seed}:{path}:{line}".encode("utf-8", "surrogateescape")).digest()


def _hidden(document: Document, line: int) -> Hidden:
    lines = document.text.split("\n")
    text = lines[line].lstrip()
    start = sum(len(one) + 1 for one in lines[:line]) + len(lines[line]) - len(text)
    whole = document.text
    return Hidden(document.path, line + 1, whole[:start], text.rstrip(), whole[start + len(text) :])


@dataclass(frozen=True)
class Completed:
    """A hidden line and what the model wrote in its place."""

    hidden: Hidden
    text: str

    @property
    def exact(self) -> bool:
        """True if the text equals the line, apart from spaces at its end."""
        return self.text.rstrip() == self.hidden.text

    @property
    def similarity(self) -> float:
        """Edit similarity of the text and the line, in 0..1."""
        return similarity(self.text.rstrip(), self.hidden.text)


def complete_lines(
    model: GPT,
    tokenizer: Tokenizer,
    lines: Sequence[Hidden],
    length: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Completed]:
    """Complete hidden lines with the most likely tokens, each up to the line break.

    Parameters
    ----------
    model : GPT
    tokenizer : Tokenizer
    lines : sequence of Hidden
    length : int
        Largest number of tokens in a line.
    progress : callable, optional
        Called with (lines completed, number of lines).

    Returns
    -------
    list of Completed
    """
    found = []
    for line in lines:
        pieces = complete(model, tokenizer, line.prefix, line.suffix, length, Sampler(0), ("\n",))
        found.append(Completed(line, "".join(pieces)))
        if progress is not None:
            progress(len(found), len(lines))
    return found


def similarity(a: str, b: str) -> float:
    """Compute 1 - (edit distance / length of the longer text); 1 for two empty texts.

    The distance counts insertions, deletions and substitutions of one character (Levenshtein 1966).
    """
    if not a or not b:
        return float(a == b)
    long, short = (a, b) if len(a) >= len(b) else (b, a)
    codes = np.array([ord(char) for char in short])
    steps = np.arange(len(short) + 1)
    row = steps.copy()
    for i, char in enumerate(long, 1):
        # Without insertions first. They then cost 1 for each step to the right: a running minimum of row - steps.
        best = np.minimum(row[1:] + 1, row[:-1] + (codes != ord(char)))
        row = np.minimum.accumulate(np.concatenate([[i], best]) - steps) + steps
    return 1 - int(row[-1]) / len(long)
