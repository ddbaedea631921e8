"""Number of threads that kernels use.

The default is the smallest of four limits: OpenMP's own, the physical cores, the processors that this process may run
on, and its cgroup's quota of processor time. More threads would only wait for each other. Unless the number is fixed,
training, evaluation and generation may lower it while other programs are busy (`tinygpt.kernels.adaptive`).
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from tinygpt.core import cpu

# Below this many scalar operations one thread is used, because opening a parallel region costs time: a fraction of a
# microsecond while the threads are awake (OpenMP's threads spin for some milliseconds after a region), and tens of
# microseconds once they sleep. benchmarks/test_threads.py measures both. Where other programs hold the cores, it costs
# a time slice of the scheduler. A scalar kernel does at most about 4 operations per nanosecond and two threads save
# half of the time, so 2^17 operations save 16 microseconds, which lies between the two costs. Training is no faster
# with half or a quarter of it. At 2^17, small models decode on one thread, so that they do not wait for others.
SMALL_WORK = 131_072

AUTO: Literal["auto"] = "auto"
NUM_THREADS_VARIABLE = "TINYGPT_NUM_THREADS"

MOST = 1024  # kernels allocate scratch memory per thread, so a mistyped number must not ask for a million

_threads = 1
_automatic = True
_forked = False


def processors() -> tuple[int, ...]:
    """Return the numbers of the logical processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def affinity() -> int:
    """Count the logical processors that this process may run on."""
    return len(processors())


def _physical_cores() -> int:
    """Count the distinct (package, core) pairs that Linux lists; elsewhere the logical processors."""
    pairs = set()
    for topology in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/topology"):
        try:
            package = topology.joinpath("physical_package_id").read_text().strip()
            pairs.add((package, topology.joinpath("core_id").read_text().strip()))
        except OSError:
            return os.cpu_count() or 1
    return len(pairs) or os.cpu_count() or 1


def _cgroup_quota() -> float:
    """Return the processors that the cgroup grants, infinity without a limit.

    Version 2 of cgroups has a file ``cpu.max``; version 1 has a quota and a period.
    """
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        folder = Path("/sys/fs/cgroup/cpu")
        quota_us = int(folder.joinpath("cpu.cfs_quota_us").read_text())
        return math.inf if quota_us <= 0 else quota_us / int(folder.joinpath("cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return math.inf


def limits() -> dict[str, int]:
    """Return the limits of the default number of threads, by name."""
    quota = _cgroup_quota()
    return {
        "OpenMP": cpu.max_threads(),
        "physical cores": _physical_cores(),
        "affinity": affinity(),
        **({} if math.isinf(quota) else {"cgroup quota": max(1, int(quota))}),
    }


def default_num_threads() -> int:
    """Return ``TINYGPT_NUM_THREADS`` if it is set, otherwise the least of `limits`."""
    text = os.environ.get(NUM_THREADS_VARIABLE)
    if text:
        if not text.isdecimal() or int(text) < 1:
            raise ValueError(f"[threads] TINYGPT_NUM_THREADS must be a positive number, got '{text}'")
        if int(text) > MOST:
            raise ValueError(f"[threads] TINYGPT_NUM_THREADS must be at most {MOST}, got '{text}'")
        return int(text)
    return min(MOST, *limits().values())


def get_num_threads() -> int:
    """Return the number of threads that kernels use for work that is large enough to share."""
    return _threads


def set_num_threads(n: int | Literal["auto"]) -> None:
    """Fix the number of threads that kernels use, or let it adapt.

    Parameters
    ----------
    n : int or "auto"
        1 to 1024. More than the machine has cores is allowed and slow; results do not depend on it. "auto", the state
        after import, starts from the default number; training, evaluation and generation then use fewer threads while
        other programs are busy.

    Raises
    ------
    TypeError
        `n` is neither an int nor "auto".
    ValueError
        `n` is less than 1 or more than 1024.
    RuntimeError
        `n` is more than 1 in a forked process, where OpenMP's threads are gone and a parallel region would hang.
    """
    global _automatic
    if isinstance(n, str) and n == AUTO:
        use(1 if _forked else default_num_threads())
        _automatic = not os.environ.get(NUM_THREADS_VARIABLE)
        return
    if isinstance(n, bool) or not hasattr(n, "__index__"):
        raise TypeError(f"[set_num_threads] 'n' must be an int or 'auto', got {type(n).__name__}")
    n = operator.index(n)
    if n < 1:
        raise ValueError(f"[set_num_threads] 'n' must be at least 1, got {n}")
    if n > MOST:
        raise ValueError(f"[set_num_threads] 'n' must be at most {MOST}, got {n}")
    if _forked and n > 1:
        raise RuntimeError("[set_num_threads] 'n' must be 1 in a forked process; start it with 'spawn' for more")
    use(n)
    _automatic = False


def is_automatic() -> bool:
    """Tell whether the number of threads may change while a loop runs, because nobody fixed it."""
    return _automatic


@contextmanager
def fixed(n: int) -> Iterator[None]:
    """Fix the number of threads inside a ``with`` block."""
    before, automatic = _threads, _automatic
    set_num_threads(n)
    try:
        yield
    finally:
        _restore(before, automatic)


def _restore(n: int, automatic: bool) -> None:
    global _threads, _automatic
    _threads, _automatic = n, automatic


def use(n: int) -> None:
    """Change the number of threads; loops may still change it."""
    global _threads
    _threads = n


def for_work(operations: int) -> int:
    """Return the number of threads for a call of `operations` scalar operations: 1 if it is too small to share."""
    return _threads if operations >= SMALL_WORK else 1


def _after_fork() -> None:
    global _threads, _automatic, _forked
    _threads, _automatic, _forked = 1, False, True


_threads, _automatic = default_num_threads(), not os.environ.get(NUM_THREADS_VARIABLE)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
