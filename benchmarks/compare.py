"""Training steps, decoding and prefill against other libraries.

usage: python benchmarks/compare.py [--jobs NAME...] [--threads 1 2] [--repetitions 9] [--seconds 0.3] OUT.json

Every contender runs in its own process, with the same number of threads. They take turns, repetition by repetition.
Before the timing, all contenders must compute the same numbers: the losses of the first two steps, or the logits of a
prompt. --list prints the names of the jobs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import contest
from jobs import JOBS, LOGITS, LOSS, Job, precision


def tolerances(job: Job, checks: Mapping[str, Sequence[float]]) -> dict[str, Sequence[float]]:
    """Return the tolerance of each contender's numbers against those of the first."""
    if job.kind == "train":
        return {name: LOSS[precision(name)] for name in checks}
    largest = max((abs(x) for numbers in checks.values() for x in numbers), default=0.0)
    return {name: [LOGITS * largest] * len(numbers) for name, numbers in checks.items()}


def run(job: Job, threads: int, repetitions: int, seconds: float) -> dict[str, Any]:
    """Run one job on a number of threads; return the times of all contenders, and the missing ones."""
    workers, missing = contest.open_workers(job.contenders, threads)
    try:
        built = {name: worker.ask({"build": job.task(seconds)}) for name, worker in workers.items()}
        checks = {name: answer["check"] for name, answer in built.items()}
        contest.agree(checks, tolerances(job, checks))
        times = contest.alternate(workers, repetitions)
        versions = {}
        for worker in workers.values():
            if worker.contender.partition(" ")[0] != "tinygpt":
                versions |= worker.ask({"facts": True})["versions"]
    finally:
        contest.close_workers(workers)
    contenders = [
        {
            "name": name,
            **contest.summary(taken),
            "ratio": contest.median_ratio(taken, times["tinygpt"]),
            "calls": built[name]["calls"],
            "high_water": built[name]["high_water"],
            "check": checks[name],
        }
        for name, taken in times.items()
    ]
    sizes = asdict(job.model) | {"parameters": job.model.parameters(), "new_tokens": job.new_tokens}
    costs = {"tokens": job.tokens(), "flops": job.flops(), "bytes": job.bytes()}
    names = {"job": job.name, "kind": job.kind, "threads": threads}
    return {**names, "sizes": sizes, **costs, "contenders": contenders, "missing": missing, "versions": versions}


def arguments() -> argparse.Namespace:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path, metavar="OUT.json")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS), metavar="NAME", help="all by default")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], metavar="N", help="1 and 2 by default")
    parser.add_argument("--repetitions", type=int, default=9, metavar="N", help="rounds; 9 by default")
    parser.add_argument("--seconds", type=float, default=0.3, help="the least time of one repetition; 0.3 by default")
    parser.add_argument("--list", action="store_true", help="name the jobs and what each compares")
    chosen = parser.parse_args()
    if chosen.out is None and not chosen.list:
        parser.error("the following arguments are required: OUT.json")
    if chosen.repetitions < 1 or min(chosen.threads) < 1 or chosen.seconds <= 0:
        parser.error("--repetitions, --threads and --seconds must be positive")
    return chosen


def line(name: str, contender: Mapping[str, Any]) -> str:
    """Format the time of a contender as one line of progress."""
    return (
        f"{name:<28} {contender['name']:<18} {1e3 * contender['median']:10.3f} ms  "
        f"({1e3 * contender['low']:.3f} to {1e3 * contender['high']:.3f})  {contender['ratio']:5.2f} x tinygpt"
    )


def main() -> None:
    """Run the jobs, and write the results after each."""
    chosen = arguments()
    if chosen.list:
        for job in JOBS.values():
            print(f"{job.name:<22} {', '.join(job.contenders)}")
        return
    start = time.monotonic()
    results: dict[str, Any] = {"kind": "compare", "machine": contest.machine(chosen.threads), "jobs": []}
    todo = [(threads, JOBS[name]) for threads in chosen.threads for name in chosen.jobs]
    for i, (threads, job) in enumerate(todo):
        title = f"{job.name}, {threads} thread{'s' * (threads > 1)}"
        print(f"[{i + 1}/{len(todo)}, {time.monotonic() - start:.0f} s] {title}", flush=True)
        try:
            found = run(job, threads, chosen.repetitions, chosen.seconds)
        except contest.ContenderError as error:
            sys.exit(f"{title}: {error}")
        for name, why in found["missing"].items():
            print(f"  without {name}: {why}")
        for contender in found["contenders"]:
            print(line("", contender).replace(" " * 28, " ", 1), flush=True)
        results["machine"]["versions"] |= found.pop("versions")
        results["jobs"].append(found)
        contest.save(results, chosen.out)
    contest.raise_ceilings(results["machine"], contest.machine(chosen.threads))
    contest.save(results, chosen.out)


if __name__ == "__main__":
    main()
