"""`tinygpt generate`."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tinygpt.cli.options import Sampling, load_model, text_of

if TYPE_CHECKING:
    import numpy as np

    from tinygpt.generate import Piece
    from tinygpt.model import GPT
    from tinygpt.tokenizers.base import Tokenizer

SHARED = 8  # most prompts of equal length in one batch
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}
COLUMNS = (24, 9)  # widths of the columns of a table: token, log-probability
SOURCES = (("prompt",), ("prompt_file",), ("prompts",), ("prefix", "prefix_file", "suffix", "suffix_file"))


@dataclass(kw_only=True)
class GenerateOptions(Sampling):
    """One field per flag."""

    model: str = "runs/tiny"
    """Model directory."""
    weights: str = "float32"
    """Type of the weights in memory: float32, or bfloat16 or int8, which are rounded and faster."""
    prompt: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    """Text to continue; - reads standard input. Default: start a new document."""
    prompt_file: str | None = None
    """File with the text to continue."""
    prompts: str | None = None
    """File with many texts to continue, one per line; in a .jsonl file, lines such as {"prompt": "def "}."""
    prefix: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    """Text before a gap to fill; needs a model trained with --fim-rate."""
    prefix_file: str | None = None
    """File with the text before the gap."""
    suffix: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    """Text after the gap."""
    suffix_file: str | None = None
    """File with the text after the gap."""
    whole: bool = False
    """Also print the text before and after the gap."""
    length: int = 200
    """Maximum number of tokens to sample; the end of a document ends the text earlier."""
    stop: list[str] | None = None
    r"""Strings that end a text when they appear, not printed; \n, \t, \r, \xHH, \uHHHH and \\ are escapes."""
    num_samples: int = 1
    """Number of texts per prompt, sampled in one batch and printed one after the other."""
    logprobs: int | None = None
    """Print a table instead: each token with its log-probability and the N most likely alternatives."""
    json: bool = False
    """Print one line of JSON per text."""
    quiet: bool = False
    """Print only the text."""

    def validate(self) -> None:
        """Raise ValueError, naming the flag, for a value out of range."""
        for name in ("length", "logprobs"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"--{name} must be 0 or more, got {value}")
        self.validate_sampling()
        if self.num_samples < 1:
            raise ValueError(f"--num-samples must be at least 1, got {self.num_samples}")
        given = [names for names in SOURCES if any(getattr(self, name) is not None for name in names)]
        pairs = (
            [(given[0], given[1])]
            if len(given) > 1
            else [((side,), (f"{side}_file",)) for side in ("prefix", "suffix")]
        )
        for first, second in pairs:
            a, b = (next((n for n in names if getattr(self, n) is not None), None) for names in (first, second))
            if a and b:
                raise ValueError(f"{_flag(a)} and {_flag(b)} cannot both be given")
        if self.whole and not self.fills_a_gap:
            raise ValueError("--whole needs --prefix or --suffix")
        if self.whole and self.logprobs is not None and not self.json:
            raise ValueError("--whole and --logprobs cannot both be given without --json")
        self.stops()

    @property
    def fills_a_gap(self) -> bool:
        """Whether a text before or after a gap was given."""
        return any(getattr(self, name) is not None for name in SOURCES[-1])

    def stops(self) -> list[str]:
        """Return the stop strings with their escapes replaced."""
        strings = [unescaped(text) for text in self.stop or []]
        if self.stop == [] or "" in strings:
            raise ValueError("--stop must not be empty")
        return strings


@dataclass(frozen=True, eq=False)
class Prompt:
    """A prompt and what to print around its continuation."""

    number: int
    text: str
    ids: np.ndarray
    length: int  # number of tokens to sample
    after: str = ""  # printed after the continuation


def generate(options: Annotated[GenerateOptions, Parameter(name="*")] = GenerateOptions()) -> int:  # noqa: B008
    """Continue a text with a trained model.

    The text goes to standard output while it is sampled; remarks, seed and speed
    go to standard error. Of several samples, the first is printed while it is
    sampled and each other one when those before it have ended.
    """
    import secrets

    options.validate()
    options.apply()
    seed = secrets.randbelow(2**31) if options.seed is None else options.seed
    texts = _texts(options)
    model, tokenizer = load_model(options.model, options.weights)
    notes = _Notes(model)
    prompts = list(_prompts(options, texts, tokenizer, notes))
    start = time.perf_counter()
    if not options.quiet:
        notes.print()
    count = _write(model, tokenizer, prompts, seed, options)
    if not options.quiet:
        rate = count / max(1e-9, time.perf_counter() - start)
        print(f"[{count} tokens, {rate:,.0f} tokens/s, seed {seed}]", file=sys.stderr)
    return 0


class _Notes:
    """Remarks on prompts and context, each printed once, before the text."""

    def __init__(self, model: GPT):
        self.context = model.config.block_size
        self.notes: dict[str, str] = {}

    def cut(self, n: int, where: str) -> None:
        """Note that a prompt is longer than the context."""
        self.notes.setdefault("cut", f"{where} truncated: the model sees {self.context:,} tokens ({n:,} dropped)")

    def room(self, prompt: Prompt) -> None:
        """Note that the context will be full before the text has its full length."""
        if min(len(prompt.ids), self.context) + prompt.length - 1 > self.context:
            text = f"the context has {self.context:,} tokens: whenever it is full, the text continues from its newest "
            self.notes.setdefault("full", f"{text}{max(1, self.context // 2):,} tokens")

    def print(self) -> None:
        """Print the remarks to standard error."""
        for note in self.notes.values():
            print(f"[{note}]", file=sys.stderr)


def _prompts(options: GenerateOptions, texts: Sequence[str], tokenizer: Tokenizer, notes: _Notes) -> Iterator[Prompt]:
    """Yield the prompts as tokens, and note those that do not fit the context."""
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
        raise ValueError(f"{options.model}: {error}") from None
    if asked.cut:
        notes.cut(asked.cut, "text far from the gap")
    before, after = (prefix, suffix) if options.whole or options.json else ("", "")
    yield Prompt(0, before, asked.ids, min(options.length, asked.room), after)


def _write(model: GPT, tokenizer: Tokenizer, prompts: Sequence[Prompt], seed: int, options: GenerateOptions) -> int:
    """Sample and print all texts, with prompts of equal length in one batch; returns the number of tokens."""
    import numpy as np

    from tinygpt.generate import stream_pieces

    count, samples, stop = 0, options.num_samples, options.stops()
    done, total = 0, samples * sum(prompt.length for prompt in prompts)
    writer = _Json(options, tokenizer, seed) if options.json else _Plain(options, tokenizer, len(prompts))
    with writer, _bar(options.quiet, total) as show:
        for _, same in groupby(prompts, key=lambda one: (len(one.ids), one.number // SHARED)):
            batch = list(same)
            rows = [(prompt, sample) for prompt in batch for sample in range(samples)]
            sampler = options.sampler(seed, [prompt.number * samples + sample for prompt, sample in rows])
            ids = np.stack([prompt.ids for prompt, _ in rows])
            length, told = batch[0].length, show and partial(show, done, len(rows))
            pieces = stream_pieces(
                model, tokenizer, ids, length, sampler, stop=stop, top=options.logprobs, progress=told
            )
            done += len(rows) * length
            for row, of_text in groupby(pieces, key=lambda piece: piece.text):
                writer.begin(*rows[row])
                for piece in of_text:
                    writer.piece(piece)
                    count += piece.token is not None and piece.token not in tokenizer.end_ids
                writer.end()
    return count


@contextmanager
def _bar(quiet: bool, total: int) -> Iterator[Callable[[int, int, int, int], None] | None]:
    """Show a progress bar on standard error; yields None where the texts themselves appear on a terminal."""
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
            """Move the bar: `before` tokens of earlier batches, and `done` of each row of this one."""
            progress.update(task, completed=before + rows * done)

        yield show


class _Plain:
    """Write texts while they are sampled, after their prompts and, if there are several, headers; or write tables."""

    def __init__(self, options: GenerateOptions, tokenizer: Tokenizer, n_prompts: int):
        from tinygpt.cli.console import harmless

        self.samples, self.table, self.tokenizer = options.num_samples, options.logprobs is not None, tokenizer
        self.n_prompts = n_prompts
        self.shown = harmless if sys.stdout.isatty() else str
        self.after, self.line_open = "", False

    def __enter__(self) -> _Plain:
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
        if self.line_open:  # interrupted
            sys.stdout.write("\n")
        sys.stdout.flush()


class _Json:
    """Write one line of JSON per text."""

    def __init__(self, options: GenerateOptions, tokenizer: Tokenizer, seed: int):
        self.logprobs, self.tokenizer, self.seed = options.logprobs is not None, tokenizer, seed
        self.line: dict[str, Any] = {}
        self.pieces: list[str] = []
        self.tokens: list[dict[str, Any]] = []
        self.after, self.fills_a_gap = "", options.fills_a_gap

    def __enter__(self) -> _Json:
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


def unescaped(text: str) -> str:
    r"""Replace the escapes \n, \t, \r, \xHH, \uHHHH and \\ in a text.

    Raises
    ------
    ValueError
        A backslash is followed by another character or none, or a code is a lone surrogate.
    """

    def replaced(found: re.Match[str]) -> str:
        code = found[1] or found[2]
        if code is None and found[3] not in ESCAPES:
            raise ValueError(f"--stop {text}: {found[0]} is not an escape; write \\\\ for a backslash")
        return chr(int(code, 16)) if code else ESCAPES[found[3]]

    made = re.sub(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|(.?))", replaced, text, flags=re.DOTALL)
    try:
        made.encode()
    except UnicodeError:
        raise ValueError(f"--stop {text.encode(errors='backslashreplace').decode()}: not UTF-8") from None
    return made


def _texts(options: GenerateOptions) -> list[str]:
    """Read the prompts, or the texts before and after a gap."""
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


def _flag(name: str) -> str:
    """Return the flag of an option."""
    return "--" + name.replace("_", "-")
