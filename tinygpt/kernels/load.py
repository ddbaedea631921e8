"""Measure how much processor time other programs take on the processors of this process.

Linux counts for every processor how long it was busy, in ticks of usually 10 ms (``/proc/stat``; see proc(5)). Busy
time minus the time of this process is the time of everybody else: other programs, the kernel's own work, and on a
virtual machine the time that the host gave to another guest ("steal").
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

ACCOUNTS = Path("/proc/stat")
IDLE = (3, 4)  # columns of a processor's line: idle, and idle while it waits for a disk
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
