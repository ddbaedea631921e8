"""Measure how much processor time other programs take on the processors of this process.

Linux counts for every processor how long it was busy, in ticks of usually 10 ms (``/proc/stat``; see proc(5)). Busy
time minus the time of this process is the time of everybody else: other programs, the kernel's own work, and on a
virtual machine the time that the host gave to another guest ("steal").
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ACCOUNTS = Path("/proc/stat")
IDLE = (3, 4)  # columns of a processor's line: idle, and idle while it waits for a disk
DISTURBED = 0.3  # processors; others that took more than this disturb a measurement
TRIES = 3  # of a measurement that was disturbed
COLUMNS = 8  # user, nice, system, idle, iowait, irq, softirq, steal; guest time is part of user time


class Reading(NamedTuple):
    """Seconds since an arbitrary start, for the processors that this process may run on.

    Attributes
    ----------
    wall : float
        Clock time.
    busy : float
        Processor time of all programs.
    own : float
        Processor time of this process, all its threads together.
    """

    wall: float
    busy: float
    own: float


def read() -> Reading | None:
    """Read the clock and the accounts; None where the operating system keeps none that this module knows."""
    try:
        lines = ACCOUNTS.read_text().splitlines()
        allowed = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        ticks_per_second = os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError):
        return None
    busy = total = 0
    for name, *columns in (line.split() for line in lines if line.startswith("cpu")):
        if name in allowed:
            ticks = [int(text) for text in columns[:COLUMNS]]
            total += sum(ticks)
            busy += sum(ticks) - sum(ticks[i] for i in IDLE)
    # Some sandboxes show a file of zeros: it says nothing about load.
    return Reading(time.perf_counter(), busy / ticks_per_second, time.process_time()) if total else None


def taken_by_others(before: Reading | None, after: Reading | None) -> float | None:
    """Processors that other programs kept busy between two readings, on average.

    Returns
    -------
    float or None
        As in 0.5 for one processor half of the time. A tick of error in 100 ms is 0.1 for each processor. None if a
        reading is missing or no time passed.
    """
    if before is None or after is None or after.wall <= before.wall:
        return None
    others = (after.busy - before.busy) - (after.own - before.own)
    return max(0.0, others / (after.wall - before.wall))


class Measured(float):
    """A measured number that knows whether other programs disturbed it.

    Attributes
    ----------
    disturbed : bool
        Other programs kept processors busy during every try. A rate may be too low then, and a time too long.
    """

    disturbed: bool

    def __new__(cls, value: float, disturbed: bool = False) -> Measured:
        """Make the number; a float cannot be changed by ``__init__``."""
        self = super().__new__(cls, value)
        self.disturbed = disturbed
        return self


def undisturbed(
    measure: Callable[[], float],
    best: Callable[[float, float], float] = max,
    tries: int = TRIES,
    accounts: Callable[[], Reading | None] = read,
) -> Measured:
    """Repeat a measurement until no other program was busy meanwhile.

    Parameters
    ----------
    measure : callable
        Returns a rate or a time. Accounts count in ticks, so disturbance is found only in what takes 0.1 s or more.
    best : callable
        `max` for rates, `min` for times: chooses among the tries if all of them were disturbed.
    tries : int
    accounts : callable, optional
        Source of processor accounts; tests replace it.
    """
    found: float | None = None
    for _ in range(tries):
        before = accounts()
        value = measure()
        after = accounts()
        if not _disturbed(before, after):
            return Measured(value)
        found = value if found is None else best(found, value)
    return Measured(value if found is None else found, disturbed=True)


def _disturbed(before: Reading | None, after: Reading | None) -> bool:
    """Tell whether others took more than rounding to ticks can explain."""
    others = taken_by_others(before, after)
    if before is None or after is None or others is None:
        return False
    rounding = len(os.sched_getaffinity(0)) / os.sysconf("SC_CLK_TCK") / (after.wall - before.wall)
    return others > DISTURBED + rounding
