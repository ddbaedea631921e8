"""`tinygpt eval`."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tinygpt.cli.options import Compute, load_model

if TYPE_CHECKING:
    from tinygpt.evaluate import Score
    from tinygpt.model import GPT

Files = list[tuple[str, "Score"]]


@dataclass(kw_only=True)
class EvalOptions(Compute):
    """One field per flag."""

    model: str = "runs/tiny"
    """Model directory."""
    weights: str = "float32"
    """How weights are kept in memory: float32, or rounded to bfloat16 or to int8 blocks, which is faster."""
    data: list[str] = field(default_factory=lambda: ["."])
    """Directories, files and globs to predict."""
    ext: str | None = None
    """Extensions to read in directories, as in .py,.go; a sensible set of source code by default."""
    max_tokens: int | None = None
    """Evaluate about so many tokens, spread over the text; all by default."""
    window: int | None = None
    """Tokens that a prediction may look back over; by default the context of the model, at most 2048."""
    stride: int | None = None
    """Tokens from one window to the next; by default a whole window. Less gives every prediction more to go by."""
    per_file: bool = False
    """Print a line for each file, the hardest to predict first."""
    json: bool = False
    """Print the result as one line of JSON."""
    quiet: bool = False
    """Print the result only."""


def evaluate(options: Annotated[EvalOptions, Parameter(name="*")] = EvalOptions()) -> int:  # noqa: B008
    """Measure how well a model predicts a text.

    Every token is predicted from those before it, one window at a time. Prints
    loss (nats per token), perplexity and bits per byte of text, which compares
    between tokenizers.
    """
    from rich.console import Console
    from rich.progress import Progress

    from tinygpt.data.discover import discover
    from tinygpt.data.rules import EXTENSIONS, parse_extensions
    from tinygpt.evaluate import TokenText, evaluate_files

    options.apply()
    if options.max_tokens is not None and options.max_tokens < 1:
        raise ValueError(f"--max-tokens must be at least 1, got {options.max_tokens}")
    model, tokenizer = load_model(options.model, options.weights)
    window, stride = choose_windows(model, options.window, options.stride)
    documents, summary = discover(options.data, parse_extensions(options.ext) if options.ext else EXTENSIONS)
    text = TokenText.encode(documents, tokenizer)
    if len(text.tokens) < 2:
        raise ValueError("--data: the text must have at least two tokens")
    console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
    if not options.quiet:
        console.print(f"source    {summary.describe()}", markup=False)
        tell_window(model, window, options.window)
    start = time.perf_counter()
    with Progress(console=console, transient=True, disable=options.quiet or not console.is_terminal) as progress:
        task = progress.add_task("evaluating", total=None)
        total, files = evaluate_files(
            model,
            text,
            options.max_tokens,
            lambda done, n: progress.update(task, completed=done, total=n),
            window,
            stride,
        )
    speed = total.tokens / max(1e-9, time.perf_counter() - start)
    if options.json:
        print(json.dumps(_plain(total, files, speed, (window, stride), options.per_file)))
        return 0
    if options.per_file:
        _print_files(files, total)
    print(
        f"loss {total.loss:.4f}  perplexity {total.perplexity:.3f}  bits per byte {total.bits_per_byte:.4f}  "
        f"({total.tokens:,} tokens)"
    )
    if not options.quiet:
        console.print(f"speed     {speed:,.0f} tokens/s", markup=False)
    return 0


def choose_windows(model: GPT, window: int | None, stride: int | None) -> tuple[int, int]:
    """--window and --stride as given or as usual; ValueError, naming the flag, if one is out of range."""
    from tinygpt.evaluate import usual_window

    context = model.config.block_size
    if window is not None and not 1 <= window <= context:
        raise ValueError(f"--window must be in 1..{context}, the context of the model, got {window}")
    length = usual_window(model) if window is None else window
    if stride is not None and not 1 <= stride <= length:
        raise ValueError(f"--stride must be in 1..{length}, the window, got {stride}")
    return length, length if stride is None else stride


def tell_window(model: GPT, window: int, asked: int | None) -> None:
    """Say it where a window is shorter than the context, and nobody asked for that."""
    if asked is None and window < model.config.block_size:
        print(
            f"note      windows of {window:,} tokens, less than the context of {model.config.block_size:,} (--window)",
            file=sys.stderr,
        )


def _print_files(files: Files, total: Score) -> None:
    print(f"{'bits/byte':>9}  {'loss':>8}  {'perplexity':>10}  {'tokens':>10}  file")
    for name, score in [*((_visible(name), score) for name, score in files), ("total", total)]:
        numbers = f"{score.bits_per_byte:9.4f}  {score.loss:8.4f}  {score.perplexity:10.3f}  {score.tokens:10,}"
        print(f"{numbers}  {name}")


def _visible(name: str) -> str:
    """A file's name on one line, whatever it holds."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)


def _plain(total: Score, files: Files, speed: float, windows: tuple[int, int], per_file: bool) -> dict[str, Any]:
    """The result for machines; the numbers in full."""
    found = {**_numbers(total), "tokens_per_s": round(speed, 1), "window": windows[0], "stride": windows[1]}
    if per_file:
        found["files"] = [{"file": name, **_numbers(score)} for name, score in files]
    return found


def _numbers(score: Score) -> dict[str, Any]:
    """JSON has no NaN: what a broken model gives is null."""
    values = {"loss": score.loss, "perplexity": score.perplexity, "bits_per_byte": score.bits_per_byte}
    return {"tokens": score.tokens, **{name: value if value == value else None for name, value in values.items()}}
