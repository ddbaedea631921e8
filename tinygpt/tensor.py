"""A tensor that remembers how it was made, and the walk back that turns this into gradients.

An operation computes its value with a kernel and leaves a closure behind: given the gradient of its result, it hands
gradients to its parents. `Tensor.backward` calls the closures in the reverse of the order in which the tensors were
made, which is always an order in which every gradient is complete before it is passed on.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinygpt import memory
from tinygpt.kernels import registry, threads

Backward = Callable[[np.ndarray], None]

_serial = itertools.count()


class _Tape(threading.local):
    """Whether this thread records: `no_grad` in one thread leaves the others alone."""

    recording = True


_tape = _Tape()


@contextmanager
def no_grad() -> Iterator[None]:
    """Operations inside remember nothing, so nothing can be differentiated and no activation is kept.

    It holds for the thread that enters it.
    """
    before, _tape.recording = _tape.recording, False
    try:
        yield
    finally:
        _tape.recording = before


@contextmanager
def recording() -> Iterator[None]:
    """The opposite of `no_grad`, which it may stand inside: operations are recorded again in this thread."""
    before, _tape.recording = _tape.recording, True
    try:
        yield
    finally:
        _tape.recording = before


def is_recording() -> bool:
    """Whether operations remember how their results were made."""
    return _tape.recording


def _freed(_: np.ndarray) -> None:
    """Stands where a closure has run."""
    raise RuntimeError("[backward] this graph was freed by an earlier backward: compute the value again")


class Tensor:
    """A float32 array with a gradient.

    Parameters
    ----------
    data : array_like
        Floating-point arrays and numbers become float32, C-contiguous; integers and other types are refused.
    requires_grad : bool
        Collect a gradient in `grad`.

    Attributes
    ----------
    data : array, float32
    grad : array of the same shape, or None
        Kept on tensors made by the user; those of intermediate results are dropped as soon as they were passed on.
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
        """The result of an operation; `backward` is kept only while recording and if a parent wants a gradient."""
        out = Tensor.__new__(Tensor)
        out._data = data
        out._grad = None
        out._owns_grad = False
        out._serial = next(_serial)
        wanted = tuple(p for p in parents if p is not None and p.requires_grad) if _tape.recording else ()
        out.requires_grad = bool(wanted)
        out._parents = wanted
        out._backward = backward if wanted else None
        return out

    @classmethod
    def plain(cls, data: np.ndarray) -> Tensor:
        """The result of an operation that is not recorded: a value and nothing else."""
        out = Tensor.__new__(Tensor)
        out._data, out._grad, out._owns_grad = data, None, False
        out._parents, out._backward, out.requires_grad = (), None, False
        out._serial = 0  # it stands in no graph, so its place in the order does not matter
        return out

    @property
    def data(self) -> np.ndarray:
        """The values."""
        return self._data

    @data.setter
    def data(self, value: np.ndarray) -> None:
        self._data = np.asarray(value).astype(np.float32, order="C", copy=False)

    @property
    def grad(self) -> np.ndarray | None:
        """The gradient that has arrived so far."""
        return self._grad

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of `data`."""
        return self._data.shape

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.shape}, requires_grad={self.requires_grad})"

    def __add__(self, other: Tensor) -> Tensor:
        """The sum of two tensors of one shape; both receive the same gradient, by reference."""
        if not isinstance(other, Tensor):
            return NotImplemented
        if self.shape != other.shape:
            raise ValueError(f"[add] 'b' must have the shape of 'a' {self.shape}, got {other.shape}")
        out = memory.empty(self.shape)
        n_threads = threads.for_work(out.size)
        registry.active.add(self.data.reshape(-1), other.data.reshape(-1), out.reshape(-1), n_threads)

        def backward(dy: np.ndarray) -> None:
            self.receive(dy)
            other.receive(dy)

        return Tensor.from_op(out, (self, other), backward)

    def item(self) -> float:
        """The value of a tensor with one element."""
        return float(self._data.item())

    def receive(self, grad: np.ndarray) -> None:
        """Take a gradient of the shape of `data` that has arrived from one use of this tensor.

        The first is kept by reference, as the same array may have gone to another parent too. The second makes a new
        array; from then on the tensor owns its gradient and adds to it.
        """
        if not self.requires_grad:
            return
        if self._grad is None:
            self._grad = grad
        elif self._owns_grad:
            self._grad += grad
        else:
            out = memory.empty(self._data.shape)
            n = threads.for_work(out.size)
            registry.active.add(self._grad.reshape(-1), grad.reshape(-1), out.reshape(-1), n)
            self._grad, self._owns_grad = out, True

    def take_grad(self) -> np.ndarray | None:
        """Remove and return the gradient that has arrived: for an op that adds it inside its own kernel."""
        grad, self._grad, self._owns_grad = self._grad, None, False
        return grad

    def grad_buffer(self) -> tuple[np.ndarray, bool]:
        """An array for a kernel to put a gradient into, and whether it must add to what is there."""
        if self._grad is None:
            self._grad, self._owns_grad = np.empty(self._data.shape, np.float32), True
            return self._grad, False
        if not self._owns_grad:
            self._grad, self._owns_grad = self._grad.copy(), True
        return self._grad, True

    def zero_grad(self) -> None:
        """Drop the gradient that has arrived."""
        self._grad, self._owns_grad = None, False

    def backward(self, grad: np.ndarray | float | None = None) -> None:
        """Compute the gradients of everything that this tensor was made from.

        The graph is freed on the way: every closure, and with it the activations it holds, goes once it has run.

        Parameters
        ----------
        grad : array or float, optional
            The gradient of some final value with respect to this tensor; 1 for a tensor with one element.

        Raises
        ------
        ValueError
            No `grad` is given for a tensor with more than one element, or it has another shape.
        RuntimeError
            Nothing here wants a gradient, or the graph was freed already.

        Notes
        -----
        An exception on the way, an interrupt too, leaves no half-written gradient: whatever this tensor was made from
        has none then, also none of earlier calls, and the graph is of no use any more.
        """
        if not self.requires_grad:
            raise RuntimeError("[backward] no gradient is wanted: nothing this was made from has requires_grad")
        if grad is None and self._data.size != 1:
            raise ValueError(f"[backward] 'grad' must be given for a tensor of shape {self.shape}")
        seed = np.asarray(1.0 if grad is None else grad, np.float32)
        if seed.ndim and seed.shape != self.shape:
            raise ValueError(f"[backward] 'grad' must have shape {self.shape}, got {seed.shape}")
        nodes, leaves = self._made_from()
        if any(node._backward is _freed for node in nodes):  # before any gradient is touched
            _freed(seed)
        try:
            self.receive(np.array(np.broadcast_to(seed, self.shape), order="C"))
            while nodes:  # pop, so that a node whose closure has run can be freed while the walk goes on
                node = nodes.pop()
                backward, arrived = node._backward, node.take_grad()
                node._backward, node._parents = _freed, ()
                if arrived is not None and backward is not None:
                    backward(arrived)
        except BaseException:  # gradients that are whole and those that are not look the same: none stays
            for tensor in (*nodes, *leaves):
                tensor.zero_grad()
            raise

    def _made_from(self) -> tuple[list[Tensor], list[Tensor]]:
        """Every tensor that leads to this one, itself included: those with a closure, oldest first, and the leaves."""
        found, stack = {id(self): self}, [self]
        while stack:
            for parent in stack.pop()._parents:
                if id(parent) not in found:
                    found[id(parent)] = parent
                    stack.append(parent)
        nodes = [tensor for tensor in found.values() if tensor._backward is not None]
        leaves = [tensor for tensor in found.values() if tensor._backward is None]
        return sorted(nodes, key=lambda node: node._serial), leaves
