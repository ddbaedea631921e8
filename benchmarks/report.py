"""Turn benchmark results into the tables of the docs.

usage: python benchmarks/report.py RESULTS.json OUT.json     shorten results to the part that the docs need
       python benchmarks/report.py OUT.json                  print the tables of a shortened file

RESULTS.json comes from pytest-benchmark, compare.py, decode.py or products.py; summary.py handles the last three. The
docs call `load` and `ladder` on the files in docs/data, so that no figure in the docs is typed by hand.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def compact(results: dict[str, Any]) -> dict[str, Any]:
    """Reduce results to the machine and one row per benchmark with its median."""
    machine = results["machine_info"]
    rows = [
        {"group": one["group"], "seconds": one["stats"]["median"], **one["extra_info"]} for one in results["benchmarks"]
    ]
    facts = {
        "processor": machine["cpu"].get("brand_raw", machine["processor"]),
        "python": machine["python_version"],
        "date": results["datetime"][:10],
        **machine["tinygpt"],
    }
    return {"machine": facts, "rows": rows}


def load(path: Path | str) -> dict[str, Any]:
    """Load a file that `compact` made."""
    return json.loads(Path(path).read_text())


def machine(results: dict[str, Any]) -> str:
    """Describe the machine in one line."""
    facts = results["machine"]
    return (
        f"{facts['processor']}, {facts['threads']} threads, measured float32 peak {facts['peak_gflops']:.0f} GFLOP/s, "
        f"{facts['date']}"
    )


def ladder(results: dict[str, Any], op: str, size: str | None = None) -> str:
    """Make a Markdown table of an op's rungs: time, rate, share of the peak, speed-up over the rung above."""
    rows = [row for row in results["rows"] if row.get("op") == op and (size is None or row.get("size") == size)]
    if not rows:
        raise ValueError(f"there is no result for {op}{f' at {size}' if size else ''}")
    peak = results["machine"]["peak_gflops"]
    lines = ["| size | rung | time | GFLOP/s | of peak | over the rung above |", "|---|---|--:|--:|--:|--:|"]
    for group in dict.fromkeys(row["group"] for row in rows):
        lines += _lines([row for row in rows if row["group"] == group], peak)
    return "\n".join(lines)


def _lines(rows: list[Row], peak: float) -> Iterable[str]:
    before = None
    for i, row in enumerate(rows):
        rate = row["flops"] / row["seconds"] / 1e9 if "flops" in row else None
        ratio = "" if before is None else f"{before / row['seconds']:.1f} x"
        size = row["size"].replace("  ", ", ") if i == 0 else ""
        figures = "| |" if rate is None else f"{rate:.1f} | {100 * rate / peak:.1f} % |"
        yield f"| {size} | {row['rung']} | {_time(row['seconds'])} | {figures} {ratio} |"
        before = row["seconds"]


def _time(seconds: float) -> str:
    for unit, scale in (("s", 1), ("ms", 1e3)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.2f} {unit}"
    return f"{seconds * 1e6:.1f} µs"


def main() -> None:
    """Write a shortened file of results, or print its tables."""
    if len(sys.argv) == 3:
        results = load(sys.argv[1])
        if "kind" in results:
            import summary

            text = summary.dump(summary.compact(results))
        else:
            text = json.dumps(compact(results), indent=1)
        Path(sys.argv[2]).write_text(text + "\n")
    elif len(sys.argv) == 2:
        results = load(sys.argv[1])
        if "kind" in results:
            import summary

            print(summary.text(results))
            return
        print(machine(results))
        for op in dict.fromkeys(row["op"] for row in results["rows"] if "rung" in row):
            print(f"\n{op}\n\n{ladder(results, op)}")
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
