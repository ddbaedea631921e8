"""`tinygpt eval`."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tinygpt.cli.options import Compute, load_model, note

if TYPE_CHECKING:
    from tinygpt.evaluate import Score
    from tinygpt.model import GPT

Files = list[tuple[str, "Score"]]


@dataclass(kw_only=True)
class EvalOptions(Compute):
    """Flags of `tinygpt eval`, one field each."""

    model: str = "runs/tiny"
    """Model directory."""
    weights: str = "float32"
    """Type of the weights in memory: float32, or bfloat16 or int8, which are rounded, smaller and faster."""
    data: list[str] = field(default_factory=lambda: ["."])
    """Directories, files and globs to evaluate on."""
    ext: str | None = None
    """Extensions to read in directories, as in .py,.go. Default: those of common source code."""
    max_tokens: int | None = None
    """Evaluate on about N tokens, spread evenly over the text. Default: all."""
    window: int | None = None
    """Longest context of a prediction, in tokens. Default: the context of the model, at most 2048."""
    stride: int | None = None
    """Tokens from one window to the next. Default: a whole window. A smaller stride gives predictions more context."""
    per_file: bool = False
    """Print a line for each file, highest bits per byte first. Each is predicted without seeing the others."""
    infill: list[str] | None = None
    """Hide lines of these directories, files and globs instead, complete them, and print how many are right."""
    lines: int = 100
    """Number of lines to hide; used only with --infill."""
    length: int = 64
    """Maximum number of tokens in a completed line; used only with --infill."""
    each: bool = False
    """Print each hidden line and the model's, least similar first; used only with --infill."""
    seed: int = 0
    """Random seed for the choice of lines; used only with --infill."""
    json: bool = False
    """Print the result as one line of JSON."""
    quiet: bool = False
    """Print only the result."""


def evaluate(options: Annotated[EvalOptions, Parameter(name="*")] = EvalOptions()) -> int:  # noqa: B008
    """Measure how well a model predicts a text.

    Every token is predicted from the tokens before it in its window. Prints the
    loss (nats per token), the perplexity and the bits per byte of text, which can
    be compared between tokenizers. With --infill, lines are hidden and completed
    instead: exact match, and edit similarity from 0 to 1.
    """
    if options.infill is not None:
        from tinygpt.cli.eval_infill import evaluate_infill

        return evaluate_infill(options)
    from rich.console import Console
    from rich.progress import Progress

    from tinygpt.data.discover import discover
    from tinygpt.data.rules import EXTENSIONS, parse_extensions
    from tinygpt.evaluate import TokenText, evaluate_files, usual_window, window_size
    from tinygpt.evaluate import evaluate as evaluate_text

    options.apply()
    if options.max_tokens is not None and options.max_tokens < 1:
        raise ValueError(f"--max-tokens must be at least 1, got {options.max_tokens}")
    model, tokenizer = load_model(options.model, options.weights)
    asked = usual_window(model) if options.window is None else options.window
    window, stride = window_size(model, asked, options.stride)
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
        how = (options.max_tokens, lambda done, n: progress.update(task, completed=done, total=n), window, stride)
        files: Files = []
        if options.per_file:
            total, files = evaluate_files(model, text, *how)
        else:
            total = evaluate_text(model, text.tokens, text.n_bytes, *how, text.lead)
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


def tell_window(model: GPT, window: int, asked: int | None) -> None:
    """Print a remark if the default window is shorter than the context."""
    if asked is None and window < model.config.block_size:
        note(f"windows of {window:,} tokens, less than the context of {model.config.block_size:,} (--window)")


def _print_files(files: Files, total: Score) -> None:
    """Print a table with a line for each file and one for the total."""
    print(f"{'bits/byte':>9}  {'loss':>8}  {'perplexity':>10}  {'tokens':>10}  file")
    for name, score in [*((_visible(name), score) for name, score in files), ("total", total)]:
        numbers = f"{score.bits_per_byte:9.4f}  {score.loss:8.4f}  {score.perplexity:10.3f}  {score.tokens:10,}"
        print(f"{numbers}  {name}")


def _visible(name: str) -> str:
    """Escape control characters in a file's name, so that it stays on one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)


def _plain(total: Score, files: Files, speed: float, windows: tuple[int, int], per_file: bool) -> dict[str, Any]:
    """Return the result as JSON data, with unrounded numbers."""
    found = {**_numbers(total), "tokens_per_s": round(speed, 1), "window": windows[0], "stride": windows[1]}
    if per_file:
        found["files"] = [{"file": name, **_numbers(score)} for name, score in files]
    return found


def _numbers(score: Score) -> dict[str, Any]:
    """Return the numbers of a score; NaN, which JSON lacks, becomes null."""
    values = {"loss": score.loss, "perplexity": score.perplexity, "bits_per_byte": score.bits_per_byte}
    return {"tokens": score.tokens, **{name: value if value == value else None for name, value in values.items()}}
