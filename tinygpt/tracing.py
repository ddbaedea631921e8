"""Every intermediate value of a forward pass, with its name, formula, statistics and the line that computed it.

    with tinygpt.trace() as steps:
        model(tokens)
    steps["blocks.0.attn.softmax"].array

While a trace is active, `tinygpt.ops` holds the operations of `tinygpt.ops.unfused` in place of its own; in a thread
without a trace these call the own ones.

Design
- Names are found, not given: the module at work is the nearest caller that is a `Module`, and its name is its path from
  the outermost one. The model has no line for this. Rejected: a stack of scopes that every module pushes and pops.
- An inactive trace leaves nothing behind, so it costs nothing.
"""

from __future__ import annotations

import functools
import math
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np

from tinygpt import ops
from tinygpt.formulas import STREAM, Text, inner, text_of
from tinygpt.nn import Module
from tinygpt.ops import unfused
from tinygpt.tensor import Tensor

LIMIT = 2**30  # bytes
PACKAGE = Path(__file__).parent
# Files between a step and the line of a model that asked for it.
BETWEEN = {str(PACKAGE / name) for name in ("tracing.py", "nn.py", "ops/unfused.py")}
COLUMNS = ("step", "formula", "axes", "shape", "min", "max", "mean", "std", "zeros", "source")

_traces: dict[int, Trace] = {}  # thread -> its trace
_fused: dict[str, Callable[..., Any]] = {}  # what unfused operations stand in for, while there is a trace
_lock = threading.Lock()


class Stats(NamedTuple):
    """The values of a step in a few numbers.

    Attributes
    ----------
    min, max, mean, std : float
        Of the values that are finite; NaN if there are none.
    zeros, nan, infinite : float
        Shares of all values.
    """

    min: float
    max: float
    mean: float
    std: float
    zeros: float
    nan: float
    infinite: float


def statistics(values: np.ndarray) -> Stats:
    """The statistics of an array of any shape, in float64."""
    finite = values[np.isfinite(values)].astype(np.float64)
    n = max(1, values.size)
    shares = [int(np.count_nonzero(found)) / n for found in (values == 0, np.isnan(values), np.isinf(values))]
    if finite.size == 0:
        return Stats(*[math.nan] * 4, *shares)
    return Stats(float(finite.min()), float(finite.max()), float(finite.mean()), float(finite.std()), *shares)


class Step:
    """One intermediate value.

    Attributes
    ----------
    name : str
        As in ``blocks.0.attn.softmax``; ``@2`` follows in the second forward pass of a trace, and so on.
    text : Text
        Formula, letters of the axes, and a sentence.
    shape : tuple of int
    dtype : str
    stats : Stats
    source : str
        File and line of the function that computed it.
    caller : str
        File and line of the model, or of a program, that asked for it.
    """

    def __init__(self, name: str, text: Text, values: np.ndarray, source: str, caller: str):
        self.name, self.text, self.source, self.caller = name, text, source, caller
        self.shape, self.dtype = values.shape, str(values.dtype)
        self.stats = statistics(values)
        self._array: np.ndarray | None = None
        self._gradient: np.ndarray | None = None

    @property
    def formula(self) -> str:
        """How it follows from earlier steps."""
        return self.text.formula

    @property
    def axes(self) -> str:
        """A letter for each axis; `tinygpt.formulas.LETTERS` explains them."""
        return self.text.axes

    @property
    def array(self) -> np.ndarray:
        """The values, read-only.

        Raises
        ------
        ValueError
            They were not kept, as the trace had reached its limit.
        """
        if self._array is None:
            raise ValueError(f"[trace] '{self.name}' was not kept: 'limit' of the trace was reached")
        return self._array

    @property
    def kept(self) -> bool:
        """Whether `array` is there."""
        return self._array is not None

    @property
    def gradient(self) -> np.ndarray | None:
        """The gradient of what `backward` was called on, read-only; None if none arrived or none was asked for."""
        return self._gradient

    @property
    def block(self) -> int | None:
        """The number of its block; None outside of the blocks."""
        before, found, after = self.name.rpartition("blocks.")
        del before
        return int(after.partition(".")[0]) if found else None

    @property
    def local(self) -> str:
        """The name inside its block, as in ``attn.softmax``."""
        return inner(self.name)

    def __repr__(self) -> str:
        return f"Step({self.name!r}, shape={self.shape}, source={self.source!r})"


class Trace(Mapping[str, Step]):
    """The steps that were computed in its ``with`` statement, in order; see `trace`.

    It holds for the thread that enters it, and is entered once.
    """

    def __init__(self, backward: bool = False, limit: int = LIMIT):
        if limit < 0:
            raise ValueError(f"[trace] 'limit' must be 0 or more, got {limit}")
        self.backward, self.limit, self.bytes = backward, limit, 0
        self.parameter_gradients: dict[str, np.ndarray] = {}
        self._steps: dict[str, Step] = {}
        self._times: dict[str, int] = {}  # name -> how often it was computed
        self._names: weakref.WeakKeyDictionary[Tensor, str] = weakref.WeakKeyDictionary()
        self._roots: dict[int, tuple[Module, dict[int, str]]] = {}
        self._thread: int | None = None

    def __enter__(self) -> Trace:
        thread = threading.get_ident()
        if self._thread is not None:
            raise RuntimeError("[trace] was entered before: begin a new one")
        with _lock:
            if thread in _traces:
                raise RuntimeError("[trace] is active already: one trace cannot stand inside another")
            if not _traces:
                for name, apart in unfused.FUNCTIONS.items():
                    _fused[name] = getattr(ops, name)
                    setattr(ops, name, _choosing(_fused[name], apart))
            self._thread, _traces[thread] = thread, self
        return self

    def __exit__(self, *exc: object) -> None:
        with _lock:
            _traces.pop(self._thread or 0, None)
            if not _traces:
                for name, whole in _fused.items():
                    setattr(ops, name, whole)
                _fused.clear()
        for root, _ in self._roots.values() if self.backward else ():
            for name, parameter in root.named_parameters():
                if parameter.grad is not None:
                    self.parameter_gradients[name] = _frozen(parameter.grad.copy())
        self._roots.clear()

    def __getitem__(self, name: str) -> Step:
        if name not in self._steps:
            import difflib

            near = difflib.get_close_matches(name, self._steps, 3)
            hint = f"; there are {', '.join(near)}" if near else f"; there are {len(self)} steps, see .table()"
            raise KeyError(f"[trace] no step '{name}'{hint}")
        return self._steps[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._steps)

    def __len__(self) -> int:
        return len(self._steps)

    def __repr__(self) -> str:
        return f"Trace({len(self)} steps, {self.bytes / 1e6:.1f} MB)"

    def rows(self) -> list[dict[str, str]]:
        """The steps as text, by the names in `COLUMNS`."""
        return [_row(step) for step in self.values()]

    def table(self) -> str:
        """The steps as lines of text."""
        lines = [dict(zip(COLUMNS, COLUMNS, strict=True)), *self.rows()]
        wide = {name: max(len(line[name]) for line in lines) for name in COLUMNS}
        return "\n".join("  ".join(f"{line[name]:<{wide[name]}}" for name in COLUMNS).rstrip() for line in lines)

    def save(self, path: str | Path) -> None:
        """Write arrays to an .npz file, in one step: values under their names, gradients under ``gradient:`` before it.

        Raises
        ------
        ValueError
            `path` is there and is not a regular file.
        """
        import io

        from tinygpt.io.atomic import write_bytes

        arrays = {name: step.array for name, step in self.items() if step.kept}
        arrays |= {f"gradient:{name}": step.gradient for name, step in self.items() if step.gradient is not None}
        arrays |= {f"gradient:{name}": found for name, found in self.parameter_gradients.items()}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        write_bytes(path, buffer.getvalue())

    def _repr_html_(self) -> str:
        import html

        cells = "".join(
            "<tr>"
            + "".join(f"<td style='text-align: left'>{html.escape(row[name])}</td>" for name in COLUMNS)
            + "</tr>"
            for row in self.rows()
        )
        heads = "".join(f"<th>{name}</th>" for name in COLUMNS)
        return f"<table><thead><tr>{heads}</tr></thead><tbody>{cells}</tbody></table>"

    # What the operations in tinygpt.ops.unfused ask for.

    def step(self, name: str, text: str, op: Callable[..., Any], *args: Any) -> Any:
        """``op(*args)``, written down under `name`; `text` says which formula it is."""
        result = op(*args)
        n = self._times[name] = self._times.get(name, 0) + 1
        name = name if n == 1 else f"{name}@{n}"
        values = result.data if isinstance(result, Tensor) else result
        code = op.__code__
        step = Step(name, text_of(text), values, _place(code.co_filename, code.co_firstlineno), _caller())
        if self._room(values):
            step._array = _frozen(values)
        self._steps[name] = step
        if isinstance(result, Tensor):
            self._names[result] = name
            if self.backward and result._backward is not None:
                result._backward = self._listening(step, result._backward)
        return result

    def layer(self, weight: Tensor, otherwise: str) -> str:
        """The name of the layer that `weight` belongs to and that is at work.

        A model that multiplies with a weight itself makes logits of it. `otherwise` if no module is at work.
        """
        module, name = self._at_work()
        if module is None:
            return otherwise
        if getattr(module, "weight", None) is weight:
            return name or otherwise
        return _joined(name, "logits")

    def beside(self, leaf: str) -> str:
        """A name in the module that is at work."""
        return _joined(self._at_work()[1], leaf)

    def stream(self, branch: str) -> str:
        """The name of the residual stream once the output of the layer `branch` was added."""
        branch = branch.partition("@")[0]
        for layer, name in STREAM.items():
            if branch == layer or branch.endswith(f".{layer}"):
                return branch.removesuffix(layer) + name
        return f"{branch}.residual"

    def name_of(self, x: Tensor, otherwise: str) -> str:
        """The name that `x` was written down under in its pass."""
        return self._names.get(x, otherwise).partition("@")[0]

    def _at_work(self) -> tuple[Module | None, str]:
        """The nearest caller that is a module, and its path from the outermost one."""
        found: list[Module] = []
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if frame.f_code.co_varnames[:1] == ("self",):
                owner = frame.f_locals.get("self")
                if isinstance(owner, Module):
                    found.append(owner)
            frame = frame.f_back
        if not found:
            return None, ""
        root = found[-1]
        if id(root) not in self._roots:
            self._roots[id(root)] = root, {id(module): prefix.rstrip(".") for prefix, module in root._modules()}
        return found[0], self._roots[id(root)][1].get(id(found[0]), "")

    def _room(self, values: np.ndarray) -> bool:
        """Whether `values` fit the limit; counts them if they do."""
        if self.bytes + values.nbytes > self.limit:
            return False
        self.bytes += values.nbytes
        return True

    def _listening(self, step: Step, backward: Callable[[np.ndarray], None]) -> Callable[[np.ndarray], None]:
        """`backward`, which first keeps the gradient that has arrived: at that point it is whole."""

        def listening(dy: np.ndarray) -> None:
            if self._room(dy):
                step._gradient = _frozen(dy)
            backward(dy)

        return listening


def trace(backward: bool = False, limit: int = LIMIT) -> Trace:
    """Write down every intermediate value of the forward passes in a ``with`` statement.

    Under a trace the operations of the model run one by one: attention has its scores, a layer its product before the
    bias. Results equal those without a trace up to rounding. The steps of a second forward pass are named with ``@2``
    at their end; with a cache they are those of the new positions. A model with ``recompute`` is not recomputed.

    Parameters
    ----------
    backward : bool
        Keep the gradients of the steps too, of a `Tensor.backward` inside the statement, and at its end those of the
        parameters in ``parameter_gradients``.
    limit : int
        Bytes of arrays to keep, 1 GiB by default. Once they are used up, steps have statistics and no array.

    Returns
    -------
    Trace
        A mapping of names to steps, in the order of computation. It holds for the thread that enters it.

    Raises
    ------
    RuntimeError
        On entering: there is a trace in this thread already.

    Examples
    --------
    >>> with trace() as steps:
    ...     logits = model(tokens)
    >>> steps["blocks.0.attn.softmax"].array.sum(-1)
    """
    return Trace(backward, limit)


def is_traced() -> bool:
    """Whether a trace is active in this thread."""
    return threading.get_ident() in _traces


def _choosing(whole: Callable[..., Any], apart: Callable[..., Any]) -> Callable[..., Any]:
    """`apart` in a thread that has a trace, `whole` in all others."""

    @functools.wraps(whole)
    def op(*args: Any, **given: Any) -> Any:
        found = _traces.get(threading.get_ident())
        return whole(*args, **given) if found is None else apart(found, *args, **given)

    return op


def _joined(prefix: str, leaf: str) -> str:
    return f"{prefix}.{leaf}" if prefix else leaf


def _frozen(values: np.ndarray) -> np.ndarray:
    """A view that cannot be written through."""
    view = values.view()
    view.flags.writeable = False
    return view


def _place(file: str, line: int) -> str:
    """A line as the reader finds it: from the folder of the package on, and outside of it the name of the file."""
    path = Path(file)
    inside = path.is_relative_to(PACKAGE)
    return f"{path.relative_to(PACKAGE.parent).as_posix() if inside else path.name}:{line}"


def _caller() -> str:
    """The line that asked for a step, below what stands between."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename in BETWEEN:
        frame = frame.f_back
    return "" if frame is None else _place(frame.f_code.co_filename, frame.f_lineno)


def number(x: float) -> str:
    """Four digits; a dash for what is not there."""
    return "-" if math.isnan(x) else f"{x:.4g}"


def _row(step: Step) -> dict[str, str]:
    stats = step.stats
    zeros = f"{100 * stats.zeros:.3g} %"
    for share, word in ((stats.nan, "NaN"), (stats.infinite, "inf")):
        zeros += f", {100 * share:.3g} % {word}" if share else ""
    shape = "x".join(map(str, step.shape))
    figures = map(number, stats[:4])
    return dict(zip(COLUMNS, (step.name, step.formula, step.axes, shape, *figures, zeros, step.source), strict=True))
