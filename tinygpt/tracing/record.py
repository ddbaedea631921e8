"""Record every intermediate value of a forward pass under its name.

    with tinygpt.trace() as steps:
        model(tokens)
    steps["blocks.0.attn.softmax"].array

While a trace is active in a thread, the tape lets it run the operations: instead of each operation of `tinygpt.ops` it
calls the one of the same name in `tinygpt.tracing.unfused`, which reports every value that its formula names.

Design
- Step names are derived, not written in the model: the module at work is the nearest caller that is a `Module`, and
  its name is its path from the outermost one. Rejected: a stack of scopes that every module pushes and pops.
- The switch is a field of the tape that belongs to one thread. Rejected: replacing functions in `tinygpt.ops`, which
  other threads see too.
"""

from __future__ import annotations

import math
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np

from tinygpt.nn import Module
from tinygpt.tensor import Tensor, is_traced, traced_by
from tinygpt.tracing import unfused
from tinygpt.tracing.formulas import STREAM, Text, inner, text_of
from tinygpt.tracing.source import statement

LIMIT = 2**30  # bytes
PACKAGE = Path(__file__).parents[1]
# Files whose frames lie between a step and the line of the model that asked for it.
BETWEEN = {str(PACKAGE / name) for name in ("tracing/record.py", "tracing/unfused.py", "nn.py", "tensor.py", "lora.py")}
COLUMNS = ("step", "formula", "axes", "shape", "min", "max", "mean", "std", "zeros", "source")


class Stats(NamedTuple):
    """Summary statistics of an array.

    Attributes
    ----------
    min, max, mean, std : float
        Statistics of the finite values; NaN if there are none.
    zeros, nan, infinite : float
        Shares of all values, 0 to 1.
    """

    min: float
    max: float
    mean: float
    std: float
    zeros: float
    nan: float
    infinite: float


def statistics(values: np.ndarray) -> Stats:
    """Compute the statistics of an array of any shape, in float64."""
    finite = values[np.isfinite(values)].astype(np.float64)
    n = max(1, values.size)
    shares = [int(np.count_nonzero(found)) / n for found in (values == 0, np.isnan(values), np.isinf(values))]
    if finite.size == 0:
        return Stats(*[math.nan] * 4, *shares)
    return Stats(float(finite.min()), float(finite.max()), float(finite.mean()), float(finite.std()), *shares)


class Step:
    """One intermediate value of a forward pass.

    Attributes
    ----------
    name : str
        For example ``blocks.0.attn.softmax``. From the second forward pass of a trace on, its number follows: ``@2``.
    text : Text
        Formula, letters of the axes, and an explanation.
    shape : tuple of int
    dtype : str
    stats : Stats
        Statistics of the values.
    source : str
        File and line of the statement that computed the value.
    caller : str
        File and line of the model (or program) that called the operation.
    """

    def __init__(self, name: str, text: Text, values: np.ndarray, source: str, caller: str):
        self.name, self.text, self.source, self.caller = name, text, source, caller
        self.shape, self.dtype = values.shape, str(values.dtype)
        self.stats = statistics(values)
        self._array: np.ndarray | None = None
        self._gradient: np.ndarray | None = None

    @property
    def formula(self) -> str:
        """Formula of the value, in terms of earlier steps."""
        return self.text.formula

    @property
    def axes(self) -> str:
        """One letter per axis, explained in `tinygpt.tracing.formulas.LETTERS`."""
        return self.text.axes

    @property
    def array(self) -> np.ndarray:
        """Values, read-only.

        Raises
        ------
        ValueError
            The array was not kept because the trace had reached its memory limit.
        """
        if self._array is None:
            raise ValueError(f"[trace] the array of '{self.name}' was not kept, because 'limit' was reached")
        return self._array

    @property
    def kept(self) -> bool:
        """True if `array` is available."""
        return self._array is not None

    @property
    def gradient(self) -> np.ndarray | None:
        """Gradient of the loss with respect to this value, read-only; None without a backward pass under the trace."""
        return self._gradient

    @property
    def block(self) -> int | None:
        """Index of the block; None for a step outside the blocks."""
        _, found, after = self.name.rpartition("blocks.")
        return int(after.partition(".")[0]) if found else None

    @property
    def local(self) -> str:
        """Name within the block, for example ``attn.softmax``."""
        return inner(self.name)

    def __repr__(self) -> str:
        return f"Step({self.name!r}, shape={self.shape}, source={self.source!r})"


class Trace(Mapping[str, Step]):
    """A mapping from names to the steps computed inside its ``with`` statement, in order; see `trace`."""

    def __init__(self, backward: bool = False, limit: int = LIMIT):
        if limit < 0:
            raise ValueError(f"[trace] 'limit' must be 0 or more, got {limit}")
        self.backward, self.limit, self.bytes = backward, limit, 0
        self.parameter_gradients: dict[str, np.ndarray] = {}
        self._steps: dict[str, Step] = {}
        self._times: dict[str, int] = {}  # name -> number of times it was computed
        self._names: weakref.WeakKeyDictionary[Tensor, str] = weakref.WeakKeyDictionary()
        self._roots: dict[int, tuple[Module, dict[int, str]]] = {}
        self._switch: AbstractContextManager[None] | None = None

    def __enter__(self) -> Trace:
        if self._switch is not None:
            raise RuntimeError("[trace] a trace can be entered only once; call trace() again")
        if is_traced():
            raise RuntimeError("[trace] a trace is already active in this thread; traces cannot be nested")
        self._switch = traced_by(self)
        self._switch.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._switch is not None:
            self._switch.__exit__(None, None, None)
        for root, _ in self._roots.values() if self.backward else ():
            for name, parameter in root.named_parameters():
                if parameter.grad is not None:
                    self.parameter_gradients[name] = _frozen(parameter.grad.copy())
        self._roots.clear()

    def __getitem__(self, name: str) -> Step:
        if name not in self._steps:
            import difflib

            near = difflib.get_close_matches(name, self._steps, 3)
            hint = f"; did you mean {' or '.join(near)}?" if near else f"; .table() lists all {len(self)} steps"
            raise KeyError(f"[trace] no step '{name}'{hint}")
        return self._steps[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._steps)

    def __len__(self) -> int:
        return len(self._steps)

    def __repr__(self) -> str:
        return f"Trace({len(self)} steps, {self.bytes / 1e6:.1f} MB)"

    def rows(self) -> list[dict[str, str]]:
        """Return one dictionary of strings per step, with the keys in `COLUMNS`."""
        return [_row(step) for step in self.values()]

    def table(self) -> str:
        """Return a plain-text table with one line per step."""
        lines = [dict(zip(COLUMNS, COLUMNS, strict=True)), *self.rows()]
        wide = {name: max(len(line[name]) for line in lines) for name in COLUMNS}
        return "\n".join("  ".join(f"{line[name]:<{wide[name]}}" for name in COLUMNS).rstrip() for line in lines)

    def save(self, path: str | Path) -> None:
        """Write all arrays to an .npz file, atomically.

        Values are stored under the names of their steps, gradients under ``gradient:`` and the name.

        Raises
        ------
        ValueError
            `path` exists and is not a regular file.
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

    def run(self, op: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Run the unfused form of an operation; the tape calls this."""
        return unfused.FUNCTIONS[op.__name__](self, *args, **kwargs)

    def step(self, name: str, text: str, op: Callable[..., Any], *args: Any) -> Any:
        """Return ``op(*args)`` and record it under `name`; `text` is the key of its formula."""
        with traced_by(None):  # `op` may be a traced operation itself
            result = op(*args)
        n = self._times[name] = self._times.get(name, 0) + 1
        name = name if n == 1 else f"{name}@{n}"
        values = result.data if isinstance(result, Tensor) else result
        step = Step(name, text_of(text), values, _place(*statement(op)), _caller())
        if self._room(values):
            step._array = _frozen(values)
        self._steps[name] = step
        if isinstance(result, Tensor):
            self._names[result] = name
            if self.backward and result._backward is not None:
                result._backward = self._listening(step, result._backward)
        return result

    def layer(self, weight: Tensor, otherwise: str) -> str:
        """Return the name of the layer at work that owns `weight`; `otherwise` outside a module.

        A module that multiplies by a weight of another one is a model that computes its logits.
        """
        module, name = self._at_work()
        if module is None:
            return otherwise
        if getattr(module, "weight", None) is weight:
            return name or otherwise
        return _joined(name, "logits")

    def beside(self, leaf: str) -> str:
        """Return the name `leaf` inside the module at work."""
        return _joined(self._at_work()[1], leaf)

    def stream(self, branch: str) -> str:
        """Return the name of the residual stream after the output of the layer `branch` was added."""
        branch = branch.partition("@")[0]
        for layer, name in STREAM.items():
            if branch == layer or branch.endswith(f".{layer}"):
                return branch.removesuffix(layer) + name
        return f"{branch}.residual"

    def name_of(self, x: Tensor, otherwise: str) -> str:
        """Return the name under which `x` was recorded, without the number of its pass."""
        return self._names.get(x, otherwise).partition("@")[0]

    def _at_work(self) -> tuple[Module | None, str]:
        """Find the nearest caller that is a module, and its path from the outermost one."""
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
        """Tell whether `values` fit the memory limit, and count them if they do."""
        if self.bytes + values.nbytes > self.limit:
            return False
        self.bytes += values.nbytes
        return True

    def _listening(self, step: Step, backward: Callable[[np.ndarray], None]) -> Callable[[np.ndarray], None]:
        """Wrap `backward` so that it first keeps the gradient of the step, which is complete at this point."""

        def listening(dy: np.ndarray) -> None:
            if self._room(dy):
                step._gradient = _frozen(dy)
            backward(dy)

        return listening


def trace(backward: bool = False, limit: int = LIMIT) -> Trace:
    """Record every intermediate value of the forward passes inside a ``with`` statement.

    Under a trace, fused operations run as separate steps: attention computes its scores, a linear layer its matmul
    before the bias. Results equal those without a trace up to rounding. The names of a second forward pass end with
    ``@2``; with a KV cache, steps cover only the new positions. ``recompute`` has no effect under a trace.

    Parameters
    ----------
    backward : bool
        Also keep gradients: of every step, if `Tensor.backward` is called inside the statement, and of all parameters,
        as ``parameter_gradients``.
    limit : int
        Maximum memory for arrays in bytes, 1 GiB by default. Steps beyond it keep only their statistics.

    Returns
    -------
    Trace
        A mapping from names to steps in the order of computation. It is active in the thread that enters it.

    Raises
    ------
    RuntimeError
        On entering, if a trace is already active in this thread.

    Examples
    --------
    >>> with trace() as steps:
    ...     logits = model(tokens)
    >>> steps["blocks.0.attn.softmax"].array.sum(-1)
    """
    return Trace(backward, limit)


def _joined(prefix: str, leaf: str) -> str:
    return f"{prefix}.{leaf}" if prefix else leaf


def _frozen(values: np.ndarray) -> np.ndarray:
    """Return a read-only view."""
    view = values.view()
    view.flags.writeable = False
    return view


def _place(file: str, line: int) -> str:
    """Format a source line: a path relative to the package's parent folder, or the bare name of another file."""
    path = Path(file)
    inside = path.is_relative_to(PACKAGE)
    return f"{path.relative_to(PACKAGE.parent).as_posix() if inside else path.name}:{line}"


def _caller() -> str:
    """Find the line of the model or program that led to a step."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename in BETWEEN:
        frame = frame.f_back
    return "" if frame is None else _place(frame.f_code.co_filename, frame.f_lineno)


def number(x: float) -> str:
    """Format with four significant digits; NaN becomes a dash."""
    return "-" if math.isnan(x) else f"{x:.4g}"


def _row(step: Step) -> dict[str, str]:
    stats = step.stats
    zeros = f"{100 * stats.zeros:.3g} %"
    for share, word in ((stats.nan, "NaN"), (stats.infinite, "inf")):
        zeros += f", {100 * share:.3g} % {word}" if share else ""
    shape = "x".join(map(str, step.shape))
    figures = map(number, stats[:4])
    return dict(zip(COLUMNS, (step.name, step.formula, step.axes, shape, *figures, zeros, step.source), strict=True))
