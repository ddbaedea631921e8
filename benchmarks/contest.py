"""A contest between libraries: separate processes that must agree on the result, then take turns being timed."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

HERE = Path(__file__).parent
# Variables that would change the code or the number of threads that a library chooses by itself.
REMOVED = (
    "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OPENBLAS_VERBOSE", "MKL_DEBUG_CPU_TYPE", "MKL_ENABLE_INSTRUCTIONS",
    "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT",
    "KMP_BLOCKTIME", "GOMP_CPU_AFFINITY", "OMP_PROC_BIND", "TINYGPT_ISA", "TINYGPT_KERNELS", "XLA_FLAGS",
)  # fmt: skip
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TINYGPT_NUM_THREADS")
PAUSE = 0.02  # seconds between turns, so that the threads of the last contender stop spinning


class MissingError(Exception):
    """A contender's library is not installed."""


class ContenderError(Exception):
    """A contender failed, or its result differs from the others'."""


class Turn(Protocol):
    """An object that runs one timed repetition on request."""

    def run(self) -> float:
        """Return the seconds of one call."""


def environment(threads: int, base: Mapping[str, str], extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a contender's process: `base` without REMOVED, the number of threads, and `extra`."""
    kept = {name: value for name, value in base.items() if name not in REMOVED}
    return kept | dict.fromkeys(THREADS, str(threads)) | {"PYTHONDONTWRITEBYTECODE": "1"} | dict(extra or {})


def processors(threads: int) -> None:
    """Bind a process to `threads` processors, for libraries that take their number of threads from there."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


class Worker:
    """A process of benchmarks/worker.py.

    Raises
    ------
    MissingError
        The contender's library is not installed.
    """

    def __init__(
        self,
        contender: str,
        threads: int,
        program: Path = HERE / "worker.py",
        extra: Mapping[str, str] | None = None,
    ):
        self.contender = contender
        self.process = subprocess.Popen(
            [sys.executable, str(program), contender, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(threads, os.environ, extra),
            # XLA takes its number of threads from the processors. The others are told theirs.
            preexec_fn=(lambda: processors(threads)) if contender == "jax" else None,
        )
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise ContenderError(f"{self.contender}: the process ended with status {self.process.wait()}")
        answer = json.loads(line)
        if "missing" in answer:
            raise MissingError(f"{self.contender}: {answer['missing']}")
        if "error" in answer:
            raise ContenderError(f"{self.contender}: {answer['error']}")
        return answer

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request and wait for the answer."""
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
        except BrokenPipeError:
            raise ContenderError(f"{self.contender}: the process ended with status {self.process.wait()}") from None
        return self._answer()

    def run(self) -> float:
        """Return the seconds of one call in a timed repetition."""
        return self.ask({"run": True})["seconds"]

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def open_workers(names: Sequence[str], threads: int) -> tuple[dict[str, Worker], dict[str, str]]:
    """Start a worker for every available contender; return the reasons for the missing ones too."""
    workers: dict[str, Worker] = {}
    missing: dict[str, str] = {}
    try:
        for name in names:
            try:
                workers[name] = Worker(name, threads)
            except MissingError as error:
                missing[name] = str(error).partition(": ")[2]
    except BaseException:
        close_workers(workers)
        raise
    return workers, missing


def close_workers(workers: Mapping[str, Worker]) -> None:
    """End all workers."""
    for worker in workers.values():
        worker.close()


def alternate(turns: Mapping[str, Turn], repetitions: int, pause: float = PAUSE) -> dict[str, list[float]]:
    """Time all contenders: each runs once per round, and each round begins with a different one.

    So changes of the machine (its clock, other programs) affect all of them alike.
    """
    names = list(turns)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for i in range(repetitions):
        first = i % len(names) if names else 0
        for name in names[first:] + names[:first]:
            time.sleep(pause)
            seconds[name].append(turns[name].run())
    return seconds


def summary(seconds: Sequence[float]) -> dict[str, Any]:
    """Return median and quartiles of a contender's times, and the times themselves in the order of the rounds."""
    low, high = (seconds[0], seconds[0])
    if len(seconds) > 1:
        low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return {"median": statistics.median(seconds), "low": low, "high": high, "seconds": list(seconds)}


def median_ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """Return the median over all rounds of their time divided by ours; above 1, tinygpt is faster."""
    return statistics.median(one / other for one, other in zip(theirs, ours, strict=True))


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean of ratios; ValueError if there are none, or one is not positive."""
    if not values or min(values) <= 0:
        raise ValueError(f"a geometric mean must have positive values, got {list(values)}")
    return math.exp(statistics.fmean(map(math.log, values)))


def agree(checks: Mapping[str, Sequence[float]], tolerances: Mapping[str, Sequence[float]]) -> None:
    """Compare the contenders' results with those of the first.

    Parameters
    ----------
    checks : mapping
        Contender to its numbers.
    tolerances : mapping
        Contender to the largest absolute difference of each number.

    Raises
    ------
    ContenderError
        A number differs by more than its tolerance or is NaN, or the counts differ.
    """
    (first, wanted), *others = checks.items()
    for name, got in [(first, wanted), *others]:
        if len(got) != len(wanted) or len(tolerances[name]) != len(wanted):
            raise ContenderError(f"{name} gives {len(got)} numbers to check, {first} gives {len(wanted)}")
        for one, other, room in zip(got, wanted, tolerances[name], strict=True):
            if not abs(one - other) <= room:  # also if either is NaN
                raise ContenderError(f"{name} computes {one:.6g} where {first} computes {other:.6g}")


CEILINGS = ("peak_flops", "read_bandwidth", "copy_bandwidth")


def machine(threads: Sequence[int]) -> dict[str, Any]:
    """Return facts of the machine and its ceilings for every number of threads, measured in separate processes."""
    facts: dict[str, Any] = {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cache_bytes": last_cache(),
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    ceilings: dict[str, dict[str, float]] = {}
    for n in threads:
        worker = Worker("tinygpt", n)
        try:
            found = worker.ask({"facts": True})
        finally:
            worker.close()
        ceilings[str(n)] = {name: found.pop(name) for name in CEILINGS}
        facts |= found
    return facts | {"ceilings": ceilings}


def raise_ceilings(facts: dict[str, Any], later: Mapping[str, Any]) -> None:
    """Keep the higher of two measurements of every ceiling: a neighbour can only lower them."""
    for n, roof in facts["ceilings"].items():
        for name in roof:
            roof[name] = max(roof[name], later["ceilings"][n][name])


def last_cache() -> int | None:
    """Return the bytes of the first processor's largest cache; None if the system does not report it."""
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    units = {"K": 2**10, "M": 2**20}
    return max((int(size[:-1]) * units[size[-1]] for size in sizes if size and size[-1] in units), default=None)


def save(results: Mapping[str, Any], path: Path) -> None:
    """Write the results so far atomically, so that the file is complete at any time."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(results, indent=1) + "\n")
    temporary.replace(path)
