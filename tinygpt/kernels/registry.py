"""Registry of kernels: the function of every op at every rung, and the rung in use for each op.

A compiled module lists its functions in a dictionary ``RUNGS``, from rung and op to function; the registry reads it at
import. The layers above call ``active.<op>``, so that a change of rung takes effect at the next call, even in a running
training.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

from tinygpt.core import cpu
from tinygpt.kernels import isa
from tinygpt.kernels.spec import OPS

LADDER = ("naive", "parallel", "blocked", "simd")
OWN = "numpy"  # registered by the package through `register`; users cannot replace it
PRECISIONS = ("float32", "bfloat16")

Function = Callable[..., Any]

# rung -> op -> function
_functions: dict[str, dict[str, Function]] = {}
_rounding: dict[str, dict[str, Function]] = {}  # the same, for precision="bfloat16"
_chosen: dict[str, str] = {}  # op -> requested rung
_precision = PRECISIONS[0]
_wrap: Callable[[str, str, Function], Function] | None = None
active = SimpleNamespace()


def _load() -> None:
    """Import the compiled modules, collect their rungs, and set their instruction set."""
    modules = [importlib.import_module(f"tinygpt.core.{name}") for name in sorted({op.module for op in OPS.values()})]
    for module in modules:
        for rung, functions in module.RUNGS.items():
            _functions.setdefault(rung, {}).update(functions)
        for rung, functions in getattr(module, "BFLOAT16", {}).items():
            _rounding.setdefault(rung, {}).update(functions)
    isa.start([*modules, cpu])


def rungs(op: str) -> tuple[str, ...]:
    """List the rungs that implement `op` themselves, those of the ladder first."""
    ordered = [rung for rung in LADDER if rung in _functions] + [rung for rung in _functions if rung not in LADDER]
    return tuple(rung for rung in ordered if op in _functions[rung])


def available() -> dict[str, tuple[str, ...]]:
    """List the rungs of every op.

    Returns
    -------
    dict
        Op name to the rungs that implement it, lowest first. Registered rungs follow those of the ladder.
    """
    return {op: rungs(op) for op in OPS}


def default_rung() -> str:
    """Return the highest rung of the ladder that any op has."""
    return [rung for rung in LADDER if rung in _functions][-1]


def resolve(op: str, rung: str) -> str:
    """Return the rung that computes `op` when `rung` is requested: itself, or the nearest lower one that has the op.

    A rung outside the ladder counts as above it: ops that it lacks come from the highest rung of the ladder.
    """
    if op in _functions.get(rung, {}):
        return rung
    below = LADDER[: LADDER.index(rung)] if rung in LADDER else LADDER
    for candidate in reversed(below):
        if op in _functions.get(candidate, {}):
            return candidate
    return next(candidate for candidate in LADDER if op in _functions.get(candidate, {}))


def function(op: str, rung: str) -> Function:
    """Return the function that computes `op` at `rung`, without choosing it; for tests and benchmarks."""
    return _functions[resolve(op, rung)][op]


def precision() -> str:
    """Return the precision of matmul operands in use."""
    return _precision


def selection() -> dict[str, str]:
    """Return the rung in use for each op."""
    return {op: resolve(op, rung) for op, rung in _chosen.items()}


def deterministic() -> bool:
    """Tell whether all ops use rungs of the ladder, whose results do not depend on the number of threads."""
    return all(rung in LADDER for rung in selection().values())


class Choice:
    """Result of `use`: as a context manager, it restores the previous choice at its end."""

    def __init__(self, before: dict[str, str], precision: str):
        self._before, self._precision = before, precision

    def __enter__(self) -> dict[str, str]:
        return selection()

    def __exit__(self, *exc: object) -> None:
        global _precision
        _precision = self._precision
        _apply(self._before)


def _check_rung(rung: str, op: str | None = None) -> str:
    if rung not in _functions:
        where = f" for '{op}'" if op else ""
        raise ValueError(f"[kernels] unknown rung '{rung}'{where}; there are {', '.join(_functions)}")
    return rung


def _check_precision(precision: str, chosen: Mapping[str, str]) -> None:
    """Raise ValueError for bfloat16 if the rung chosen for matmul cannot round its operands."""
    if precision not in PRECISIONS:
        raise ValueError(f"[kernels] 'precision' must be one of {', '.join(PRECISIONS)}, got '{precision}'")
    able = [rung for rung, functions in _rounding.items() if "matmul" in functions]
    if precision == "bfloat16" and resolve("matmul", chosen["matmul"]) not in able:
        got = chosen["matmul"]
        raise ValueError(
            f"[kernels] 'precision' bfloat16 must go with rung {' or '.join(able)} for matmul, got '{got}'"
        )


def _apply(chosen: Mapping[str, str]) -> None:
    for op, rung in chosen.items():
        _chosen[op] = rung
        serves = resolve(op, rung)
        now = _rounding.get(serves, {}).get(op) if _precision == "bfloat16" else None
        name = f"{serves} bf16" if now else serves
        now = now or _functions[serves][op]
        setattr(active, op, _wrap(op, name, now) if _wrap else now)


def watch(wrap: Callable[[str, str, Function], Function] | None) -> None:
    """Replace every function of `active` by ``wrap(op, rung, function)``, also after a change of rung; None ends it."""
    global _wrap
    if wrap is not None and _wrap is not None:
        raise RuntimeError("[kernels] a profile is already running; end it before another begins")
    _wrap = wrap
    _apply(_chosen)


def use(rung: str | None = None, /, *, precision: str | None = None, **per_op: str) -> Choice:
    """Choose the rung that computes ops from now on, for all of them or for single ones.

    Parameters
    ----------
    rung : str, optional
        Rung for every op: ``naive``, ``parallel``, ``blocked``, ``simd``, ``numpy`` or a registered one. If it lacks an
        op, the nearest lower rung computes this op. None: no change.
    precision : str, optional
        ``float32`` or ``bfloat16``. With ``bfloat16``, matmul operands are rounded to bfloat16 while they are packed;
        sums, arrays and all other ops stay float32. None: no change.
    **per_op : str
        Rung for single ops, as in ``use("blocked", softmax="naive")``. The gradient of an op gets the same rung.

    Returns
    -------
    Choice
        The choice holds until the next call of `use`, or, in a ``with`` statement, until its end.

    Raises
    ------
    ValueError
        Unknown rung, op or precision, or a rung that does not support the precision. Nothing is changed then.
    """
    global _precision
    chosen = dict.fromkeys(OPS, _check_rung(rung)) if rung is not None else {}
    for op, own in per_op.items():
        if op not in OPS:
            raise ValueError(f"[kernels] unknown op '{op}'; there are {', '.join(OPS)}")
        chosen[op] = _check_rung(own, op)
        if f"{op}_backward" in OPS and f"{op}_backward" not in per_op:
            chosen[f"{op}_backward"] = own
    if _chosen:  # not while the package starts
        _check_precision(precision or _precision, _chosen | chosen)
    choice = Choice(dict(_chosen), _precision)
    changed = precision not in (None, _precision)
    _precision = precision or _precision
    _apply(_chosen | chosen if changed else chosen)
    return choice


def use_text(text: str) -> Choice:
    """Choose rungs from text such as ``blocked,softmax=naive``, the form of ``TINYGPT_KERNELS``."""
    general, per_op = None, {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        op, equals, rung = part.partition("=")
        if equals:
            per_op[op.strip()] = rung.strip()
        elif general is not None:
            raise ValueError(f"[kernels] '{text}' names two rungs for all ops: {general}, {part}")
        else:
            general = part
    return use(general, **per_op)


def register(rung: str, **functions: Function) -> None:
    """Add a rung of your own, or more ops to one that you added.

    Parameters
    ----------
    rung : str
        Name of the rung; not one of the package's own.
    **functions : callable
        Op name to a callable with the op's signature (see `tinygpt.kernels.spec`). Ops that are left out come from the
        highest rung of the ladder.

    Raises
    ------
    ValueError
        The name belongs to the package, an op is unknown, or no function is given.
    TypeError
        A function is not callable.
    """
    taken = rung in LADDER or (rung == OWN and rung in _functions)  # the package itself registers numpy once
    if not isinstance(rung, str) or taken or not rung.isidentifier():
        raise ValueError(f"[kernels] 'rung' must be a name of your own, got '{rung}'")
    if not functions:
        raise ValueError(f"[kernels] rung '{rung}' must have at least one op")
    for op, fn in functions.items():
        if op not in OPS:
            raise ValueError(f"[kernels] unknown op '{op}'; there are {', '.join(OPS)}")
        if not callable(fn):
            raise TypeError(f"[kernels] '{op}' must be callable, got {type(fn).__name__}")
    _functions.setdefault(rung, {}).update(functions)
    _apply({op: now for op, now in _chosen.items() if now == rung})


def unregister(rung: str) -> None:
    """Remove a registered rung; ops that use it get the default rung."""
    if rung in LADDER or rung == OWN or rung not in _functions:
        raise ValueError(f"[kernels] 'rung' must be a registered name of your own, got '{rung}'")
    del _functions[rung]
    _apply({op: default_rung() for op, now in _chosen.items() if now == rung})


def functions() -> Iterator[tuple[str, str, Function]]:
    """Yield every rung, op and function."""
    for rung, by_op in _functions.items():
        for op, fn in by_op.items():
            yield rung, op, fn


def start() -> None:
    """Load the compiled rungs and choose the default one."""
    _load()
    use(default_rung())


def apply_environment() -> None:
    """Choose the rungs that the environment variable ``TINYGPT_KERNELS`` names."""
    text = os.environ.get("TINYGPT_KERNELS")
    if text:
        try:
            use_text(text)
        except ValueError as error:
            raise ValueError(f"TINYGPT_KERNELS={text}: {str(error).removeprefix('[kernels] ')}") from None
