"""Profiler of kernels: calls, seconds, FLOP/s and bytes per second of each op at each rung.

While a `Profile` measures, every function in `registry.active` is wrapped by one that reads the clock before and after.
For each call it keeps only the shapes. Floating-point operations and bytes are computed later, once per distinct set of
shapes, from the records in `tinygpt.kernels.spec`.

Design
- `registry.watch` wraps each function as it enters `active`, so that a rung chosen later is measured too, in lines of
  its own. Rejected: wrapping the functions in the registry itself, because benchmarks would then time the wrapper.
- A wrapper costs one to three microseconds, which count as time outside the kernels.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from tinygpt.kernels import registry
from tinygpt.kernels.spec import OPS, check

REST = "Python and the rest"

# The shapes of the array arguments in their order, None for one that is not given, then the flags that swap axes.
Shapes = tuple[Any, ...]


@dataclass(frozen=True)
class Line:
    """Cost of one op at one rung: a row of the profile.

    Attributes
    ----------
    op, rung : str
        `REST` and an empty rung for the time outside the kernels; its counts and rates are 0.
    calls : int
        Number of calls in all steps.
    ms, ms_per_step : float
        Milliseconds in total, and per step on average.
    share : float
        Fraction of the total time of the steps.
    gflops : float
        10^9 floating-point operations per second.
    peak_share : float
        `gflops` as a fraction of the machine's peak.
    gbytes : float
        10^9 bytes per second, with each argument counted once. A rate above the memory bandwidth means that arguments
        were in a cache.
    bandwidth_share : float
        `gbytes` as a fraction of the memory bandwidth. The larger of the two fractions names the limit of this op.
    """

    op: str
    rung: str
    calls: int
    ms: float
    ms_per_step: float
    share: float
    gflops: float = 0.0
    peak_share: float = 0.0
    gbytes: float = 0.0
    bandwidth_share: float = 0.0


class _Tally:
    """Seconds of one op at one rung, and the number of calls for each set of shapes."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.calls: Counter[Shapes] = Counter()


class Profile:
    """Timer of the kernels called inside a ``with`` block. One block is one step; the next step enters it again.

    Kernels must be called from the thread that entered the block, because the counts have no lock.

    Attributes
    ----------
    steps : int
        Number of finished blocks, including those that an exception ended.
    seconds : float
        Total time inside the blocks, in kernels and outside them.

    Examples
    --------
    >>> profile = Profile()
    >>> with profile:
    ...     _ = kernels.softmax(np.zeros((2, 3), np.float32))
    >>> [(line.op, line.calls) for line in profile.lines(1e11, 1e10)]
    [('softmax', 1), ('Python and the rest', 0)]
    """

    def __init__(self) -> None:
        self.steps = 0
        self.seconds = 0.0
        self._tallies: dict[tuple[str, str], _Tally] = {}
        self._nested = 0.0  # seconds in kernels that were called by the running kernel

    def __enter__(self) -> Profile:
        registry.watch(self._timed)
        self._began = perf_counter()
        return self

    def __exit__(self, *exc: object) -> None:
        self.seconds += perf_counter() - self._began
        self.steps += 1
        registry.watch(None)

    def _timed(self, op: str, rung: str, plain: registry.Function) -> registry.Function:
        """Return a function that calls `plain` and records its time and shapes."""
        tally = self._tallies.setdefault((op, rung), _Tally())
        record = OPS[op]
        arrays = [i for i, arg in enumerate(record.args) if arg.shape]
        flags = [record.names.index(arg.swapped_by) for arg in record.args if arg.swapped_by]

        def timed(*args: Any) -> Any:
            outer, self._nested = self._nested, 0.0
            began = perf_counter()
            try:
                return plain(*args)
            finally:
                took = perf_counter() - began
                tally.seconds += took - self._nested
                self._nested = outer + took
                shapes = [None if args[i] is None else args[i].shape for i in arrays]
                tally.calls[(*shapes, *[args[i] for i in flags])] += 1

        return timed

    def lines(self, peak: float, bandwidth: float) -> list[Line]:
        """Return one line per op and rung, the longest time first, and a last line for the time outside the kernels.

        Parameters
        ----------
        peak : float
            Peak FLOP/s of the machine.
        bandwidth : float
            Memory bandwidth in bytes per second.

        Returns
        -------
        list of Line
            Empty if there was no step.
        """
        if not self.steps:
            return []
        found = [
            self._line(op, rung, tally, peak, bandwidth) for (op, rung), tally in self._tallies.items() if tally.calls
        ]
        found.sort(key=lambda line: -line.ms)
        rest = self.seconds - sum(tally.seconds for tally in self._tallies.values())
        return [*found, Line(REST, "", 0, *self._times(rest))]

    def _times(self, seconds: float) -> tuple[float, float, float]:
        """Return milliseconds in total, milliseconds per step, and the fraction of the total time."""
        return 1e3 * seconds, 1e3 * seconds / self.steps, seconds / self.seconds

    def _line(self, op: str, rung: str, tally: _Tally, peak: float, bandwidth: float) -> Line:
        costs = {shapes: cost(op, shapes) for shapes in tally.calls}
        seconds = max(tally.seconds, 1e-9)  # a coarse clock may measure 0
        flops = sum(n * costs[shapes][0] for shapes, n in tally.calls.items()) / seconds
        moved = sum(n * costs[shapes][1] for shapes, n in tally.calls.items()) / seconds
        rates = (flops / 1e9, flops / peak, moved / 1e9, moved / bandwidth)
        return Line(op, rung, tally.calls.total(), *self._times(tally.seconds), *rates)


def cost(op: str, shapes: Shapes) -> tuple[int, int]:
    """Return the floating-point operations and the bytes of a call, from the shapes of its arguments."""
    record = OPS[op]
    args = [arg for arg in record.args if arg.shape]
    flags = dict(zip([arg.swapped_by for arg in args if arg.swapped_by], shapes[len(args) :], strict=True))
    # `check` reads only shape and dtype, so arrays of one repeated element are enough and need no memory.
    given = {
        arg.name: None if shape is None else np.broadcast_to(np.zeros((), arg.dtype), shape)
        for arg, shape in zip(args, shapes, strict=False)
    }
    dims = check(op, given, **flags)
    return record.flops(dims), record.bytes(dims, frozenset(name for name, array in given.items() if array is None))
