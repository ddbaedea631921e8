"""Reverse-mode automatic differentiation: tensors, the tape that links them, and `backward`.

An operation computes its value with a kernel and records a closure. Given the gradient of the result, the closure
passes gradients to the parents. `Tensor.backward` calls the closures in the reverse order of creation, so that every
gradient is complete before it propagates further.

The tape has one setting per thread for recording (`no_grad`) and one for tracing (`traced_by`).
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from operator import attrgetter
from typing import Any, ParamSpec, Protocol

import numpy as np

from tinygpt import memory
from tinygpt.kernels import registry, threads
from tinygpt.kernels.spec import WORK

Backward = Callable[[np.ndarray], None]
Complete = Callable[["Tensor"], None]
Args = ParamSpec("Args")

_serial = itertools.count()
_by_age = attrgetter("_serial")


class Tracer(Protocol):
    """An object that runs operations in place of a direct call, for example to record their values."""

    def run(self, op: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Return the result of ``op(*args, **kwargs)``; `op` itself is not traced."""


class _Tape(threading.local):
    """The settings of one thread: `no_grad` or a trace in one thread does not affect the others."""

    recording = True
    tracer: Tracer | None = None


_tape = _Tape()


def traced(op: Callable[Args, Tensor]) -> Callable[Args, Tensor]:
    """Decorate an operation so that the tracer of this thread, if there is one, runs it."""

    @wraps(op)
    def call(*args: Args.args, **kwargs: Args.kwargs) -> Tensor:
        tracer = _tape.tracer
        return op(*args, **kwargs) if tracer is None else tracer.run(op, *args, **kwargs)

    return call


@contextmanager
def traced_by(tracer: Tracer | None) -> Iterator[None]:
    """Let `tracer` run every operation of this thread inside the ``with`` statement; None suspends tracing."""
    before, _tape.tracer = _tape.tracer, tracer
    try:
        yield
    finally:
        _tape.tracer = before


def is_traced() -> bool:
    """Tell whether a tracer runs the operations of this thread."""
    return _tape.tracer is not None


@contextmanager
def no_grad() -> Iterator[None]:
    """Record nothing in this thread: results have no gradient, and no activation is kept for backward."""
    before, _tape.recording = _tape.recording, False
    try:
        yield
    finally:
        _tape.recording = before


@contextmanager
def recording() -> Iterator[None]:
    """Record operations in this thread again, also inside `no_grad`."""
    before, _tape.recording = _tape.recording, True
    try:
        yield
    finally:
        _tape.recording = before


def is_recording() -> bool:
    """Tell whether operations of this thread are recorded for backward."""
    return _tape.recording


def _freed(_: np.ndarray) -> None:
    """Replace the closure of a node whose gradient was already propagated."""
    raise RuntimeError("[backward] the graph was already freed by an earlier backward(); run the forward pass again")


class Tensor:
    """A float32 array with a gradient.

    Parameters
    ----------
    data : array_like
        Floating-point values; converted to a C-contiguous float32 array. Integers and other types raise TypeError.
    requires_grad : bool
        Whether `backward` computes a gradient for this tensor.

    Attributes
    ----------
    data : array, float32
    grad : array of the same shape, or None
        Gradient accumulated so far. Intermediate results lose theirs as soon as it was propagated to their parents.
    """

    __slots__ = ("__weakref__", "_backward", "_data", "_grad", "_owns_grad", "_parents", "_serial", "requires_grad")

    def __init__(self, data: Any, requires_grad: bool = False):
        array = np.asarray(data)
        if array.dtype.kind != "f":
            raise TypeError(f"[Tensor] 'data' must be floating-point, got {array.dtype}")
        self._data = array.astype(np.float32, order="C", copy=False)
        self.requires_grad = requires_grad
        self._grad: np.ndarray | None = None
        self._owns_grad = False
        self._parents: tuple[Tensor, ...] = ()
        self._backward: Backward | None = None
        self._serial = next(_serial)

    @classmethod
    def from_op(cls, data: np.ndarray, parents: tuple[Tensor | None, ...], backward: Backward) -> Tensor:
        """Make the result of an operation; keep `backward` only while recording and if a parent requires a gradient."""
        out = Tensor.__new__(Tensor)
        out._data = data
        out._grad = None
        out._owns_grad = False
        out._serial = next(_serial)
        # A list, because a generator would cost more than the loop, and small models make many operations.
        wanted = tuple([p for p in parents if p is not None and p.requires_grad]) if _tape.recording else ()
        out.requires_grad = bool(wanted)
        out._parents = wanted
        out._backward = backward if wanted else None
        return out

    @classmethod
    def plain(cls, data: np.ndarray) -> Tensor:
        """Make the result of an operation that is not recorded: a value without parents or closure."""
        out = Tensor.__new__(Tensor)
        out._data, out._grad, out._owns_grad = data, None, False
        out._parents, out._backward, out.requires_grad = (), None, False
        out._serial = 0  # only tensors with a closure are ordered
        return out

    @property
    def data(self) -> np.ndarray:
        """Values, float32."""
        return self._data

    @data.setter
    def data(self, value: np.ndarray) -> None:
        self._data = np.asarray(value).astype(np.float32, order="C", copy=False)

    @property
    def grad(self) -> np.ndarray | None:
        """Gradient accumulated so far; None if there is none."""
        return self._grad

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of `data`."""
        return self._data.shape

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.shape}, requires_grad={self.requires_grad})"

    def __add__(self, other: Tensor) -> Tensor:
        """Add two tensors of the same shape; both receive the same gradient array."""
        if not isinstance(other, Tensor):
            return NotImplemented
        if self.shape != other.shape:
            raise ValueError(f"[add] 'b' must have the shape of 'a' {self.shape}, got {other.shape}")
        out = _sum(self.data, other.data)

        def backward(dy: np.ndarray) -> None:
            self.receive(dy)
            other.receive(dy)

        return Tensor.from_op(out, (self, other), backward)

    def item(self) -> float:
        """Return the value of a tensor with one element as a Python float."""
        return float(self._data.item())

    def receive(self, grad: np.ndarray) -> None:
        """Accumulate the gradient of one use of this tensor.

        The first gradient is kept by reference and never written to, because the same array may have been passed to
        another parent. The second one makes a new array; after that the tensor owns its gradient and adds in place.
        """
        if not self.requires_grad:
            return
        if self._grad is None:
            self._grad = grad
        elif self._owns_grad:
            self._grad += grad
        else:
            self._grad, self._owns_grad = _sum(self._grad, grad), True

    def take_grad(self) -> np.ndarray | None:
        """Remove and return the gradient so far, for an operation whose kernel adds it."""
        grad, self._grad, self._owns_grad = self._grad, None, False
        return grad

    def grad_buffer(self) -> tuple[np.ndarray, bool]:
        """Return the array for a kernel to write the gradient into, and whether the kernel must add to it."""
        if self._grad is None:
            self._grad, self._owns_grad = np.empty(self._data.shape, np.float32), True
            return self._grad, False
        if not self._owns_grad:
            self._grad, self._owns_grad = self._grad.copy(), True
        return self._grad, True

    def zero_grad(self) -> None:
        """Discard the gradient."""
        self._grad, self._owns_grad = None, False

    def backward(self, grad: np.ndarray | float | None = None, complete: Complete | None = None) -> None:
        """Compute the gradients of all tensors that this one was computed from.

        The graph is freed along the way: each closure is dropped after it ran, together with the activations it holds.

        Parameters
        ----------
        grad : array or float, optional
            Gradient of the final value with respect to this tensor. Default: 1, for a tensor with one element.
        complete : callable, optional
            Called with each leaf of the graph as soon as its gradient is complete, while the pass continues.

        Raises
        ------
        ValueError
            `grad` is missing for a tensor with more than one element, or has another shape.
        RuntimeError
            No tensor of the graph requires a gradient, or the graph was already freed.

        Notes
        -----
        If an exception interrupts the pass, KeyboardInterrupt included, every gradient of the graph is discarded,
        those of earlier calls too, so that no partial gradient can be mistaken for a complete one.
        """
        if not self.requires_grad:
            raise RuntimeError("[backward] no tensor of this graph has requires_grad=True")
        if grad is None and self._data.size != 1:
            raise ValueError(f"[backward] 'grad' must be given for a tensor of shape {self.shape}")
        seed = np.asarray(1.0 if grad is None else grad, np.float32)
        if seed.ndim and seed.shape != self.shape:
            raise ValueError(f"[backward] 'grad' must have shape {self.shape}, got {seed.shape}")
        nodes, leaves = self._graph()  # also refuses a freed graph, before any gradient is touched
        uses = None if complete is None else _uses(nodes)
        try:
            self.receive(seed.copy() if seed.ndim else np.full(self.shape, seed))
            while nodes:  # pop, so that each node can be freed as soon as its closure ran
                node = nodes.pop()
                backward, arrived, parents = node._backward, node.take_grad(), node._parents
                node._backward, node._parents = _freed, ()
                if arrived is not None and backward is not None:
                    backward(arrived)
                if uses is not None and complete is not None:
                    for leaf in _without_uses(parents, uses):
                        complete(leaf)
        except BaseException:  # a partial gradient looks like a complete one, so discard them all
            for tensor in (*nodes, *leaves):
                tensor.zero_grad()
            raise

    def _graph(self) -> tuple[list[Tensor], list[Tensor]]:
        """Collect this tensor and all its ancestors: nodes with a closure in order of creation, and leaves."""
        nodes: list[Tensor] = []
        leaves: list[Tensor] = []
        found, stack = {self}, [self]
        while stack:
            tensor = stack.pop()
            backward = tensor._backward
            if backward is _freed:
                _freed(tensor.data)
            (leaves if backward is None else nodes).append(tensor)
            for parent in tensor._parents:
                if parent not in found:
                    found.add(parent)
                    stack.append(parent)
        nodes.sort(key=_by_age)
        return nodes, leaves


def _uses(nodes: list[Tensor]) -> dict[Tensor, int]:
    """Count for each leaf the nodes that pass it a gradient."""
    uses: dict[Tensor, int] = {}
    for node in nodes:
        for parent in dict.fromkeys(node._parents):
            if parent._backward is None:
                uses[parent] = uses.get(parent, 0) + 1
    return uses


def _without_uses(parents: tuple[Tensor, ...], uses: dict[Tensor, int]) -> Iterator[Tensor]:
    """Count one use less for the leaves among `parents`, and yield those that have none left."""
    for parent in dict.fromkeys(parents):
        if parent in uses:
            uses[parent] -= 1
            if not uses[parent]:
                yield parent


def _sum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Add two arrays of the same shape into a new one."""
    out = memory.empty(a.shape)
    registry.active.add(a.reshape(-1), b.reshape(-1), out.reshape(-1), threads.for_work(WORK["add"] * out.size))
    return out
