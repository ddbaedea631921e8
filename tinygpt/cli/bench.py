"""`tinygpt bench`."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tinygpt.cli.options import thread_count, use_threads

if TYPE_CHECKING:
    from rich.table import Table

    from tinygpt.kernels.load import Measured
    from tinygpt.testing import Case

DISTURBED = "~"  # marks a number that other programs disturbed
BFLOAT16 = "bf16"  # marks a rung with bfloat16 operands


@dataclass(kw_only=True)
class BenchOptions:
    """Flags of `tinygpt bench`, one field each."""

    op: list[str] | None = None
    """Ops to measure. Default: all."""
    sizes: list[str] | None = None
    """Sizes by letter, as in M=512 N=512 K=512, or N for a square matmul of N x N. Needs exactly one --op."""
    kernels: list[str] | None = None
    """Rungs to compare, as in naive blocked. Default: all."""
    threads: Annotated[int | None, Parameter(converter=thread_count)] = None
    """Number of threads, or auto: all cores that this process may use. Default: auto."""
    seconds: float = 0.2
    """Time to repeat each rung, in seconds."""
    quiet: bool = False
    """Print the table only, without progress."""

    def validate(self) -> None:
        """Raise ValueError, naming the flag, for a value out of range."""
        for flag, value, what in (
            ("--op", self.op, "op"),
            ("--sizes", self.sizes, "size"),
            ("--kernels", self.kernels, "rung"),
        ):
            if value == []:
                raise ValueError(f"{flag} needs at least one {what}")
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise ValueError(f"--seconds must be more than 0, got {self.seconds}")


def bench(options: Annotated[BenchOptions, Parameter(name="*")] = BenchOptions()) -> int:  # noqa: B008
    """Compare the rungs of the kernels on this machine.

    Each rung is checked against a float64 reference before it is timed. Columns:
    median time; rate in GFLOP/s or GB/s; share of the nearer of two measured
    limits, the float32 peak or the memory bandwidth (data in the cache may exceed
    100 %); speed-up over the rung above. Rows with bf16 round the operands of a
    matmul to bfloat16.
    """
    from rich.console import Console
    from rich.progress import track

    from tinygpt.cli.app import FAILED, fail
    from tinygpt.kernels import threads
    from tinygpt.kernels.load import TRIES, undisturbed
    from tinygpt.kernels.peak import peak_flops, read_bandwidth
    from tinygpt.testing import Mismatch
    from tinygpt.testing.timing import median_seconds, prepare

    options.validate()
    rungs = _rungs(options.kernels)
    cases = [case for case in _cases(options) if rungs[case.op]]
    if not cases:
        raise ValueError(
            f"--kernels: none of the chosen ops has a rung {' or '.join(options.kernels or [])} of its own"
        )
    use_threads(options.threads, options.quiet)
    n = threads.get_num_threads()
    roofs = peak_flops(n), read_bandwidth(n)
    console = Console(highlight=False)
    table = _table(n, *roofs)
    quiet = options.quiet or not console.is_terminal
    disturbed = any(roof.disturbed for roof in roofs)
    for case in track(cases, "measuring", console=console, transient=True, disable=quiet):
        before = None
        rows = _rows(case, rungs[case.op])
        names = [case.op, f"  {_short(case)}"] if len(rows) > 1 else [f"{case.op}  {_short(case)}"]
        for i, (rung, function, checked) in enumerate(rows):
            try:
                call = prepare(function, checked, n)
            except Mismatch as error:
                return fail(f"rung {rung} computes wrong results on this machine: {error}", FAILED)
            seconds = undisturbed(partial(median_seconds, call, options.seconds), best=min)
            disturbed = disturbed or seconds.disturbed
            table.add_row(names[i] if i < len(names) else "", rung, *_figures(case, seconds, roofs, before))
            if not rung.endswith(BFLOAT16):  # such a row is not a rung, so the next one does not compare with it
                before = seconds
        table.add_section()
    console.print(table)
    if disturbed:
        console.print(f"{DISTURBED}  other programs were busy in all {TRIES} attempts; the true value may be better")
    return 0


def _rows(case: Case, rungs: list[str]) -> list[tuple[str, Callable[..., Any], Case]]:
    """List the rows of one op: name, function, and the case that the function must reproduce."""
    from tinygpt.core import matmul
    from tinygpt.kernels import registry

    rows = []
    for rung in rungs:
        rows.append((rung, registry.function(case.op, rung), case))
        rounding = matmul.BFLOAT16.get(rung, {}).get(case.op)
        if rounding is not None:
            rows.append((f"{rung} {BFLOAT16}", rounding, _rounded(case)))
    return rows


def _rounded(case: Case) -> Case:
    """Round the operands of a matmul case to bfloat16; the float32 error bound then holds for the rounded product."""
    import ml_dtypes
    import numpy as np

    from tinygpt import reference
    from tinygpt.testing import bounds

    inputs = dict(case.inputs)
    for name in ("a", "b"):
        inputs[name] = inputs[name].astype(ml_dtypes.bfloat16).astype(np.float32)
    given = {name: value for name, value in inputs.items() if name != "accumulate"}
    value, _ = reference.matmul(**given)
    error, *_ = bounds.matmul(**given, start=None)
    return replace(case, inputs=inputs, wanted={"out": np.asarray(value)}, bounds={"out": np.asarray(error.error)})


def _rungs(wanted: list[str] | None) -> dict[str, list[str]]:
    """Map each op to the rungs to compare; an op that has none of the wanted rungs gets an empty list."""
    from tinygpt.kernels import registry

    available = registry.available()
    known = dict.fromkeys(rung for rungs in available.values() for rung in rungs)
    unknown = [rung for rung in wanted or () if rung not in known]
    if unknown:
        raise ValueError(f"--kernels: unknown rung '{unknown[0]}'; there are {', '.join(known)}")
    return {op: [rung for rung in rungs if wanted is None or rung in wanted] for op, rungs in available.items()}


def _cases(options: BenchOptions) -> Iterator[Case]:
    """Yield the cases of the chosen ops, at the given sizes or at their default sizes."""
    from tinygpt import testing

    ops = options.op or list(testing.FACTORIES)
    unknown = [op for op in ops if op not in testing.FACTORIES]
    if unknown:
        raise ValueError(f"--op: unknown op '{unknown[0]}'; there are {', '.join(testing.FACTORIES)}")
    if not options.sizes:
        for op in ops:
            yield from testing.default_cases(op)
        return
    if len(ops) != 1:
        raise ValueError("--sizes needs exactly one --op")
    squares = [size for size in options.sizes if size.isdecimal() and int(size) > 0]
    if squares and (ops != ["matmul"] or len(squares) != len(options.sizes)):
        raise ValueError("--sizes: a plain number works with --op matmul only; name the letters, as in R=256 C=4096")
    if squares:
        yield from (testing.matmul_case(int(size), int(size), int(size)) for size in squares)
        return
    yield _sized(ops[0], options.sizes)


def _sized(op: str, sizes: list[str]) -> Case:
    """Build the case of an op with the given sizes, as in ``R=256``."""
    import numpy as np

    from tinygpt import testing

    letters = dict(_letter(size) for size in sizes)
    parameters = inspect.signature(testing.FACTORIES[op]).parameters
    known = {name: parameter for name, parameter in parameters.items() if name.isupper()}
    needed = [name for name, parameter in known.items() if parameter.default is parameter.empty]
    if not set(needed) <= letters.keys() <= known.keys():
        raise ValueError(f"--sizes: {op} needs {' '.join(needed)}{_optional(known, needed)}, got {' '.join(letters)}")
    try:
        with np.errstate(all="ignore"):
            return testing.make(op, **letters)
    except ValueError:
        raise ValueError(f"--sizes: {' '.join(sizes)} are inconsistent sizes for {op}") from None


def _optional(known: Iterable[str], needed: list[str]) -> str:
    """Name the letters that may be left out."""
    rest = [name for name in known if name not in needed]
    return f" and takes {' '.join(rest)}" if rest else ""


def _short(case: Case) -> str:
    """Format the sizes of a case, as in ``M256 K256 N256``."""
    return " ".join(f"{letter}{size}" for letter, size in case.dims.items())


def _letter(text: str) -> tuple[str, int]:
    """Parse a size such as ``M=512``."""
    name, _, value = text.partition("=")
    if not value.isdecimal() or int(value) < 1:
        raise ValueError(f"--sizes must look like M=512, got '{text}'")
    return name, int(value)


def _table(n_threads: int, peak: Measured, memory: Measured) -> Table:
    """Make an empty table, with the measured limits of the machine as its title."""
    from rich.box import SIMPLE
    from rich.table import Table

    title = f"{n_threads} thread{'s' * (n_threads > 1)}, float32 peak {_mark(peak)}{peak / 1e9:.0f} GFLOP/s"
    title += f", memory {_mark(memory)}{memory / 1e9:.0f} GB/s read"
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=0)
    table.add_column("op", no_wrap=True)
    table.add_column("rung", no_wrap=True)
    for name in ("time us", "rate", "share", "speed-up"):
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _figures(case: Case, seconds: Measured, roofs: tuple[float, float], before: float | None) -> tuple[str, ...]:
    """Format time, rate, share of the nearer roof and speed-up.

    All rungs of a case are compared with the same limit, because time scales both shares alike.
    """
    peak, memory = case.flops / seconds / roofs[0], case.bytes / seconds / roofs[1]
    if peak >= memory:
        rate = (f"{_short_number(case.flops / seconds / 1e9)} GFLOP/s", f"{100 * peak:.1f} % peak")
    else:
        rate = (f"{_short_number(case.bytes / seconds / 1e9)} GB/s", f"{100 * memory:.0f} % mem")
    return (f"{_mark(seconds)}{seconds * 1e6:,.0f}", *rate, "" if before is None else f"{before / seconds:.1f} x")


def _mark(value: Measured) -> str:
    return DISTURBED if value.disturbed else ""


def _short_number(value: float) -> str:
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"
