"""`tinygpt metrics`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


@dataclass(kw_only=True)
class MetricsOptions:
    """Flags of `tinygpt metrics`, one field each."""

    out: str = "metrics.html"
    """Page to write; an existing file is replaced."""
    quiet: bool = False
    """Print nothing."""


def metrics(
    runs: Annotated[list[str], Parameter(help="Run directories, or files in the format of metrics.jsonl.")],
    /,
    options: Annotated[MetricsOptions, Parameter(name="*")] = MetricsOptions(),  # noqa: B008
) -> int:
    """Show the curves of one or several training runs.

    Writes one HTML file that needs no network: losses, learning rate, gradient
    norm and speed over steps or time, the statistics recorded by --watch, and for
    several runs a table of the settings in which they differ. A run may still be
    running.
    """
    from tinygpt.cli.console import harmless
    from tinygpt.io.paths import check_file
    from tinygpt.viz import metrics as viz
    from tinygpt.viz.page import plotly_script

    check_file(Path(options.out), "--out")
    if len(runs) > viz.MOST_RUNS:
        raise ValueError(f"at most {viz.MOST_RUNS} runs fit one page, got {len(runs)}")
    plotly_script()  # report a missing package before any work is done
    page = viz.page(runs)
    page.save(options.out)
    if options.quiet:
        return 0
    for run in page.runs:
        steps, evaluations = run.steps, [record["val_loss"] for record in run.evaluations]
        text = f"{len(steps):,} step{'s' * (len(steps) != 1)}" + (
            f", last loss {steps[-1]['loss']:.4f}" if steps else ""
        )
        text += f", validation {min(evaluations):.4f} at best" if evaluations else ""
        print(f"{'run':<10}{harmless(run.name)}: {text}")
        for note in run.notes:
            print(f"{'note':<10}{harmless(note)}")
    print(f"written   {options.out}, {Path(options.out).stat().st_size / 1e6:.1f} MB")
    return 0
