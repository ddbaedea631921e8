"""Measure how much processor time other programs take on the processors of this process.

Linux counts for every processor how long it was busy, in ticks of usually 10 ms (``/proc/stat``; see proc(5)). Busy
time minus the time of this process is the time of all others: other programs, the operating system's own work, and on a
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
DISTURBED = 0.3  # processors; a measurement counts as disturbed if others used more than this
TRIES = 3  # attempts at a measurement before a disturbed one is returned
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
    """Read the clock and the busy times; None where the operating system has no ``/proc/stat``."""
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
    """Compute how many processors other programs kept busy between two readings, on average.

    Returns
    -------
    float or None
        0.5, for example, for one processor half of the time. In 100 ms, one tick of error is 0.1 for each processor.
        None if a reading is missing or no time passed.
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
        Other programs used processors during every attempt. A rate may be too low then, and a time too long.
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
        Returns a rate or a time. It should take 0.1 s or more: busy times count in ticks, so that a disturbance of a
        shorter measurement is not found.
    best : callable
        `max` for rates, `min` for times. Chooses among the attempts if all of them were disturbed.
    tries : int
        Largest number of attempts.
    accounts : callable, optional
        Returns the busy times, as `read` does; tests replace it.
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
    """Tell whether others used more than DISTURBED processors, after the error of rounding to ticks."""
    others = taken_by_others(before, after)
    if before is None or after is None or others is None:
        return False
    rounding = len(os.sched_getaffinity(0)) / os.sysconf("SC_CLK_TCK") / (after.wall - before.wall)
    return others > DISTURBED + rounding
