"""Output of `tinygpt generate`: texts while they are sampled, tables of log-probabilities, or lines of JSON."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinygpt.cli.generate_flags import GenerateOptions
    from tinygpt.cli.prompts import Prompt
    from tinygpt.generate import Piece
    from tinygpt.tokenizers.base import Tokenizer

COLUMNS = (24, 9)  # widths of the columns of a table: token, log-probability


class PlainWriter:
    """Writer of texts while they are sampled, each after its prompt, or of tables of log-probabilities.

    Parameters
    ----------
    options : GenerateOptions
    tokenizer : Tokenizer
    n_prompts : int
        Number of prompts. Several texts get a header each.
    """

    def __init__(self, options: GenerateOptions, tokenizer: Tokenizer, n_prompts: int):
        from tinygpt.cli.console import harmless

        self.samples, self.table, self.tokenizer = options.num_samples, options.logprobs is not None, tokenizer
        self.n_prompts = n_prompts
        self.shown = harmless if sys.stdout.isatty() else str
        self.after, self.line_open = "", False

    def __enter__(self) -> PlainWriter:
        return self

    def begin(self, prompt: Prompt, sample: int) -> None:
        """Print header and prompt of a text."""
        names = [("prompt", prompt.number + 1, self.n_prompts), ("sample", sample + 1, self.samples)]
        several = [f"{name} {i} of {n}" for name, i, n in names if n > 1]
        header = f"--- {', '.join(several)} ---\n" if several else ""
        self.after = prompt.after
        if self.table:
            title = f"{'token':<{COLUMNS[0]}}{'logprob':>{COLUMNS[1]}}  most likely\n"
            sys.stdout.write(header + title)
        else:
            sys.stdout.write(self.shown(header + prompt.text))
            self.line_open = True

    def piece(self, piece: Piece) -> None:
        """Print the text or the table row of one token."""
        if not self.table:
            sys.stdout.write(self.shown(piece.piece))
        elif piece.token is not None:
            name = self.tokenizer.token_text
            likely = "  ".join(f"{name(token)} {value:.3f}" for token, value in piece.top)
            sys.stdout.write(
                f"{name(piece.token):<{COLUMNS[0]}}{piece.logprob:>{COLUMNS[1]}.3f}  {likely}".rstrip() + "\n"
            )
        sys.stdout.flush()

    def end(self) -> None:
        """Print the text after the gap, and end the line."""
        if self.line_open:
            sys.stdout.write(self.shown(self.after) + "\n")
            self.line_open = False

    def __exit__(self, *error: object) -> None:
        if self.line_open:  # the text was interrupted
            sys.stdout.write("\n")
        sys.stdout.flush()


class JsonWriter:
    """Writer of one JSON object per text and line.

    Parameters
    ----------
    options : GenerateOptions
    tokenizer : Tokenizer
    seed : int
        Seed of the sampler, part of each line.
    """

    def __init__(self, options: GenerateOptions, tokenizer: Tokenizer, seed: int):
        self.logprobs, self.tokenizer, self.seed = options.logprobs is not None, tokenizer, seed
        self.line: dict[str, Any] = {}
        self.pieces: list[str] = []
        self.tokens: list[dict[str, Any]] = []
        self.after, self.fills_a_gap = "", options.fills_a_gap

    def __enter__(self) -> JsonWriter:
        return self

    def begin(self, prompt: Prompt, sample: int) -> None:
        """Start the line of a text."""
        names = {"index": prompt.number, "sample": sample, "seed": self.seed}
        self.line, self.pieces, self.tokens = {**names, "prompt": prompt.text}, [], []
        self.after = prompt.after

    def piece(self, piece: Piece) -> None:
        """Collect the text and the log-probabilities of one token."""
        self.pieces.append(piece.piece)
        if piece.token is not None and piece.logprob is not None:
            top = [self._token(*one) for one in piece.top]
            self.tokens.append(self._token(piece.token, piece.logprob) | {"top": top})

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        value = round(logprob, 6) if math.isfinite(logprob) else None  # JSON has no infinity
        return {"id": token, "token": self.tokenizer.token_text(token), "logprob": value}

    def end(self) -> None:
        """Print the line."""
        self.line["text"] = "".join(self.pieces)
        if self.fills_a_gap:
            self.line["suffix"] = self.after
        if self.logprobs:
            self.line["tokens"] = self.tokens
        print(json.dumps(self.line, ensure_ascii=False), flush=True)

    def __exit__(self, *error: object) -> None: ...


@contextmanager
def progress_bar(quiet: bool, total: int) -> Iterator[Callable[[int, int, int, int], None] | None]:
    """Show a progress bar on standard error; yields None if there is none.

    There is none with `quiet`, without a terminal, or while the texts themselves appear on a terminal.

    Yields
    ------
    function (before, rows, done, length) or None
        Moves the bar: `before` tokens of earlier batches, and `done` tokens in each of the `rows` of this batch.
    """
    if quiet or sys.stdout.isatty() or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(
        console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False
    ) as progress:
        task = progress.add_task("sampling", total=total)

        def show(before: int, rows: int, done: int, length: int) -> None:
            """Move the bar."""
            progress.update(task, completed=before + rows * done)

        yield show
