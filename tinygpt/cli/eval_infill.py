"""`tinygpt eval --infill`."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from tinygpt.cli.options import load_model

if TYPE_CHECKING:
    from tinygpt.completion import Completed


class Options(Protocol):
    """The options of `tinygpt eval` that are used here."""

    model: str
    weights: str
    ext: str | None
    infill: list[str] | None
    lines: int
    length: int
    each: bool
    seed: int
    json: bool
    quiet: bool

    def apply(self) -> None:
        """Switch to the kernels and threads that the flags name."""


def evaluate_infill(options: Options) -> int:
    """Hide lines of files, complete them, and print exact match and edit similarity."""
    from rich.console import Console
    from rich.progress import Progress

    from tinygpt.completion import complete_lines, hide_lines
    from tinygpt.data.discover import discover
    from tinygpt.data.infilling import Markers
    from tinygpt.data.rules import EXTENSIONS, parse_extensions

    if not options.infill:
        raise ValueError("--infill needs at least one directory, file or glob")
    for flag, value in (("lines", options.lines), ("length", options.length)):
        if value < 1:
            raise ValueError(f"--{flag} must be at least 1, got {value}")
    options.apply()
    documents, summary = discover(options.infill, parse_extensions(options.ext) if options.ext else EXTENSIONS)
    hidden = hide_lines(documents, options.lines, options.seed)
    model, tokenizer = load_model(options.model, options.weights)
    sides = "prefix" if Markers.of(tokenizer) is None else "prefix and suffix"
    console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
    if not options.quiet:
        console.print(f"source    {summary.describe()}", markup=False)
        console.print(f"model     sees {sides} of each line", markup=False)
    start = time.perf_counter()
    with Progress(console=console, transient=True, disable=options.quiet or not console.is_terminal) as progress:
        task = progress.add_task("completing", total=len(hidden))
        found = complete_lines(
            model, tokenizer, hidden, options.length, lambda done, n: progress.update(task, completed=done, total=n)
        )
    seconds = (time.perf_counter() - start) / len(found)
    result = _result(found, sides, seconds)
    if options.json:
        print(json.dumps(result))
        return 0
    if options.each:
        _print_lines(found)
    print(
        f"exact match {result['exact_match']:.1%}  edit similarity {result['edit_similarity']:.3f}  "
        f"({len(found):,} lines, {1000 * seconds:,.0f} ms each)"
    )
    return 0


def _result(found: Sequence[Completed], sides: str, seconds: float) -> dict[str, Any]:
    """Return the scores as JSON data, with unrounded numbers."""
    return {
        "lines": len(found),
        "exact_match": sum(one.exact for one in found) / len(found),
        "edit_similarity": sum(one.similarity for one in found) / len(found),
        "sees": sides,
        "seconds_per_line": round(seconds, 4),
    }


def _print_lines(found: Sequence[Completed]) -> None:
    """Print every hidden line with the model's, least similar first."""
    from tinygpt.cli.console import harmless

    for one in sorted(found, key=lambda one: one.similarity):
        hidden = one.hidden
        print(f"{one.similarity:.2f}  {harmless(hidden.path)}:{hidden.line}")
        print(f"      - {harmless(hidden.text)}\n      + {harmless(one.text)}")
