"""Matrix products, attention and row-wise ops, shape by shape, against NumPy and PyTorch.

usage: python benchmarks/products.py [--grids products squares attention rowwise] [--threads 1 2] [--repetitions 7]
                                     [--seconds 0.01] [--every N] OUT.json

products    the products of forward, dX and dW of four models, float32 and bfloat16
squares     512, 1024, 2048: the share of the measured peak
attention   forward and backward by length and head width
rowwise     ops on arrays larger than any cache: the share of the bandwidth

The contenders take turns in short repetitions, and must agree on samples of every result. --every N measures each Nth
shape only, for a quick check.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import contest
import jobs
from jobs import Task

Grid = tuple[Callable[[], list[Task]], tuple[str, ...]]
GRIDS: dict[str, Grid] = {
    "products": (jobs.products, jobs.PRODUCT_CONTENDERS),
    "squares": (jobs.squares, jobs.PRODUCT_CONTENDERS),
    "attention": (jobs.attentions, jobs.ATTENTION_CONTENDERS),
    "rowwise": (jobs.rowwise, jobs.ROWWISE_CONTENDERS),
}
# Tolerances. Those of products are relative to sqrt(K) / 2: six standard deviations of a sum of K products of numbers
# in [-0.5, 0.5). That of attention is absolute, for inputs of N(0, 1).
PRODUCT = {"float32": 1e-4, "bfloat16": 0.1}
ATTENTION = 1e-3


def tolerances(task: Task, checks: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Return the tolerance of each contender's samples against those of the first."""
    found = {}
    for name, numbers in checks.items():
        room = ATTENTION
        if task["kind"] == "product":
            room = PRODUCT[jobs.precision(name)] * math.sqrt(task["K"]) / 2
        found[name] = [room] * len(numbers)
    return found


def measure(workers: Mapping[str, contest.Worker], task: Task, repetitions: int) -> dict[str, Any]:
    """Measure the median time of each contender on one shape, and its ratio to the time of tinygpt."""
    built = {name: worker.ask({"build": task}) for name, worker in workers.items()}
    checks = {name: answer["check"] for name, answer in built.items()}
    contest.agree(checks, tolerances(task, checks))
    times = contest.alternate(workers, repetitions, pause=0)
    row: dict[str, Any] = {key: value for key, value in task.items() if key not in ("kind", "seconds")}
    if task["kind"] == "rowwise":
        row["bytes"] = checks["tinygpt"][0]
    row["seconds"] = {name: contest.summary(taken)["median"] for name, taken in times.items()}
    # Products in bfloat16 are compared with tinygpt in bfloat16.
    bases = {name: f"tinygpt{' bfloat16' * ('bfloat16' in name)}" for name in times}
    row["ratio"] = {
        name: contest.median_ratio(taken, times[bases[name]])
        for name, taken in times.items()
        if bases[name] in times and bases[name] != name
    }
    return row


def arguments() -> argparse.Namespace:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT.json")
    parser.add_argument("--grids", nargs="+", choices=GRIDS, default=list(GRIDS), metavar="NAME", help="all by default")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], metavar="N", help="1 and 2 by default")
    parser.add_argument("--repetitions", type=int, default=7, metavar="N", help="rounds; 7 by default")
    parser.add_argument("--seconds", type=float, default=0.01, help="the least time of one repetition; 0.01 by default")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="each Nth shape of a grid")
    chosen = parser.parse_args()
    if min(chosen.repetitions, chosen.every, *chosen.threads) < 1 or chosen.seconds <= 0:
        parser.error("--repetitions, --every, --threads and --seconds must be positive")
    return chosen


def run(grid: str, threads: int, chosen: argparse.Namespace, title: str) -> dict[str, Any]:
    """Measure one grid on a number of threads, with a line of progress for every tenth of it."""
    make, names = GRIDS[grid]
    tasks = make()[:: chosen.every]
    workers, missing = contest.open_workers(names, threads)
    rows, versions = [], {}
    try:
        for name, why in missing.items():
            print(f"  without {name}: {why}")
        for worker in workers.values():
            versions |= worker.ask({"facts": True})["versions"] if worker.contender.startswith("torch") else {}
        for i, task in enumerate(tasks):
            rows.append(measure(workers, task | {"seconds": chosen.seconds}, chosen.repetitions))
            if (i + 1) % max(1, len(tasks) // 10) == 0:
                print(f"  {title}: {i + 1} of {len(tasks)}", flush=True)
    finally:
        contest.close_workers(workers)
    for name in names:
        ratios = [row["ratio"][name] for row in rows if name in row["ratio"]]
        if ratios:
            mean, worst = contest.geometric_mean(ratios), min(ratios)
            print(f"  {name:<28} {mean:5.2f} x tinygpt (geometric mean of {len(ratios)}), worst {worst:.2f} x")
    return {"grid": grid, "threads": threads, "rows": rows, "missing": missing, "versions": versions}


def main() -> None:
    """Run the grids, and write the results after each."""
    chosen = arguments()
    start = time.monotonic()
    results: dict[str, Any] = {"kind": "products", "machine": contest.machine(chosen.threads), "grids": []}
    todo = [(threads, grid) for grid in chosen.grids for threads in chosen.threads]
    for i, (threads, grid) in enumerate(todo):
        title = f"{grid}, {threads} thread{'s' * (threads > 1)}"
        print(f"[{i + 1}/{len(todo)}, {time.monotonic() - start:.0f} s] {title}", flush=True)
        try:
            found = run(grid, threads, chosen, title)
        except contest.ContenderError as error:
            sys.exit(f"{title}: {error}")
        results["machine"]["versions"] |= found.pop("versions")
        results["grids"].append(found)
        contest.save(results, chosen.out)
    contest.raise_ceilings(results["machine"], contest.machine(chosen.threads))
    contest.save(results, chosen.out)


if __name__ == "__main__":
    main()
