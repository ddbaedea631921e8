"""Charts of benchmark results for the pages, with plotly: rooflines, bars of peers, lines of scaling.

The first chart of a page contains plotly's code, so that a page needs nothing from the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from IPython.display import HTML

GREY = "rgba(128, 128, 128, 0.25)"  # visible on a light and on a dark page
TEXT = "#808080"
COLOURS = {
    "tinygpt": "#2f6fb3", "tinygpt bfloat16": "#79b4ee", "tinygpt numpy": "#3c8a4e", "numpy": "#3c8a4e",
    "torch": "#c8641b", "torch onednn": "#f0a062", "torch bfloat16": "#d9a441", "transformers": "#9b59b6",
    "jax": "#b8325f",
}  # fmt: skip
RUNGS = {"naive": "#9aa0a6", "parallel": "#c8641b", "blocked": "#3c8a4e", "simd": "#2f6fb3", "numpy": "#9b59b6"}

_shown = 0


def show(figure: go.Figure) -> HTML:
    """Return a figure as self-contained HTML."""
    global _shown
    _shown += 1
    figure.update_layout(
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": TEXT},
        margin={"l": 60, "r": 10, "t": 40, "b": 50},
        height=420,
        legend={"orientation": "h", "y": -0.2},
    )
    figure.update_xaxes(gridcolor=GREY, zerolinecolor=GREY)
    figure.update_yaxes(gridcolor=GREY, zerolinecolor=GREY)
    return HTML(figure.to_html(full_html=False, include_plotlyjs=_shown == 1, config={"displaylogo": False}))


def roofline(rows: Sequence[Mapping[str, Any]], roof: Mapping[str, float], rungs: Sequence[str]) -> HTML:
    """Draw kernels as points under the two measured roofs.

    Parameters
    ----------
    rows : sequence of mapping
        Of the ladder: op, size, rung, seconds, flops, bytes.
    roof : mapping
        ``peak_flops`` and ``read_bandwidth``.
    rungs : sequence of str
        Those to show.
    """
    chosen = [row for row in rows if row.get("kind") == "kernel" and row["rung"] in rungs and row["bytes"]]
    at = [row["flops"] / row["bytes"] for row in chosen]
    peak, memory = roof["peak_flops"] / 1e9, roof["read_bandwidth"] / 1e9
    ends = [min(at) / 2, max(max(at) * 2, 4 * peak / memory)]
    figure = go.Figure(
        go.Scatter(
            x=[ends[0], peak / memory, ends[1]],
            y=[ends[0] * memory, peak, peak],
            mode="lines",
            name="measured roofs",
            line={"color": TEXT, "dash": "dash"},
        )
    )
    for rung in rungs:
        mine = [row for row in chosen if row["rung"] == rung]
        figure.add_scatter(
            x=[row["flops"] / row["bytes"] for row in mine],
            y=[row["flops"] / row["seconds"] / 1e9 for row in mine],
            text=[f"{row['op']}, {row['size']}" for row in mine],
            mode="markers",
            name=rung,
            marker={"color": RUNGS.get(rung)},
        )
    figure.update_xaxes(type="log", title="operations per byte of the arguments")
    figure.update_yaxes(type="log", title="GFLOP/s")
    return show(figure)


def bars(jobs: Sequence[Mapping[str, Any]], bounds: Sequence[float]) -> HTML:
    """Draw the time of every contender over that of tinygpt, job by job, with the bound."""
    names = list(dict.fromkeys(one["name"] for job in jobs for one in job["contenders"]))
    labels = [job["job"] for job in jobs]
    figure = go.Figure()
    for name in names:
        heights = [next((one["ratio"] for one in job["contenders"] if one["name"] == name), None) for job in jobs]
        figure.add_bar(x=labels, y=heights, name=name, marker={"color": COLOURS.get(name)})
    ours = [next(one["median"] for one in job["contenders"] if one["name"] == "tinygpt") for job in jobs]
    least = [bound / mine for bound, mine in zip(bounds, ours, strict=True)]
    figure.add_scatter(
        x=labels, y=least, name="bound", mode="markers", marker={"symbol": "line-ew-open", "size": 40, "color": TEXT}
    )
    figure.update_layout(barmode="group")
    figure.update_yaxes(title="time, tinygpt = 1")
    return show(figure)


def lines(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str) -> HTML:
    """Draw lines, given as name -> (x values, y values), on logarithmic axes."""
    figure = go.Figure()
    for name, (along, up) in series.items():
        figure.add_scatter(x=along, y=up, name=name, mode="lines+markers", line={"color": COLOURS.get(name)})
    figure.update_xaxes(type="log", title=x)
    figure.update_yaxes(type="log", title=y)
    return show(figure)
