"""Steps beside another program: how much a busy neighbour costs with fixed and with adaptive threads.

usage: python benchmarks/neighbour.py [--jobs NAME...] [--repetitions 5] [--seconds 1.5] OUT.json

Every contender is measured on the quiet machine and beside one process that computes all the time. Contenders take
turns. A repetition gives the mean time of a call, not the median, because a few very long steps cause most of the loss.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import contest
from jobs import JOBS, Job

# Name in the table, contender, threads, environment of its process.
CONTENDERS = (
    ("tinygpt, 1 thread", "tinygpt", 1, {}),
    ("tinygpt, 2 threads", "tinygpt", 2, {}),
    ("tinygpt, 2 threads, short spin", "tinygpt", 2, {"GOMP_SPINCOUNT": "3000"}),
    ("tinygpt, 2 threads, no spin", "tinygpt", 2, {"OMP_WAIT_POLICY": "passive"}),
    ("tinygpt, auto", "tinygpt auto", 2, {}),
    ("PyTorch, 1 thread", "torch", 1, {}),
    ("PyTorch, 2 threads", "torch", 2, {}),
)
FEWER = {"decode-tiny"}  # jobs without a contender in PyTorch
SETTLE = 0.5  # seconds after the neighbour begins or ends


@contextlib.contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Keep `count` processes busy inside a ``with`` block."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        time.sleep(SETTLE)
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def run(job: Job, repetitions: int, seconds: float) -> list[dict[str, Any]]:
    """Measure all contenders of one job, without and with a neighbour."""
    workers, rows = {}, []
    try:
        for name, contender, threads, extra in CONTENDERS:
            if contender == "torch" and job.name in FEWER:
                continue
            with contextlib.suppress(contest.MissingError):
                workers[name] = contest.Worker(contender, threads, extra=extra)
        for worker in workers.values():
            worker.ask({"build": job.task(seconds)})
        for count in (0, 1):
            with neighbours(count):
                times = contest.alternate(workers, repetitions)
            for name, taken in times.items():
                rows.append({"job": job.name, "contender": name, "neighbours": count, **contest.summary(taken)})
    finally:
        contest.close_workers(workers)
    return rows


def main() -> None:
    """Run the jobs and write the rows after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT.json")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=["train-tiny", "train-small", "decode-tiny"])
    parser.add_argument("--repetitions", type=int, default=5, metavar="N", help="rounds; 5 by default")
    parser.add_argument("--seconds", type=float, default=1.5, help="time of one repetition; 1.5 by default")
    chosen = parser.parse_args()
    results: dict[str, Any] = {"kind": "neighbour", "machine": contest.machine([2]), "rows": []}
    for name in chosen.jobs:
        rows = run(JOBS[name], chosen.repetitions, chosen.seconds)
        for row in rows:
            print(f"{name:<14}{row['neighbours']} neighbours  {row['contender']:<32}{1e3 * row['median']:10.2f} ms")
        results["rows"] += rows
        contest.save(results, chosen.out)


if __name__ == "__main__":
    main()
