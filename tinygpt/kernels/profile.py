"""Where the time of a piece of work goes, op by op: calls, seconds, and the rates that follow from the records in spec.

While a `Profile` measures, every function in `registry.active` stands behind a wrapper that reads the clock before and
after. Of a call it keeps the shapes alone; floating-point operations and bytes are worked out once per distinct set of
shapes, when somebody asks.

Design
- `registry.watch` wraps what it puts into `active`, so a change of rung is wrapped too and gets lines of its own.
  Rejected: wrapping every rung's function in the registry, which `registry.function` would then hand to benchmarks.
- A wrapper costs one to three microseconds, which count as time outside of the kernels.
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
    """What one op cost at one rung.

    Attributes
    ----------
    op, rung : str
        `REST` and no rung for what was spent outside of the kernels; its counts and rates are 0.
    calls : int
    ms, ms_per_step : float
        Milliseconds in all, and in the mean step.
    share : float
        Of the time of the steps.
    gflops, gbytes : float
        10^9 operations and 10^9 bytes a second. The bytes are those of the arguments, each moved once: more than the
        bandwidth means that they were in a cache.
    peak_share, bandwidth_share : float
        Of what the machine can do. The larger one is the roof that bounds this op.
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
    """What is counted of one op at one rung."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.calls: Counter[Shapes] = Counter()


class Profile:
    """Measures the kernels inside its ``with`` statement, which is one step and may be entered again for the next.

    It counts what is called in the thread that enters it; calls from others would be added without a lock.

    Attributes
    ----------
    steps : int
        How many times it was left, by an exception too.
    seconds : float
        Spent inside, kernels or not.

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
        self._nested = 0.0  # seconds in kernels that the kernel at hand has called

    def __enter__(self) -> Profile:
        registry.watch(self._timed)
        self._began = perf_counter()
        return self

    def __exit__(self, *exc: object) -> None:
        self.seconds += perf_counter() - self._began
        self.steps += 1
        registry.watch(None)

    def _timed(self, op: str, rung: str, plain: registry.Function) -> registry.Function:
        """`plain` with a clock before and after it."""
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
        """What was measured, the longest first, and last what was spent outside of the kernels.

        Parameters
        ----------
        peak : float
            FLOP/s that the machine can do.
        bandwidth : float
            Bytes per second that it reads from memory.

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
        """Milliseconds, milliseconds per step, share of all."""
        return 1e3 * seconds, 1e3 * seconds / self.steps, seconds / self.seconds

    def _line(self, op: str, rung: str, tally: _Tally, peak: float, bandwidth: float) -> Line:
        costs = {shapes: cost(op, shapes) for shapes in tally.calls}
        seconds = max(tally.seconds, 1e-9)  # a coarse clock may see nothing pass
        flops = sum(n * costs[shapes][0] for shapes, n in tally.calls.items()) / seconds
        moved = sum(n * costs[shapes][1] for shapes, n in tally.calls.items()) / seconds
        rates = (flops / 1e9, flops / peak, moved / 1e9, moved / bandwidth)
        return Line(op, rung, tally.calls.total(), *self._times(tally.seconds), *rates)


def cost(op: str, shapes: Shapes) -> tuple[int, int]:
    """Floating-point operations and bytes of a call with arguments of these shapes, by the op's record."""
    record = OPS[op]
    args = [arg for arg in record.args if arg.shape]
    flags = dict(zip([arg.swapped_by for arg in args if arg.swapped_by], shapes[len(args) :], strict=True))
    # `check` reads shape and type of an array; these stand-ins have no memory of their own.
    given = {
        arg.name: None if shape is None else np.broadcast_to(np.zeros((), arg.dtype), shape)
        for arg, shape in zip(args, shapes, strict=False)
    }
    dims = check(op, given, **flags)
    return record.flops(dims), record.bytes(dims, frozenset(name for name, array in given.items() if array is None))
