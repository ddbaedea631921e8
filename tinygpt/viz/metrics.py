"""The page of a training run: loss and learning rate over the steps."""

from __future__ import annotations

import html
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinygpt.files.atomic import write_text

Records = list[dict[str, Any]]
Writer = Callable[[Records, dict[str, Any], int], None]

MOST_POINTS = 2000  # of one line: more are invisible and make the page heavy
SMOOTHING = 50  # steps whose mean the smooth line shows


def writer(path: Path) -> Writer:
    """A function that writes the page to `path`.

    Raises
    ------
    ImportError
        plotly is not installed; the message names the extra.
    ValueError
        The page cannot be written there. Folders that are missing are made with the first page.
    """
    try:
        import plotly.graph_objects  # noqa: F401 - found missing here rather than after an hour of training
    except ImportError:
        raise ImportError("--metrics needs plotly: pip install 'tinygpt[viz]'") from None
    if path.is_dir():
        raise ValueError(f"--metrics {path}: is a directory, name a file")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise ValueError(f"--metrics {path}: cannot write in {folder}")

    def write(records: Records, settings: dict[str, Any], vocab_size: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, page(records, settings, vocab_size))

    return write


def page(records: Records, settings: dict[str, Any], vocab_size: int) -> str:
    """The page as HTML, with everything it needs inside.

    Parameters
    ----------
    records : list of dict
        Lines of metrics.jsonl.
    settings : dict
        Of the run; shown as a table.
    vocab_size : int
        ln(vocab_size) is the loss of pure guessing.

    Returns
    -------
    str
    """
    figure = _figure(records, vocab_size)
    chart = figure.to_html(full_html=False, include_plotlyjs=True, config={"displaylogo": False, "responsive": True})
    rows = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(_shown(v))}</td></tr>" for k, v in settings.items())
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>tinygpt: training metrics</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1200px; padding: 1rem; color: #222; }}
table {{ border-collapse: collapse; font-size: 13px; }}
th {{ text-align: left; font-weight: 500; padding: 2px 1.5em 2px 0; color: #555; }}
</style>
</head>
<body>
<h1>Training metrics</h1>
<p>{html.escape(_summary(records))}</p>
{chart}
<h2>Settings</h2>
<table>{rows}</table>
</body>
</html>
"""


def _figure(records: Records, vocab_size: int):
    from plotly.graph_objects import Figure, Scatter
    from plotly.subplots import make_subplots

    steps = [record for record in records if "loss" in record]
    evaluations = [record for record in records if "val_loss" in record]
    figure: Figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.7, 0.3], vertical_spacing=0.06)
    x, loss = _thinned([r["step"] for r in steps], [r["loss"] for r in steps])
    _, smooth = _thinned([r["step"] for r in steps], _running_mean([r["loss"] for r in steps]))
    faint = {"color": "rgba(70, 130, 180, 0.35)", "width": 1}
    figure.add_trace(Scatter(x=x, y=loss, name="training loss", line=faint), 1, 1)
    figure.add_trace(Scatter(x=x, y=smooth, name=f"mean of {SMOOTHING} steps", line={"color": "steelblue"}), 1, 1)
    held = {"color": "darkorange"}
    figure.add_trace(
        Scatter(
            x=[r["step"] for r in evaluations],
            y=[r["val_loss"] for r in evaluations],
            name="held-out loss",
            mode="lines+markers",
            line=held,
        ),
        1,
        1,
    )
    guessing = math.log(vocab_size)
    text = f"guessing: ln {vocab_size} = {guessing:.2f}"
    figure.add_hline(guessing, line_dash="dot", annotation_text=text, row=1, col=1)
    x, rates = _thinned([r["step"] for r in steps], [r["lr"] for r in steps])
    figure.add_trace(Scatter(x=x, y=rates, name="learning rate", line={"color": "seagreen"}), 2, 1)
    figure.update_yaxes(title_text="loss (nats per token)", row=1, col=1)
    figure.update_yaxes(title_text="learning rate", row=2, col=1)
    figure.update_xaxes(title_text="step", row=2, col=1)
    figure.update_layout(
        height=640, template="plotly_white", legend={"orientation": "h", "y": -0.12}, margin={"t": 30, "r": 20, "l": 60}
    )
    return figure


def _thinned(x: list[float], y: list[float]) -> tuple[list[float], list[float]]:
    """At most about MOST_POINTS points, the last one among them."""
    stride = max(1, -(-len(x) // MOST_POINTS))
    keep = [*range(0, len(x) - 1, stride), len(x) - 1] if x else []
    return [x[i] for i in keep], [y[i] for i in keep]


def _running_mean(values: list[float]) -> list[float]:
    """The mean of the last SMOOTHING values at every place."""
    total, means = 0.0, []
    for i, value in enumerate(values):
        total += value - (values[i - SMOOTHING] if i >= SMOOTHING else 0.0)
        means.append(total / min(i + 1, SMOOTHING))
    return means


def _summary(records: Records) -> str:
    steps = [record for record in records if "loss" in record]
    evaluations = [record["val_loss"] for record in records if "val_loss" in record]
    if not steps:
        return "No step has been made yet."
    text = f"{steps[-1]['step'] + 1:,} steps in {steps[-1]['seconds']:.0f} s. Loss {steps[0]['loss']:.3f} at first, "
    text += f"{steps[-1]['loss']:.3f} at last."
    if evaluations:
        text += f" Best loss on held-out text: {min(evaluations):.4f}."
    return text


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
