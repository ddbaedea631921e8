"""One contender in a process of its own: builds a requested job, then runs one timed repetition per request.

usage: python benchmarks/worker.py CONTENDER THREADS

Requests and answers are lines of JSON:

    -> {"build": task}        <- {"check": [...], "calls": n, "high_water": bytes or null}
    -> {"run": true}          <- {"seconds": the time of one call}
    -> {"facts": true}        <- {"versions": {...}, ...}

The first line of output is {"ready": true}, or {"missing": reason} if a library is not installed. An exception is
answered by {"error": text}. Output of libraries goes to standard error.
"""

from __future__ import annotations

import gc
import importlib
import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Contender to the module that builds its jobs.
MODULES = {
    "tinygpt": "ours",
    "tinygpt bfloat16": "ours",
    "tinygpt numpy": "ours",
    "tinygpt auto": "ours",
    "numpy": "ours",
    "torch": "peers",
    "torch onednn": "peers",
    "torch bfloat16": "peers",
    "torch bfloat16 from float32": "peers",
    "transformers": "peers_transformers",
    "jax": "peers_jax",
    "llama.cpp": "peers_llama",
}
LIBRARIES = {"torch", "transformers", "jax", "jaxlib", "llama_cpp"}  # packages that may be missing
MOST_CALLS = 20_000  # calls in one repetition
MEMORY_STEPS = 3


@dataclass
class Built:
    """A task to repeat.

    Parameters
    ----------
    call : callable
        Runs the task once.
    check : list of float
        Numbers of the result, on which all contenders must agree up to rounding.
    prepare : callable, optional
        Called before each call; not timed.
    """

    call: Callable[[], Any]
    check: list[float]
    prepare: Callable[[], Any] | None = None


def once(built: Built) -> float:
    """Return the seconds of one call."""
    if built.prepare is not None:
        built.prepare()
    start = time.perf_counter()
    built.call()
    return time.perf_counter() - start


def calls_for(seconds: float, one: float) -> int:
    """Return the number of calls that fill `seconds` if one takes `one` seconds; at least one."""
    return max(1, min(MOST_CALLS, math.ceil(seconds / max(one, 1e-9))))


def repetition(built: Built, calls: int) -> float:
    """Return the mean time of one call in a series of calls.

    Before several calls, one more call is not timed: it wakes the threads, and refills the caches that another process
    has used in the meantime.
    """
    if calls > 1:
        once(built)
    if built.prepare is not None:
        return sum(once(built) for _ in range(calls)) / calls
    call, count = built.call, range(calls)
    start = time.perf_counter()
    for _ in count:
        call()
    return (time.perf_counter() - start) / calls


def high_water() -> int | None:
    """Return the peak memory of this process in bytes; None if the system does not report it."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    return None


class Session:
    """State of a worker between requests."""

    def __init__(self, module: Any, contender: str, threads: int):
        self.module, self.contender, self.threads = module, contender, threads
        self.after_import = high_water()
        self.built: Built | None = None
        self.calls = 1

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Handle one request."""
        if "facts" in request:
            return self.module.facts(self.threads)
        if "build" in request:
            return self._build(request["build"])
        if self.built is None:
            raise ValueError("nothing was built")
        return {"seconds": repetition(self.built, self.calls)}

    def _build(self, task: dict[str, Any]) -> dict[str, Any]:
        self.built = None  # free the last model first, because two may not fit into memory
        gc.collect()
        self.built = self.module.build(self.contender, task, self.threads)
        times = [once(self.built) for _ in range(MEMORY_STEPS)]
        now, before = high_water(), self.after_import
        self.calls = calls_for(task["seconds"], min(times))
        used = None if now is None or before is None else now - before
        return {"check": self.built.check, "calls": self.calls, "high_water": used}


def load(contender: str) -> Any:
    """Import the module that builds a contender's jobs; ImportError names the missing library."""
    try:
        return importlib.import_module(MODULES[contender])
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in LIBRARIES:
            raise ImportError(f"{error.name} is not installed") from None
        raise


def main() -> None:
    """Answer requests until the input ends."""
    contender, threads = sys.argv[1], int(sys.argv[2])
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=out, flush=True)

    try:
        session = Session(load(contender), contender, threads)
    except ImportError as error:
        say({"missing": str(error)})
        return
    say({"ready": True})
    for line in sys.stdin:
        try:
            say(session.answer(json.loads(line)))
        except Exception as error:  # noqa: BLE001 - any error is sent to the other side
            say({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in MODULES:
        sys.exit(__doc__)
    main()
