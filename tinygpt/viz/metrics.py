"""Page of training runs: loss, learning rate, gradient norm, speed and watched statistics, over steps or time.

Design
- Curves of long runs are thinned here, so that the page stays small. The lowest and the highest point of every stretch
  are kept, and with them every peak. The smooth curve is computed from all records before it is thinned.
- The page of an active run reloads itself, because a page opened from disk cannot read another file to fetch new
  figures. The browser's session storage keeps the user's choices across reloads.
- Writing the page may take a fixed share of the run's time. Rejected: writing it every N steps, because a step may take
  microseconds or minutes.
- Steps are numbered as on the terminal and in the names of checkpoints: step N is the state after N steps. The records
  of metrics.jsonl count from 0, so the record of step N - 1 is drawn at N.
- Settings and file names are untrusted text; see `tinygpt.viz.page`.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tinygpt.io.paths import check_file
from tinygpt.io.records import Record
from tinygpt.io.strict import StrPath
from tinygpt.runs.read import RunData, as_text, differences, read_run
from tinygpt.runs.watch import QUANTILES
from tinygpt.viz import curves
from tinygpt.viz.page import Page, frame
from tinygpt.viz.watched import healthy, watched

MOST_POINTS = 2000  # points of one curve; a chart has fewer pixels than that
MOST_POINTS_OF_ALL = 8000  # points of one kind of curve, in all runs together
FEWEST_POINTS = 200  # points of one curve, even with many runs
MOST_RUNS = 24  # limit of the runs that colours and dashes distinguish
MOST_NAMED = 12  # resumptions listed in a note
LIVE_SECONDS = (3.0, 30.0)  # shortest and longest time between two pages; between them, a fiftieth of the run so far
LIVE_SHARE = 0.02  # largest share of a run's time that writing its page may take

CURVES = {"loss": True, "lr": False, "grad_norm": True, "tokens_per_s": True, "peak_share": True}  # True: smoothed


@dataclass(frozen=True, eq=False)
class MetricsPage(Page):
    """Page of one or several runs; a notebook shows it below the cell.

    Attributes
    ----------
    runs : list of RunData
    live : float or None
        Seconds after which an open page reloads itself; None: never.
    """

    template_name = "metrics"
    parts = ("metrics_charts", "metrics_watch", "metrics_live")
    charts = True

    runs: list[RunData]
    live: float | None = None

    def _data(self) -> dict[str, Any]:
        most = max(FEWEST_POINTS, min(MOST_POINTS, MOST_POINTS_OF_ALL // len(self.runs)))
        width = curves.window(max(len(run.steps) for run in self.runs))
        names = differences(self.runs)
        settings = [{name: as_text(run.settings.get(name)) for name in names} for run in self.runs]
        return {
            "runs": [_run(run, most, width) for run in self.runs],
            "window": width,
            "differing": [{"name": name, "values": [one[name] for one in settings]} for name in names],
            "notes": _notes(self.runs, most),
            "quantiles": QUANTILES,
            "healthy": healthy(),
            "live": None if self.live is None else {"seconds": self.live, "written": time.time()},
        }

    def _repr_html_(self) -> str:
        return frame(replace(self, live=None).html, self.height)

    def _heading(self) -> str:
        return "Training metrics"

    def __repr__(self) -> str:
        return f"<MetricsPage: {', '.join(f'{run.name}, {len(run.steps)} steps' for run in self.runs)}>"


def page(runs: StrPath | RunData | Sequence[StrPath | RunData]) -> MetricsPage:
    """Make the page of one run, or of several runs overlaid.

    Parameters
    ----------
    runs : path, RunData, or sequence of them
        Run directories, or files in the format of metrics.jsonl.

    Returns
    -------
    MetricsPage

    Raises
    ------
    FileNotFoundError, ValueError
        A run is missing or has no records, a file cannot be read, or there are no runs or more than MOST_RUNS.
    """
    several = [runs] if isinstance(runs, (str, os.PathLike, RunData)) else list(runs)
    if not 1 <= len(several) <= MOST_RUNS:
        raise ValueError(f"[metrics] 'runs' must be 1 to {MOST_RUNS} runs, got {len(several)}")
    read = [run if isinstance(run, RunData) else read_run(run) for run in several]
    for run, given in zip(read, several, strict=True):
        if not run.records and run is not given:
            raise ValueError(f"{run.name}: no step has been recorded yet")
    return MetricsPage(read)


class LivePage:
    """Page of an active run, rewritten at intervals.

    Parameters
    ----------
    path : Path
        File of the page.

    Raises
    ------
    ImportError
        plotly is not installed; the message names the extra.
    ValueError
        The page cannot be written there.
    """

    def __init__(self, path: Path):
        try:
            import plotly.offline  # noqa: F401 - report a missing package now, not at the first page
        except ImportError:
            raise ImportError("[train] 'metrics' needs plotly: pip install 'tinygpt[viz]'") from None
        check_file(path, "[train] 'metrics'")
        self.path = path
        self.began = time.monotonic()
        self.cost = 0.0  # seconds to write the last page
        self.next = 0.0  # earliest time of the next page

    def __call__(self, records: list[Record], state: str, describe: Callable[[], RunData]) -> None:
        """Write the page if the last one is old enough or the run has ended.

        Parameters
        ----------
        records : list of dict
            Records of the run so far.
        state : str
            ``running``, ``complete`` or ``stopped``.
        describe : function
            Returns the run without its records.
        """
        began = time.monotonic()
        if state == "running" and began < self.next:
            return
        low, high = LIVE_SECONDS
        wait = max(min(max((began - self.began) / 50, low), high), self.cost / LIVE_SHARE)
        live = wait if state == "running" else None
        MetricsPage([replace(describe(), records=records, state=state)], live).save(self.path)
        now = time.monotonic()
        self.cost = now - began
        self.next = now + max(wait, self.cost / LIVE_SHARE)


def _run(run: RunData, most: int, width: int) -> dict[str, Any]:
    """Convert a run to the data that the script of the page reads."""
    steps, evaluations = run.steps, run.evaluations
    seconds = _seconds(run)
    made: dict[str, Any] = {"val": _evaluations(evaluations, seconds, most)}
    for name, smoothed in CURVES.items():
        found = [record for record in steps if record.get(name) is not None]
        x = np.array([record["step"] + 1 for record in found], np.float64)
        t = np.array([record.get("seconds") or 0.0 for record in found], np.float64)
        y = np.array([record[name] for record in found], np.float64)
        made[name] = curves.curve(x, t, y, most)
        if smoothed:
            made[f"{name}_smooth"] = curves.curve(x, t, curves.running_mean(y, width), most)
    return {
        "name": run.name,
        "state": run.state,
        "facts": _facts(run, width),
        "settings": [[name, as_text(value)] for name, value in run.settings.items()],
        "guessing": math.log(run.vocab_size) if run.vocab_size else None,
        "vocab": run.vocab_size,
        "clip": run.clip,
        "schedule": _schedule(run, seconds),
        "curves": made,
        "watch": watched(run.watch, seconds),
    }


def _seconds(run: RunData) -> dict[int, float]:
    """Map every recorded step to the training time at its end; missing times are interpolated."""
    known = {record["step"]: record["seconds"] for record in run.steps if record.get("seconds") is not None}
    if not known:
        return {}
    steps, times = list(known), list(known.values())
    wanted = {record["step"] for record in (*run.evaluations, *run.watch)}
    wanted |= {run.warmup} if run.warmup <= steps[-1] else set()
    return known | {step: float(np.interp(step, steps, times, left=0.0)) for step in wanted - known.keys()}


def _evaluations(evaluations: list[Record], seconds: dict[int, float], most: int) -> dict[str, list[Any]]:
    x = np.array([record["step"] + 1 for record in evaluations], np.float64)
    t = np.array([seconds.get(record["step"], 0.0) for record in evaluations], np.float64)
    losses = np.array([record["val_loss"] for record in evaluations], np.float64)
    made = curves.curve(x, t, losses, most)
    bits = {record["step"] + 1: record.get("val_bits_per_byte") for record in evaluations}
    made["bits"] = [bits[step] for step in made["step"]]
    return made


def _schedule(run: RunData, seconds: dict[int, float]) -> dict[str, Any]:
    """Describe the learning-rate schedule: end of warm-up, and the kind of decay after it."""
    return {
        "kind": as_text(run.settings.get("schedule")),
        "warmup": run.warmup,
        "seconds": seconds.get(run.warmup),
    }


def _facts(run: RunData, width: int) -> dict[str, Any]:
    """Compute the figures of a run's summary; None for unknown ones."""
    steps = run.steps
    losses = [record["loss"] for record in steps]
    rates = [record["tokens_per_s"] for record in steps if record.get("tokens_per_s") is not None]
    shares = [record["peak_share"] for record in steps if record.get("peak_share") is not None]
    evaluations = [(record["val_loss"], record["step"]) for record in run.evaluations]
    best = min(evaluations, default=None)
    lowest = min(zip(losses, (record["step"] for record in steps), strict=True), default=None)
    made = steps[-1]["step"] + 1 if steps else 0
    return {
        "steps": made,
        "total": run.total_steps,
        "tokens": run.tokens_per_step * made if run.tokens_per_step else None,
        "parameters": run.parameters,
        "seconds": steps[-1].get("seconds") if steps else None,
        "first": losses[0] if steps else None,
        "final": losses[-1] if steps else None,
        "smooth": _mean(losses[-width:]),
        "lowest": lowest and lowest[0],
        "lowestStep": lowest and lowest[1] + 1,
        "average": _mean(losses),
        "val": evaluations[-1][0] if evaluations else None,
        "best": best and best[0],
        "bestStep": best and best[1] + 1,
        "score": run.score,
        # Medians, because other programs slow down single steps.
        "rate": float(np.median(rates)) if rates else None,
        "peak": float(np.median(shares)) if shares else None,
    }


def _mean(values: list[float]) -> float | None:
    """Return the mean, without a sum that could overflow; None if there are no values."""
    return float((np.array(values) / len(values)).sum()) if values else None


def _notes(runs: list[RunData], most: int) -> list[str]:
    """List remarks for the reader, such as what the page leaves out."""
    notes = [note for run in runs for note in run.notes]
    if max(len(run.steps) for run in runs) > most:
        notes.append(
            f"Long curves are drawn through at most {most:,} points: the lowest and the highest of every stretch. "
            "Averages are computed from all records."
        )
    for run in runs:
        if run.resumptions:
            steps = ", ".join(f"{step:,}" for step in run.resumptions[-MOST_NAMED:])
            few = len(run.resumptions) > MOST_NAMED
            notes.append(f"{run.name} was resumed after step {'... ' if few else ''}{steps}.")
    if not any(run.steps for run in runs):
        notes.append("No step has been recorded yet.")
    return notes
