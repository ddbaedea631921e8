"""`tinygpt bench`."""

from __future__ import annotations

import inspect
import math
import statistics
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tinygpt.cli.options import thread_count, use_threads

if TYPE_CHECKING:
    from rich.table import Table

    from tinygpt.kernels.load import Measured
    from tinygpt.testing import Case
    from tinygpt.viz.bench import Bar

LIBRARIES = ("numpy", "torch")  # in --against
DISTURBED = "~"  # marks a number that other programs disturbed
BFLOAT16 = "bf16"  # marks a rung with bfloat16 operands


class WrongRung(Exception):
    """Raised when a rung fails its check, so that its time would mean nothing."""


@dataclass(kw_only=True)
class BenchOptions:
    """Flags of `tinygpt bench`, one field each."""

    op: list[str] | None = None
    """Ops to measure. Default: all."""
    sizes: list[str] | None = None
    """Sizes by letter, as in M=512 N=512 K=512, or N for a square matmul of N x N. Needs exactly one --op."""
    kernels: list[str] | None = None
    """Rungs to compare, as in naive blocked. Default: all; with --against, the fastest."""
    against: list[str] | None = None
    """Libraries to compare with: numpy, torch. PyTorch must be installed; ops that it lacks are left out."""
    html: str | None = None
    """Also write the table as a page with bars."""
    threads: Annotated[int | None, Parameter(converter=thread_count)] = None
    """Number of threads, or auto: all cores that this process may use. Default: auto."""
    seconds: float = 0.2
    """Time to repeat each rung, in seconds."""
    quiet: bool = False
    """Print the table only, without progress."""

    def validate(self) -> None:
        """Raise ValueError, naming the flag, for a value out of range."""
        from tinygpt.io.paths import check_file

        for flag, value, what in (
            ("--op", self.op, "op"),
            ("--sizes", self.sizes, "size"),
            ("--kernels", self.kernels, "rung"),
            ("--against", self.against, "library"),
        ):
            if value == []:
                raise ValueError(f"{flag} needs at least one {what}")
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise ValueError(f"--seconds must be more than 0, got {self.seconds}")
        if self.against:
            self.against = [name for text in self.against for name in text.split(",") if name]
        unknown = [name for name in self.against or () if name not in LIBRARIES]
        if unknown:
            raise ValueError(f"--against must be {' or '.join(LIBRARIES)}, got '{unknown[0]}'")
        if self.html is not None:
            check_file(Path(self.html), "--html")


def bench(options: Annotated[BenchOptions, Parameter(name="*")] = BenchOptions()) -> int:  # noqa: B008
    """Compare the rungs of the kernels on this machine.

    Each rung is checked against a float64 reference before it is timed. Columns:
    median time; rate in GFLOP/s or GB/s; share of the nearer of two measured
    limits, the float32 peak or the memory bandwidth (data in the cache may exceed
    100 %); speed-up over the rung above. Rows with bf16 round the operands of a
    matmul to bfloat16. With --against the last column is the time of a library in
    multiples of tinygpt's: more than 1 means that tinygpt is faster.
    """
    from rich.console import Console
    from rich.progress import track

    from tinygpt.cli.app import FAILED, fail
    from tinygpt.kernels import threads
    from tinygpt.kernels.load import TRIES
    from tinygpt.kernels.peak import peak_flops, read_bandwidth

    options.validate()
    use_threads(options.threads, options.quiet)
    n = threads.get_num_threads()
    with _libraries(options.against or [], n):
        rungs = _rungs(options.kernels, options.against or [])
        cases = [case for case in _cases(options) if rungs[case.op]]
        if not cases:
            raise ValueError(
                f"--kernels: none of the chosen ops has a rung {' or '.join(options.kernels or [])} of its own"
            )
        roofs = peak_flops(n), read_bandwidth(n)
        console = Console(highlight=False)
        quiet = options.quiet or not console.is_terminal
        groups = []
        for case in track(cases, "measuring", console=console, transient=True, disable=quiet):
            try:
                groups.append((case, _measured(case, rungs[case.op], roofs, n, options)))
            except WrongRung as error:
                return fail(str(error), FAILED)
    title, notes = _title(n, *roofs), _means(groups)
    if any(roof.disturbed for roof in roofs) or any(bar.disturbed for _, bars in groups for bar in bars):
        notes.append(f"{DISTURBED}  other programs were busy in all {TRIES} attempts; the true value may be better")
    console.print(_table(title, groups, bool(options.against)))
    for note in notes:
        console.print(note)
    if options.html is not None:
        from tinygpt.cli.info import processor
        from tinygpt.viz.bench import BenchPage

        named = [(f"{case.op}  {_short(case)}", bars) for case, bars in groups]
        BenchPage(f"{processor()}, {title}", named, notes).save(options.html)
        if not options.quiet:
            print(f"written   {options.html}")
    return 0


@contextmanager
def _libraries(names: list[str], n_threads: int) -> Iterator[None]:
    """Register PyTorch's functions as a rung while the benchmark runs; NumPy is one of ours already."""
    from tinygpt.kernels import registry

    if "torch" not in names:
        yield
        return
    from tinygpt.testing.opponents import torch_rung

    registry.register("torch", **torch_rung(n_threads))
    try:
        yield
    finally:
        registry.unregister("torch")


def _measured(
    case: Case, rungs: list[str], roofs: tuple[float, float], n_threads: int, options: BenchOptions
) -> list[Bar]:
    """Check and time every rung of one case."""
    from tinygpt.kernels.load import undisturbed
    from tinygpt.testing import Mismatch
    from tinygpt.testing.opponents import Unsupported
    from tinygpt.testing.timing import median_seconds, prepare
    from tinygpt.viz.bench import Bar

    bars: list[Bar] = []
    before = None  # the time that the last column compares with: of the rung above, or of tinygpt's last rung
    for rung, function, checked in _rows(case, rungs):
        try:
            call = prepare(function, checked, n_threads)
        except Unsupported:
            continue
        except Mismatch as error:
            raise WrongRung(f"rung {rung} computes wrong results on this machine: {error}") from None
        seconds = undisturbed(partial(median_seconds, call, options.seconds), best=min)
        ours = rung not in (options.against or [])
        factor = _factor(seconds, before, bool(options.against))
        bars.append(Bar(rung, seconds, *_figures(case, seconds, roofs), factor, ours, seconds.disturbed))
        if ours and not rung.endswith(BFLOAT16):  # such a row is not a rung, so the next one does not compare with it
            before = seconds
    return bars


def _means(groups: list[tuple[Case, list[Bar]]]) -> list[str]:
    """Say for every library how its times compare with tinygpt's, as a geometric mean over the ops."""
    ratios: dict[str, list[float]] = {}
    for _, bars in groups:
        own = [bar for bar in bars if bar.ours and not bar.rung.endswith(BFLOAT16)]
        for bar in bars if own else []:
            if not bar.ours:
                ratios.setdefault(bar.rung, []).append(bar.seconds / own[-1].seconds)
    return [
        f"{rung} takes {math.exp(statistics.fmean(map(math.log, found))):.2f} x tinygpt's time "
        f"(geometric mean of {len(found)}), {min(found):.2f} x to {max(found):.2f} x"
        for rung, found in ratios.items()
    ]


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


def _rungs(wanted: list[str] | None, against: list[str]) -> dict[str, list[str]]:
    """Map each op to the rungs to compare, libraries last; an op without a wanted rung of its own gets none."""
    from tinygpt.kernels import registry

    available = registry.available()
    known = dict.fromkeys(rung for rungs in available.values() for rung in rungs)
    unknown = [rung for rung in wanted or () if rung not in known]
    if unknown:
        raise ValueError(f"--kernels: unknown rung '{unknown[0]}'; there are {', '.join(known)}")
    chosen = {}
    for op, rungs in available.items():
        ladder = [rung for rung in rungs if rung in registry.LADDER]
        if wanted is not None:
            own = [rung for rung in rungs if rung in wanted and rung not in against]
        else:
            own = ladder[-1:] if against else list(rungs)
        chosen[op] = own + [rung for rung in against if rung in rungs] if own else []
    return chosen


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


def _title(n_threads: int, peak: Measured, memory: Measured) -> str:
    """Describe the threads and the measured limits of the machine."""
    title = f"{n_threads} thread{'s' * (n_threads > 1)}, float32 peak {_mark(peak)}{peak / 1e9:.0f} GFLOP/s"
    return title + f", memory {_mark(memory)}{memory / 1e9:.0f} GB/s read"


def _table(title: str, groups: list[tuple[Case, list[Bar]]], against: bool) -> Table:
    """Make the table: a group of rows per case."""
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE, padding=0)
    table.add_column("op", no_wrap=True)
    table.add_column("rung", no_wrap=True)
    for name in ("time us", "rate", "share", "x tinygpt" if against else "speed-up"):
        table.add_column(name, justify="right", no_wrap=True)
    for case, bars in groups:
        names = [case.op, f"  {_short(case)}"] if len(bars) > 1 else [f"{case.op}  {_short(case)}"]
        names += [""] * len(bars)
        for name, bar in zip(names, bars, strict=False):
            table.add_row(name, bar.rung, _time(bar), bar.rate, bar.share, bar.factor)
        table.add_section()
    return table


def _figures(case: Case, seconds: float, roofs: tuple[float, float]) -> tuple[str, str]:
    """Format the rate and the share of the nearer roof.

    All rungs of a case are compared with the same limit, because time scales both shares alike.
    """
    peak, memory = case.flops / seconds / roofs[0], case.bytes / seconds / roofs[1]
    if peak >= memory:
        return f"{_short_number(case.flops / seconds / 1e9)} GFLOP/s", f"{100 * peak:.1f} % peak"
    return f"{_short_number(case.bytes / seconds / 1e9)} GB/s", f"{100 * memory:.0f} % mem"


def _factor(seconds: float, before: float | None, against: bool) -> str:
    """Format the speed-up over the rung above, or, against libraries, the time in multiples of tinygpt's."""
    if before is None:
        return ""
    return f"{seconds / before:.2f} x" if against else f"{before / seconds:.1f} x"


def _time(bar: Bar) -> str:
    """Format the time of a bar in microseconds, with the mark of a disturbed one."""
    return f"{DISTURBED if bar.disturbed else ''}{bar.seconds * 1e6:,.0f}"


def _mark(value: Measured) -> str:
    return DISTURBED if value.disturbed else ""


def _short_number(value: float) -> str:
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"
