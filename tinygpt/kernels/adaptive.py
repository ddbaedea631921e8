"""Choose the number of threads while a loop runs, so that a busy machine does not stall it.

A parallel region ends when its last thread ends. When another program takes a processor, the thread that ran there
waits until it is scheduled again, and all others wait for this thread: a step can take many times longer than on one
thread. Results have the same bits for any number of threads, so that the number may change between two steps.

Two signals decide, at the end of every window of about a tenth of a second:

- Busy times of the processors (`tinygpt.kernels.load`): if fewer processors are free than there are threads, the number
  of threads falls to the number of free processors.
- Step times: if steps take SLOW times as long as the best ones so far, a trial window runs on half as many threads.
  After a fall, a trial window runs on twice as many threads if that many processors are free. The number of a trial is
  kept only if its steps take at most BETTER of the time before it.

Design
- A failed trial costs time. The wait until the next one doubles each time, and is long enough that the loss is at most
  2 % of it.
- Windows use the mean, not the median: beside another program most steps are fast, and a few take a hundred times as
  long.
- Rejected: a shorter spin in OpenMP's barrier (GOMP_SPINCOUNT) with a fixed number of threads. The measurement is in
  docs/kernels/threads.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType

from tinygpt.kernels import load, registry, threads

WINDOW = 0.1  # seconds; several ticks, the unit in which the system counts busy time
SLOW = 1.4  # a window is slow when its steps take this many times the shortest mean so far
BETTER = 0.93  # a trial is kept when its steps take at most this share of the time before it
LOSS = 0.02  # share of the time that failed trials may cost
SHORTEST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds between two trials
SLACK = 0.3  # processors; a thread helps as long as other programs take less than this from it
REMEMBERED = 10.0  # seconds for which the next loop starts with the number that the last one found

Tell = Callable[[str], None]

_last: tuple[float, int] | None = None  # when the last loop ended, and its number of threads
_open = 0  # loops that run now


class Adaptive(AbstractContextManager):
    """Controller of the number of threads while one loop runs.

    It does nothing if the number was fixed by `threads.set_num_threads` or ``TINYGPT_NUM_THREADS``. It does nothing
    either if the results of a rung in use may depend on the number of threads (``numpy`` and registered rungs).

    Parameters
    ----------
    tell : callable, optional
        Receives one line the first time that the number falls, and one the first time that it rises again.
    clock, accounts : callable, optional
        Return the time, and the busy times of the processors; tests replace them.

    Examples
    --------
    >>> with Adaptive() as adaptive:
    ...     for _ in range(3):
    ...         with adaptive.step():
    ...             pass
    """

    def __init__(
        self,
        tell: Tell | None = None,
        clock: Callable[[], float] = time.perf_counter,
        accounts: Callable[[], load.Reading | None] = load.read,
    ):
        self._tell, self._clock, self._accounts = tell, clock, accounts
        self._told: set[str] = set()
        self.most = threads.get_num_threads()
        self.active = threads.is_automatic() and self.most > 1 and registry.deterministic()
        self.seconds_lost = 0.0  # by trials that failed
        self._shortest: dict[int, float] = {}  # number of threads -> shortest mean of a window
        self._trial: tuple[int, float] | None = None  # the number before a trial, and its mean
        self._wait, self._next_trial = SHORTEST_WAIT, 0.0
        self._steps, self._seconds = 0, 0.0
        self._before = accounts() if self.active else None
        self._ended = clock()  # the last step

    def __enter__(self) -> Adaptive:
        global _open
        _open += 1
        if self.active and _last is not None and self._clock() - _last[0] < REMEMBERED:
            threads.use(min(self.most, _last[1]))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Restore all threads, and remember the number found for the next loop."""
        global _last, _open
        _open -= 1
        if self.active and _open == 0:
            _last = (self._clock(), threads.get_num_threads())
            threads.use(self.most)

    def step(self) -> _Step:
        """Return a context manager that times one step. All steps of a loop should do about the same work."""
        return _Step(self, self._clock)

    def record(self, seconds: float) -> None:
        """Add the time of a step to the window; at the end of a window, choose the number of threads."""
        if not self.active:
            return
        paused = self._clock() - seconds - self._ended > WINDOW
        self._ended = self._clock()
        if paused:  # busy times since the last reading are those of the pause, not of the steps
            self._before, self._steps, self._seconds = self._accounts(), 0, 0.0
            return
        self._steps += 1
        self._seconds += seconds
        too_slow = self._trial is not None and self._seconds > 2 * max(WINDOW, self._trial[1])
        if self._seconds < WINDOW and not too_slow:
            return
        after = self._accounts()
        others = load.taken_by_others(self._before, after)
        mean, steps = self._seconds / self._steps, self._steps
        self._before, self._steps, self._seconds = after, 0, 0.0
        if self._trial is not None:
            self._judge(mean, steps, others)
        else:
            self._choose(mean, others)

    def _choose(self, mean: float, others: float | None) -> None:
        """Keep the number of threads, lower it to the free processors, or begin a trial."""
        now, n = self._clock(), threads.get_num_threads()
        free = self._free(others)
        self._shortest[n] = min(mean, self._shortest.get(n, mean))
        if free < n:
            self._change(free, f"another program is using {_processors(others)}")
        elif now < self._next_trial:
            return
        elif n < self.most and free > n:
            self._begin(min(self.most, 2 * n), n, mean)
        elif n > 1 and mean > SLOW * self._shortest[n]:
            self._begin(n // 2, n, mean)

    def _begin(self, tried: int, n: int, mean: float) -> None:
        self._trial = n, mean
        threads.use(tried)

    def _judge(self, mean: float, steps: int, others: float | None) -> None:
        """End a trial: keep its number of threads, or restore the number before it."""
        before, mean_before = self._trial or (self.most, mean)
        self._trial = None
        tried = threads.get_num_threads()
        self._shortest[tried] = min(mean, self._shortest.get(tried, mean))
        if mean <= BETTER * mean_before and self._free(others) >= tried:
            threads.use(before)
            why = "the processors are free again" if tried > before else "steps take longer than they did"
            self._change(tried, why)
            self._wait = SHORTEST_WAIT
            return
        threads.use(before)
        lost = steps * max(0.0, mean - mean_before)
        self.seconds_lost += lost
        self._next_trial = self._clock() + max(self._wait, lost / LOSS)
        self._wait = min(2 * self._wait, LONGEST_WAIT)

    def _free(self, others: float | None) -> int:
        """Count the threads that can have a processor of their own; all of them if busy times are unknown."""
        if others is None:
            return self.most
        return max(1, min(self.most, int(threads.affinity() - others + SLACK)))

    def _change(self, n: int, why: str) -> None:
        before = threads.get_num_threads()
        threads.use(n)
        direction = "up" if n > before else "down"
        if self._tell is not None and direction not in self._told:
            self._told.add(direction)
            self._tell(f"{why}: continuing with {n} thread{'s' * (n != 1)}")


def _processors(others: float | None) -> str:
    return "the processor" if others is None else "a core" if others < 1.5 else f"{round(others)} cores"


class _Step(AbstractContextManager):
    """Timer of one step; a step that raises is not counted."""

    def __init__(self, adaptive: Adaptive, clock: Callable[[], float]):
        self._adaptive, self._clock = adaptive, clock

    def __enter__(self) -> None:
        self._began = self._clock()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self._adaptive.record(self._clock() - self._began)
