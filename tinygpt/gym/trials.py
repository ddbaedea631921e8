"""Trials: one call of the learner's function each, with the result that it must have.

A `KernelTrial` wraps a case of `tinygpt.testing`, so that a learner's kernel meets the same inputs, error bounds and
guard zones as the rungs. A `ValueTrial` compares a returned value.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any

import numpy as np

from tinygpt import testing
from tinygpt.kernels import spec

Function = Callable[..., Any]


class Wrong(AssertionError):
    """Raised when a result differs from what it must be; the message names the first element that does."""


@dataclass(frozen=True)
class KernelTrial:
    """A call of a kernel on a case.

    Parameters
    ----------
    title : str
        What is special about the inputs.
    case : testing.Case
    adapt : callable
        Gives the learner's function the signature of the op.
    hide : tuple of str
        Inputs and outputs that the learner's function does not have.
    one_head : bool
        The learner's function works on one head: arrays (1, T, 1, D) are shown as (T, D).
    """

    title: str
    case: testing.Case
    adapt: Callable[[Function], Function] = lambda function: function
    hide: tuple[str, ...] = ()
    one_head: bool = False

    @property
    def inputs(self) -> dict[str, Any]:
        """The inputs to show: arrays, and scalars that are set."""
        return self.shown({name: x for name, x in self.case.inputs.items() if isinstance(x, np.ndarray) or x})

    def shown(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return values as the learner's function has them."""
        return {name: x[0, :, 0] if self._head(x) else x for name, x in values.items() if name not in self.hide}

    def _head(self, x: Any) -> bool:
        return self.one_head and isinstance(x, np.ndarray) and x.ndim == 4 and x.shape[0] == x.shape[2] == 1

    @property
    def wanted(self) -> Mapping[str, Any]:
        """Output name to the expected array."""
        return self.case.wanted

    def run(self, function: Function) -> dict[str, Any]:
        """Call the function; returns output name to array, and under ``"returned"`` what the function returned."""
        returned: list[Any] = []

        def listening(*arguments: Any, **named: Any) -> Any:
            returned.append(function(*arguments, **named))
            return returned[-1]

        try:
            outputs = testing.run(self.adapt(listening), self.case)
        except testing.Mismatch as error:
            raise Wrong(str(error).partition("] ")[2]) from None
        return outputs | {"returned": returned[-1] if returned else None}

    def compare(self, outputs: Mapping[str, Any]) -> None:
        """Raise `Wrong` unless every element is within its error bound."""
        try:
            testing.compare(self.case, outputs)
        except testing.Mismatch as error:
            if not error.index:
                raise Wrong(str(error).partition("] ")[2]) from None
            count = str(error).rpartition("; ")[2].partition(" (")[0]
            index = error.index[1::2] if self._head(self.wanted[error.output]) else error.index
            place = f"{error.output}[{', '.join(map(str, index))}]"
            text = f"{place} must be {error.wanted:.6g} (within {error.bound:.1g}), got {error.got:.6g}; {count}"
            raise Wrong(text) from None

    def same(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        """Tell whether two results are equal up to rounding, NaN and infinities included."""
        return all(alike(one[name], other[name]) for name in self.wanted)


@dataclass(frozen=True)
class ValueTrial:
    """A call of a plain function whose result is compared.

    Parameters
    ----------
    title : str
        What is special about the inputs.
    inputs : mapping
        The arguments by name, in order.
    result : object
        The expected return value: an array, a number, or nested lists, tuples and dicts of such.
    tolerance : float
        Largest difference of two numbers; 0 asks for equality.
    """

    title: str
    inputs: Mapping[str, Any]
    result: Any
    tolerance: float = 0.0
    call: Callable[..., Any] = field(default=lambda function, *arguments: function(*arguments))

    def shown(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return values as they are; a dict of several results, one by one."""
        whole = values.get("result")
        return whole if isinstance(whole, dict) else dict(values)

    @property
    def wanted(self) -> Mapping[str, Any]:
        """The expected result under the name ``result``."""
        return {"result": self.result}

    def run(self, function: Function) -> dict[str, Any]:
        """Call the function with copies of the inputs."""
        given = copy.deepcopy(list(self.inputs.values()))
        result = self.call(function, *given)
        for (name, before), after in zip(self.inputs.items(), given, strict=True):
            if plain(before) != plain(after):
                raise Wrong(f"the function changed its argument '{name}'; work on a copy")
        return {"result": result}

    def compare(self, outputs: Mapping[str, Any]) -> None:
        """Raise `Wrong` unless the result is the expected one."""
        difference(outputs["result"], self.result, self.tolerance, "result")

    def same(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        """Tell whether two results are equal up to rounding."""
        try:
            difference(one["result"], other["result"], max(self.tolerance, 1e-6), "result")
        except Wrong:
            return False
        return True


def alike(one: Any, other: Any) -> bool:
    """Tell whether two arrays have one shape and nearly the same values."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    return one.shape == other.shape and bool(np.allclose(one, other, rtol=1e-4, atol=1e-6, equal_nan=True))


def plain(x: Any) -> Any:
    """Turn arrays into something that ``==`` compares as a whole."""
    return (x.shape, x.dtype.str, x.tobytes()) if isinstance(x, np.ndarray) else x


def difference(got: Any, wanted: Any, tolerance: float, name: str) -> None:
    """Raise `Wrong`, naming the first part that differs."""
    if isinstance(wanted, (int, float, np.floating)) and isinstance(got, (int, float, np.number)):
        if not abs(float(got) - float(wanted)) <= tolerance and got != wanted:
            raise Wrong(f"{name} must be {wanted:.6g}, got {got:.6g}")
    elif isinstance(wanted, np.ndarray):
        _array_difference(got, wanted, tolerance, name)
    elif isinstance(wanted, (list, tuple)):
        if not isinstance(got, (list, tuple)):
            raise Wrong(f"{name} must be a {type(wanted).__name__}, got {kind(got)}")
        for i, (one, other) in enumerate(zip(got, wanted, strict=False)):
            difference(one, other, tolerance, f"{name}[{i}]")
        if len(got) != len(wanted):
            raise Wrong(f"{name} must have {len(wanted)} elements, got {len(got)}")
    elif isinstance(wanted, dict):
        if not isinstance(got, dict) or got.keys() != wanted.keys():
            raise Wrong(f"{name} must have the keys {', '.join(map(str, wanted))}, got {kind(got)}")
        for key, other in wanted.items():
            difference(got[key], other, tolerance, key)
    elif got != wanted:
        raise Wrong(f"{name} must be {wanted!r}, got {kind(got) if got is None else repr(got)}")


def _array_difference(got: Any, wanted: np.ndarray, tolerance: float, name: str) -> None:
    values = np.asarray(got)
    if values.dtype == object or values.shape != wanted.shape:
        found = kind(got) if values.dtype == object else f"shape {values.shape}"
        raise Wrong(f"{name} must be an array of shape {wanted.shape}, got {found}")
    wrong = ~((values == wanted) | (abs(values - wanted) <= tolerance))
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        place = f"{name}[{', '.join(map(str, index))}]"
        raise Wrong(f"{place} must be {wanted[index]:.6g}, got {values[index]:.6g}")


def kind(x: Any) -> str:
    """Name the type of a value, as in ``nothing (is there a return?)`` for None."""
    return "nothing (is there a return?)" if x is None else type(x).__name__


Trial = KernelTrial | ValueTrial


def kernel_trials(op: str, adapt: Callable[[Function], Function], cases: Mapping[str, Any], **how: Any) -> list[Trial]:
    """Make trials of an op from ``title -> arguments of the case factory``; `how` goes to `KernelTrial`."""
    if op not in spec.OPS:
        raise ValueError(f"[kernel_trials] 'op' must be an op, got '{op}'")
    return [KernelTrial(title, testing.make(op, **sizes), adapt, **how) for title, sizes in cases.items()]


def variants(mistake: Function, **values: Any) -> list[Function]:
    """Return a mistake once for each value of a keyword, with the same name and docstring.

    A learner chooses the size of a tile, for example, and the results of a lost tail depend on it.
    """
    ((keyword, choices),) = values.items()
    return [wraps(mistake)(partial(mistake, **{keyword: choice})) for choice in choices]
