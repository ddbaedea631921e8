"""Guarded calls of kernels: guard zones around all memory, outputs filled with NaN, read-only inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinygpt.kernels import spec

ZONE = 256  # bytes of guard before and after an array: four cache lines, more than any vector store reaches
LINE = 64
# Contents of the guard zones. Around float inputs: NaN, so that any result which used it is NaN. Around ids: -1, a
# target that is ignored, or a token whose row lies before the table. Around 16-bit inputs: a NaN of both bfloat16 and
# half precision. Around int8 weights: -128, which no packed weight has. Around outputs: bits that no kernel writes.
_INPUT = {"float32": np.nan, "int32": -1, "uint16": 0x7FC0, "int8": -128}
_PATTERN = np.uint32(0xC0DEFEED)


@dataclass(frozen=True)
class Layout:
    """Place of an array inside a larger one: ``buffer[index]`` with permuted axes.

    Parameters
    ----------
    buffer : tuple of int
        Shape of the larger array, C-contiguous.
    index : tuple
        Index of the array inside the buffer.
    axes : tuple of int, optional
        Order of the axes as the kernel sees them.
    """

    buffer: tuple[int, ...]
    index: tuple[Any, ...]
    axes: tuple[int, ...] | None = None

    def view(self, flat: np.ndarray) -> np.ndarray:
        """Return the array as a view of the flat memory of the buffer."""
        part = flat.reshape(self.buffer)[self.index]
        return part if self.axes is None else part.transpose(self.axes)


@dataclass(frozen=True)
class Case:
    """One call of an op: inputs, expected outputs and their error bounds.

    Parameters
    ----------
    op : str
        Name of the op in `tinygpt.kernels.spec.OPS`.
    inputs : mapping
        Every argument that is only read, by name: arrays, scalars, and None for an optional argument that is absent.
    wanted : mapping
        Output name to the float64 result; ``"result"`` for an op that returns a number. Optional outputs that are
        missing here are passed as None.
    bounds : mapping
        Output name to the largest error of each element (see `tinygpt.testing.bounds`).
    starts : mapping
        Output name to its contents before the call, for outputs that are added to or updated.
    layouts : mapping
        Argument name to its place in a larger array; all other arrays are contiguous.
    shared : mapping
        Output name to the input whose memory it shares.

    Raises
    ------
    ValueError
        A result is NaN, a bound is not a finite number, or shapes differ: such a case would accept anything.
    """

    op: str
    inputs: Mapping[str, Any]
    wanted: Mapping[str, np.ndarray]
    bounds: Mapping[str, np.ndarray]
    starts: Mapping[str, np.ndarray] = field(default_factory=dict)
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    shared: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, wanted in self.wanted.items():
            bound = self.bounds[name]
            if wanted.shape != bound.shape:
                raise ValueError(f"[{self.op}] bound of '{name}' must have shape {wanted.shape}, got {bound.shape}")
            if np.isnan(wanted).any() or not (np.isfinite(bound) & (bound >= 0)).all():
                raise ValueError(f"[{self.op}] '{name}' must have results without NaN and finite bounds of at least 0")

    @property
    def dims(self) -> spec.Dims:
        """Sizes of the op's dimensions by letter, for example M, N and K."""
        arrays = {name: x for name, x in self.inputs.items() if isinstance(x, np.ndarray)}
        arrays |= {name: x.astype(np.float32) for name, x in self.wanted.items() if x.ndim}
        flags = {name: x for name, x in self.inputs.items() if isinstance(x, bool)}
        return spec.check(self.op, arrays, **flags)

    @property
    def flops(self) -> int:
        """Floating-point operations of the call."""
        return spec.OPS[self.op].flops(self.dims)

    @property
    def bytes(self) -> int:
        """Fewest bytes that the call must move, without absent arguments."""
        record = spec.OPS[self.op]
        given = {name for name, x in self.inputs.items() if x is not None} | set(self.wanted)
        return record.bytes(self.dims, frozenset(arg.name for arg in record.args if arg.name not in given))

    @property
    def label(self) -> str:
        """The sizes of the call on one line, for example ``M 64  K 32  N 16  b transposed``."""
        sizes = [f"{letter} {size}" for letter, size in self.dims.items()]
        swapped = (arg.name for arg in spec.OPS[self.op].args if arg.swapped_by and self.inputs.get(arg.swapped_by))
        return "  ".join([*sizes, *(f"{name} transposed" for name in swapped)])


class Mismatch(AssertionError):
    """Raised when a kernel's results or side effects do not match its case.

    Parameters
    ----------
    message : str
    op, output : str
        The op, and the array that is wrong.
    index : tuple of int
        Index of the worst element; for memory outside an array, the distance in elements from its start.
    got, wanted, bound : float
        Value, reference and error bound of that element; NaN where they have no meaning.
    """

    def __init__(
        self,
        message: str,
        op: str,
        output: str,
        index: tuple[int, ...] = (),
        got: float = math.nan,
        wanted: float = math.nan,
        bound: float = math.nan,
    ):
        super().__init__(message)
        self.op, self.output, self.index = op, output, index
        self.got, self.wanted, self.bound = got, wanted, bound


class _Guarded:
    """An array between guard zones that starts `offset` bytes after a cache line."""

    def __init__(self, shape: tuple[int, ...], dtype: str, layout: Layout | None, offset: int):
        size = math.prod(layout.buffer if layout else shape)
        item = np.dtype(dtype).itemsize
        zone = ZONE // item
        words = 2 * zone + size
        raw = np.empty(item * words + LINE + offset, np.uint8)
        first = -raw.ctypes.data % LINE + offset
        self.memory = raw[first : first + item * words].view(dtype)
        inside = slice(zone, zone + size)
        self.array = self._cut(self.memory[inside], shape, layout)
        covered = np.zeros(words, bool)
        self._cut(covered[inside], shape, layout)[...] = True
        self.outside = ~covered
        if self.array.shape != shape:
            raise ValueError(f"[Layout] the view must have shape {shape}, got {self.array.shape}")

    @staticmethod
    def _cut(flat: np.ndarray, shape: tuple[int, ...], layout: Layout | None) -> np.ndarray:
        return layout.view(flat) if layout else flat.reshape(shape)

    def touched(self) -> np.ndarray:
        """Return the guard words that were overwritten, as distances in elements from the start of the array."""
        changed = self.outside & (self.memory.view(np.uint32) != _PATTERN)
        return np.flatnonzero(changed) - ZONE // 4


def _place_input(case: Case, name: str, x: np.ndarray, offset: int) -> _Guarded:
    place = _Guarded(x.shape, str(x.dtype), case.layouts.get(name), offset)
    place.memory[...] = _INPUT[str(x.dtype)]
    place.array[...] = x
    place.array.flags.writeable = False
    return place


def _place_output(case: Case, name: str, offset: int) -> _Guarded:
    place = _Guarded(case.wanted[name].shape, "float32", case.layouts.get(name), offset)
    place.memory.view(np.uint32)[...] = _PATTERN
    start = case.inputs[case.shared[name]] if name in case.shared else case.starts.get(name)
    place.array[...] = np.nan if start is None else start
    return place


def run(function: Callable[..., Any], case: Case, n_threads: int = 1, offset: int = 0) -> dict[str, Any]:
    """Call a rung on a case.

    Parameters
    ----------
    function : callable
        The rung's function; called by position, in the order of the op's record.
    case : Case
    n_threads : int
        Number of threads, the last argument of every kernel.
    offset : int
        Distance of every array from the start of a cache line, in bytes; a multiple of 4.

    Returns
    -------
    dict
        Output name to float32 array; ``"result"`` is the return value of an op without output arrays.

    Raises
    ------
    Mismatch
        The call wrote outside its outputs, or changed an input.
    """
    inputs: dict[str, _Guarded] = {}
    outputs = {name: _place_output(case, name, offset) for name in case.wanted if name != "result"}
    arguments: list[Any] = []
    for arg in spec.OPS[case.op].args:
        value = case.inputs.get(arg.name)
        if arg.role in ("out", "inout"):
            arguments.append(outputs[arg.name].array if arg.name in outputs else None)
        elif not isinstance(value, np.ndarray):
            arguments.append(value)
        elif arg.name in case.shared.values():
            owner = next(name for name, source in case.shared.items() if source == arg.name)
            arguments.append(outputs[owner].array)
        else:
            inputs[arg.name] = _place_input(case, arg.name, value, offset)
            arguments.append(inputs[arg.name].array)
    result = function(*arguments, n_threads)
    for name, place in outputs.items():
        if (wrong := place.touched()).size:
            text = f"[{case.op}] wrote outside '{name}': {wrong.size} elements, the first at {wrong[0]} from its start"
            raise Mismatch(text, case.op, name, (int(wrong[0]),))
    for name, place in inputs.items():
        if place.array.tobytes() != case.inputs[name].tobytes():
            raise Mismatch(f"[{case.op}] changed its input '{name}'", case.op, name)
    arrays = {name: place.array.copy() for name, place in outputs.items()}
    return arrays if arrays else {"result": result}


def compare(case: Case, results: Mapping[str, Any]) -> None:
    """Compare results with a case. NaN never passes, and an infinity passes only where the same one is expected.

    Raises
    ------
    Mismatch
        The error of an element exceeds its bound.
    """
    for name, wanted in case.wanted.items():
        got, bound = np.asarray(results[name], dtype=np.float64), case.bounds[name]
        if got.shape != wanted.shape:
            raise Mismatch(f"[{case.op}] '{name}' must have shape {wanted.shape}, got {got.shape}", case.op, name)
        with np.errstate(invalid="ignore"):
            excess = np.where(got == wanted, 0, abs(got - wanted) - bound)
        wrong = ~(excess <= 0)
        if wrong.any():
            flat = int(np.argmax(np.where(np.isnan(excess), np.inf, excess)))
            index = tuple(int(i) for i in np.unravel_index(flat, wanted.shape))
            one, other, room = float(got[index]), float(wanted[index]), float(bound[index])
            text = f"[{case.op}] '{name}' at {index} must be {other:.9g} within {room:.2g}, got {one:.9g}"
            text += f"; {int(wrong.sum())} of {wrong.size} elements are wrong ({case.label})"
            raise Mismatch(text, case.op, name, index, one, other, room)


def check(function: Callable[..., Any], case: Case, n_threads: int = 1, offset: int = 0) -> dict[str, Any]:
    """Call a rung on a case and compare its outputs with the reference.

    Parameters
    ----------
    function, case, n_threads, offset
        See `run`.

    Returns
    -------
    dict
        The outputs, as from `run`.

    Raises
    ------
    Mismatch
        An output is wrong, or the call wrote outside its outputs or changed an input.
    """
    results = run(function, case, n_threads, offset)
    compare(case, results)
    return results
