"""`tinygpt trace`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from cyclopts import Parameter

from tinygpt.cli.options import Compute, load_model, note, some_prompt

if TYPE_CHECKING:
    from tinygpt.model import GPT
    from tinygpt.tracing import Step, Trace
    from tinygpt.viz.trace import TracePage

WHOLE = 12  # most rows, and most columns, of a step that is printed in full
BEST = 6  # most likely tokens printed of a distribution
ENDS = 4  # rows and columns printed at each end of a larger step


@dataclass(kw_only=True)
class TraceOptions(Compute):
    """Flags of `tinygpt trace`, one field each."""

    model: str = "runs/tiny"
    """Model directory."""
    prompt: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    """Text of the prompt; - reads standard input."""
    prompt_file: str | None = None
    """File with the text of the prompt."""
    step: str | None = None
    """Print the values of one step, as in attn.softmax, norm or blocks.0.residual1."""
    layer: int | None = None
    """Layer of the step, from 0. Without --step, list the steps of this layer only."""
    head: int | None = None
    """Head of the step, from 0. Default: all heads."""
    backward: bool = False
    """Compute gradients too, of the mean loss of predicting the prompt's own tokens."""
    out: str | None = None
    """Page to write; an existing file is replaced. Default: none."""
    save: str | None = None
    """NumPy file (.npz) for the arrays; an existing file is replaced. Default: none."""
    max_tokens: int = 32
    """Maximum number of tokens; a longer prompt is cut at its end, as is one longer than the model's context."""
    quiet: bool = False
    """Print only the values of --step."""


def trace(options: Annotated[TraceOptions, Parameter(name="*")] = TraceOptions()) -> int:  # noqa: B008
    """Show every intermediate value of a forward pass.

    Lists the steps from the tokens to the next-token distribution, each with its
    formula, shape and statistics. Can also print the values of one step, save all
    arrays, or write a page that leads from step to step.
    """
    from tinygpt.io.paths import check_file
    from tinygpt.viz.attention import cut_note, shown_tokens
    from tinygpt.viz.trace import trace_page

    options.apply()
    for flag, path in (("--out", options.out), ("--save", options.save)):
        if path is not None:
            check_file(Path(path), flag)
    prompt = some_prompt(options)
    model, tokenizer = load_model(options.model)
    _check_numbers(options, model)
    n = len(tokenizer.prompt(prompt))
    kept = shown_tokens(model, n, options.max_tokens, "trace")
    if options.backward and kept < 2:
        raise ValueError("--backward needs a prompt of at least 2 tokens, because the loss predicts each next token")
    name = Path(options.model).resolve().name
    page = trace_page(model, tokenizer, prompt, options.max_tokens, options.backward, head=options.head or 0, name=name)
    step = None if options.step is None else _find(page.steps, options.step, options.layer, model)
    if step is not None and options.head is not None:
        _check_head(step, options.head)
    _write(page, options, step)
    if page.dropped and not options.quiet:
        note(cut_note(n, kept, model.config.block_size, "--max-tokens"))
    if step is not None:
        _print_step(page, step, options)
    elif not options.quiet:
        _print_table(page.steps, options.layer)
    return 0


def _check_numbers(options: TraceOptions, model: GPT) -> None:
    """Raise ValueError if the model does not have the layer or the head."""
    for flag, value, count in (
        ("--layer", options.layer, model.config.n_layer),
        ("--head", options.head, model.config.n_head),
    ):
        if value is not None and not 0 <= value < count:
            raise ValueError(f"{flag} must be in 0..{count - 1}, got {value}")
    if options.head is not None and options.step is None and options.out is None:
        raise ValueError("--head needs --step or --out")


def _find(steps: Trace, name: str, layer: int | None, model: GPT) -> Step:
    """Find a step by its name, or by its name within a block: block `layer`, or the first."""
    if name in steps:
        step = steps[name]
        if layer is not None and step.block != layer:
            raise ValueError(f"--layer needs a step of a block, got --step {name}")
        return step
    inside = f"blocks.{layer or 0}.{name}"
    if inside in steps:
        return steps[inside]
    outside = [key for key, step in steps.items() if step.block is None]
    own = [step.local for step in steps.values() if step.block == 0]
    layers = f"in each of {model.config.n_layer} layers {', '.join(own)}"
    raise ValueError(f"--step {name}: unknown step; there are {', '.join(outside)} and {layers}")


def _check_head(step: Step, head: int) -> None:
    """Raise ValueError if the step does not have this head."""
    axes = step.axes.split()
    found = [letter for letter in ("H", "G") if letter in axes]
    if not found:
        raise ValueError(f"--head needs a step that has heads, got --step {step.local}")
    count = step.shape[axes.index(found[0])]
    if head >= count:
        raise ValueError(f"--head must be in 0..{count - 1} for {step.local}, got {head}")


def _write(page: TracePage, options: TraceOptions, step: Step | None) -> None:
    """Write the page and the arrays, if requested."""
    from dataclasses import replace

    if options.out is not None:
        out = Path(options.out)
        replace(page, first=None if step is None else step.name).save(out)
        if not options.quiet:
            print(
                f"page      {out}  {out.stat().st_size / 1e6:.1f} MB: {len(page.ids)} tokens, {len(page.steps)} steps"
            )
    if options.save is not None:
        path = Path(options.save)
        path.parent.mkdir(parents=True, exist_ok=True)
        page.steps.save(path)
        if not options.quiet:
            print(f"arrays    {path}  {path.stat().st_size / 1e6:.1f} MB")


def _print_table(steps: Trace, layer: int | None) -> None:
    """Print one line per step, with as many columns as the terminal width allows."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from tinygpt.tracing import COLUMNS

    console = Console(highlight=False, soft_wrap=True)
    rows = [row for row, step in zip(steps.rows(), steps.values(), strict=True) if layer in (None, step.block)]
    for dropped in (
        (),
        ("source",),
        ("source", "axes"),
        ("source", "axes", "formula"),
        ("source", "axes", "formula", "mean"),
    ):
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
        names = [name for name in COLUMNS if name not in dropped]
        for name in names:
            figure = name in ("min", "max", "mean", "std")
            table.add_column(name, justify="right" if figure else "left", no_wrap=True)
        for row in rows:
            table.add_row(*(Text(row[name]) for name in names))
        wide = console.measure(table, options=console.options.update(max_width=10_000)).maximum
        if wide <= console.width or not console.is_terminal:
            break
    (console if console.is_terminal else Console(file=console.file, width=wide)).print(table, highlight=False)


def _print_step(page: TracePage, step: Step, options: TraceOptions) -> None:
    """Print formula, shape, statistics and values of a step, then its gradients if they were computed."""
    from tinygpt.tracing import number
    from tinygpt.viz.trace import as_maps

    stats = step.stats
    print(f"{step.name} = {step.formula}")
    shape = f"({', '.join(step.axes.split())}) = {step.shape}" if step.shape else "one number"
    print(f"{shape}, {step.dtype}; computed by {step.source} for {step.caller}")
    figures = "  ".join(f"{key} {number(getattr(stats, key))}" for key in ("min", "max", "mean", "std"))
    shares = "".join(f"  {100 * value:.3g} % {word}" for value, word in _shares(step) if value)
    print(figures + shares)
    for title, array in (("", step.array if step.kept else None), ("gradient", step.gradient)):
        if array is None:
            continue
        maps = as_maps(step, array)
        for head in range(len(maps)) if options.head is None else [options.head]:
            named = [title] if title else []
            named += [f"head {head}"] if len(maps) > 1 else []
            print()
            if named:
                print(", ".join(named))
            if step.axes.endswith("V"):
                _print_best(page, maps[head])
            else:
                _print_map(page, step, maps[head])


def _shares(step: Step) -> list[tuple[float, str]]:
    return [(step.stats.zeros, "zeros"), (step.stats.nan, "NaN"), (step.stats.infinite, "infinite")]


def _print_map(page: TracePage, step: Step, values: np.ndarray) -> None:
    """Print a table of values with the tokens beside them; only the ends of a large one."""
    from tinygpt.cli.console import harmless
    from tinygpt.tracing import number

    tokens, columns = values.shape
    rows = _ends(tokens)
    picked = _ends(columns)
    labels = [harmless(text) for text in page.labels]
    keys = step.axes.endswith("S")
    lines = [["", *(("..." if c is None else labels[c] if keys else str(c)) for c in picked)]]
    for r in rows:
        if r is None:
            lines.append(["..."] + [""] * len(picked))
            continue
        named = f"{r} {labels[r]}" if tokens == len(labels) else ""
        lines.append([named, *("..." if c is None else number(float(values[r, c])) for c in picked)])
    wide = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        first = f"{line[0]:<{wide[0]}}"
        print("  ".join([first, *(f"{text:>{wide[i]}}" for i, text in enumerate(line[1:], 1))]).rstrip())


def _print_best(page: TracePage, values: np.ndarray) -> None:
    """Print the largest values of each position with their tokens, because a vocabulary is too wide for a table."""
    from tinygpt.cli.console import harmless
    from tinygpt.tracing import number

    for t in _ends(len(values)):
        if t is None:
            print("...")
            continue
        best = np.argsort(-values[t], kind="stable")[:BEST].tolist()
        found = (f"{harmless(page.label(token))} {number(float(values[t, token]))}" for token in best)
        print(f"{t} {harmless(page.labels[t])}:  {'   '.join(found)}")


def _ends(n: int) -> list[int | None]:
    """Return 0..n-1, or its first and last numbers with None between them."""
    return [*range(n)] if n <= WHOLE else [*range(ENDS), None, *range(n - ENDS, n)]
