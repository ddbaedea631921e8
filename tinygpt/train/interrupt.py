"""Signals during training: Ctrl-C and the requests of a scheduler end the run with everything saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Ctrl-C; kill and most schedulers; the warning that Slurm sends before a time limit; a terminal that was closed.
NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
SIGNALS = tuple(signal.Signals[name] for name in NAMES if name in signal.Signals.__members__)


class Stop(Exception):
    """Raised where the work at hand can be given up, because the run was asked to stop."""


class Interrupt:
    """Context in which the first signal asks the run to stop, and a second Ctrl-C raises KeyboardInterrupt.

    Parameters
    ----------
    at_once : bool
        Whether `raising` raises at all.

    Attributes
    ----------
    wanted : bool
        Whether the run was asked to stop.
    signal : int or None
        The signal that asked for it.
    """

    def __init__(self, at_once: bool = True) -> None:
        self.at_once = at_once
        self.wanted = False
        self.signal: int | None = None
        self._raising = False
        self._before: dict[int, object] = {}

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Context for work that changes nothing which a checkpoint keeps: a signal raises Stop within it, at once.

        A step of a large model takes minutes, and a scheduler kills a process within seconds of its SIGTERM.

        Raises
        ------
        Stop
            The run was asked to stop, before the context or within it.
        """
        self._check()
        self._raising = self.at_once
        try:
            yield
        finally:
            self._raising = False
        self._check()  # a signal inside a finalizer, whose exceptions Python drops

    def _check(self) -> None:
        if self.wanted and self.at_once:
            raise Stop

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.wanted and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is None:
            self.signal = number
        self.wanted = True
        if self._raising:
            self._raising = False
            raise Stop

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            for number in SIGNALS:
                # nohup ignores SIGHUP, so that a run outlives its terminal.
                if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
