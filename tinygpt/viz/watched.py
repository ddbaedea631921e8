"""Watch records for the page of a run: one series of statistics per tensor."""

from __future__ import annotations

from typing import Any

from tinygpt.io.records import Record
from tinygpt.runs.watch import HEALTHY, KINDS, place
from tinygpt.viz.curves import short

MOST_SAMPLES = 200  # steps of one series
FEWEST_SAMPLES = 20  # steps of one series, even with very many series
MOST_OF_ALL = 12_000  # samples of all series: with about 15 figures each, about two megabytes


def healthy() -> dict[str, list[float]]:
    """Map every statistic, such as ``weights.std``, to the bounds of its healthy range."""
    return {f"{one.kind}.{one.statistic}": [one.low, one.high] for one in HEALTHY}


def watched(records: list[Record], seconds: dict[int, float]) -> list[dict[str, Any]]:
    """Collect the statistics of every watched tensor over the steps.

    Parameters
    ----------
    records : list of dict
        Lines of watch.jsonl.
    seconds : dict of int to float
        Maps a step to the training time at its end.

    Returns
    -------
    list of dict
        ``kind``, ``layer``, ``part``, then lists of equal length: ``step``, ``seconds`` and one for each statistic.
    """
    names = {(kind, name) for record in records for kind in KINDS for name in record.get(kind, {})}
    most = max(FEWEST_SAMPLES, min(MOST_SAMPLES, MOST_OF_ALL // max(1, len(names))))
    stride = -(-len(records) // most) or 1
    kept = records[::-1][::stride][::-1]  # from the end, so that the last record is kept
    series: dict[tuple[str, str], dict[str, Any]] = {}
    for record in kept:
        for kind in KINDS:
            for name, statistics in record.get(kind, {}).items():
                if (kind, name) not in series:
                    layer, part = place(name)
                    series[kind, name] = {
                        "kind": kind,
                        "layer": layer,
                        "part": part,
                        "step": [],
                        "seconds": [],
                        "of": [],
                    }
                one = series[kind, name]
                one["step"].append(record["step"] + 1)  # numbered as in tinygpt.viz.metrics
                one["seconds"].append(round(seconds.get(record["step"], 0.0), 3))
                one["of"].append(statistics)
    return [_columns(one) for one in series.values()]


def _columns(series: dict[str, Any]) -> dict[str, Any]:
    """Turn a list of records into one list of numbers per statistic."""
    samples = series.pop("of")
    names = dict.fromkeys(name for sample in samples for name in sample)
    return series | {name: [_short(sample.get(name)) for sample in samples] for name in names}


def _short(value: Any) -> Any:
    if isinstance(value, list):
        return [_short(one) for one in value]
    return None if value is None else short(value)
