"""Clock of a run: when the next checkpoint is due, and when the time of the run is over."""

from __future__ import annotations

import re
import time

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}  # seconds


def interval(value: int | str) -> tuple[int | None, float | None]:
    """Parse an interval between checkpoints.

    Parameters
    ----------
    value : int or str
        Number of steps, or a time such as ``90s``, ``10m`` or ``2h``.

    Returns
    -------
    steps : int or None
    seconds : float or None
        One of the two is None.

    Raises
    ------
    ValueError
        The interval is neither, or not positive.
    """
    found = re.fullmatch(r"([0-9]{1,15})([smh]?)", str(value).strip(), re.ASCII)
    if found is None or int(found[1]) < 1:
        raise ValueError(
            f"[train] 'checkpoint_every' must be at least 1 step, or a time such as 90s, 10m or 2h, got {value}"
        )
    if found[2]:
        return None, int(found[1]) * UNITS[found[2]]
    return int(found[1]), None


class Pace:
    """Decides from steps and from the clock when a run saves and when it ends.

    Parameters
    ----------
    every : int or str
        Interval between checkpoints, as `interval` reads it.
    minutes : float or None
        Longest time of the run, from now on.
    """

    def __init__(self, every: int | str, minutes: float | None = None):
        self.steps, self.seconds = interval(every)
        now = time.monotonic()
        self.end = None if minutes is None else now + 60 * minutes
        self._saved = now

    def due(self, step: int) -> bool:
        """Tell whether a checkpoint is due after `step` steps."""
        if self.steps is not None:
            return step % self.steps == 0
        return self.seconds is not None and time.monotonic() - self._saved >= self.seconds

    def saved(self) -> None:
        """Start the next interval: a checkpoint was written."""
        self._saved = time.monotonic()

    def over(self) -> bool:
        """Tell whether the time of the run is over."""
        return self.end is not None and time.monotonic() >= self.end
