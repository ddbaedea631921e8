"""Modules and their parameters; all parameters of a model live in one arena.

A module declares parameters with a shape and an initialisation. `Module.initialise` then lays all of them out in one
contiguous array, those with weight decay first, so that an optimizer step is one pass and a copy is one call.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from tinygpt import ops
from tinygpt.packed import KINDS, PackedWeight, aligned_zeros, check_kind, packed_size
from tinygpt.tensor import Tensor

ALIGN = 16  # floats: every parameter starts on a cache line, and no two share one


class Arena:
    """One array for all parameters of a model, and one of the same layout for their gradients.

    Parameters
    ----------
    size : int
        Floats.
    """

    def __init__(self, size: int):
        self.data = self._aligned(size)
        self._grad: np.ndarray | None = None

    @property
    def grad(self) -> np.ndarray:
        """The gradients; allocated at the first use, as inference needs none. Untouched pages cost no memory."""
        if self._grad is None:
            self._grad = self._aligned(len(self.data))
        return self._grad

    def __getstate__(self) -> np.ndarray:
        """The values alone: gradients are not copied and not written to files."""
        return self.data

    def __setstate__(self, data: np.ndarray) -> None:
        Arena.__init__(self, len(data))  # so that the copy starts on a cache line too
        self.data[...] = data

    @staticmethod
    def _aligned(size: int) -> np.ndarray:
        memory = np.zeros(size + ALIGN, np.float32)
        start = -(memory.ctypes.data // 4) % ALIGN
        return memory[start : start + size]


class Parameter(Tensor):
    """A trained tensor: a view into an arena, with a place of its own for the gradient.

    Parameters
    ----------
    shape : tuple of int
    std : float
        Initial values are drawn from N(0, std^2); 0 gives the constant `mean`.
    mean : float
    decay : bool
        Whether weight decay applies.

    Notes
    -----
    Assigning `data` copies into the arena. `grad` is None while it is stale, after `zero_grad`: the first gradient then
    overwrites what is there, later ones are added.

    A copy (`copy.deepcopy`, `pickle`) of a model has an arena of its own; its gradients are stale.
    """

    __slots__ = ("_arena", "decay", "fresh", "mean", "start", "std")

    def __init__(self, shape: tuple[int, ...], std: float = 0.0, mean: float = 0.0, decay: bool = True):
        super().__init__(np.empty(0, np.float32), requires_grad=True)
        self._data = _no_memory(shape, mean)
        self.std, self.mean, self.decay = std, mean, decay
        self._arena: Arena | None = None
        self.start = 0
        self.fresh = False

    def place(self, arena: Arena, start: int, rng: np.random.Generator | None) -> None:
        """Move into an arena and draw the initial values; without a generator they are what the arena holds."""
        shape = self._data.shape
        self._arena, self.start = arena, start
        flat = arena.data[start : start + math.prod(shape)]
        if rng is not None and self.std:
            rng.standard_normal(out=flat, dtype=np.float32)
            flat *= np.float32(self.std)
        if rng is not None:
            flat += np.float32(self.mean)
        self._data = flat.reshape(shape)
        self.fresh = False

    def __getstate__(self) -> tuple:
        """Everything but the values, which the arena has, and the gradient."""
        return self.shape, self.std, self.mean, self.decay, self.requires_grad, self._arena, self.start

    def __setstate__(self, state: tuple) -> None:
        shape, std, mean, decay, requires_grad, arena, start = state
        Parameter.__init__(self, shape, std, mean, decay)
        self.requires_grad, self._arena, self.start = requires_grad, arena, start
        if arena is not None:  # all parameters of a copied model get the same copy of its arena
            self._data = arena.data[start : start + math.prod(shape)].reshape(shape)

    @property
    def data(self) -> np.ndarray:
        """The values, a view into the arena."""
        if self._arena is None:
            raise _unplaced()
        return self._data

    @data.setter
    def data(self, value: np.ndarray) -> None:
        value = np.asarray(value)
        if value.shape != self.shape:
            raise ValueError(f"[Parameter] 'data' must have shape {self.shape}, got {value.shape}")
        self.arena.data[self.start : self.start + value.size] = value.reshape(-1)

    @property
    def grad(self) -> np.ndarray | None:
        """The gradient, a view into the arena; None while it is stale."""
        return self._slot() if self.fresh else None

    @property
    def placed(self) -> bool:
        """Whether the parameter has its memory."""
        return self._arena is not None

    @property
    def arena(self) -> Arena:
        """The arena that holds this parameter; RuntimeError before `Module.initialise`."""
        if self._arena is None:
            raise _unplaced()
        return self._arena

    def _slot(self) -> np.ndarray:
        return self.arena.grad[self.start : self.start + self._data.size].reshape(self._data.shape)

    def grad_buffer(self) -> tuple[np.ndarray, bool]:
        """The place of the gradient, and whether it already holds one to add to."""
        slot, add = self._slot(), self.fresh
        self.fresh = True
        return slot, add

    def receive(self, grad: np.ndarray) -> None:
        """Take a gradient that was computed elsewhere."""
        if self.requires_grad:
            slot, add = self.grad_buffer()
            if add:
                slot += grad
            else:
                slot[...] = grad

    def take_grad(self) -> np.ndarray | None:
        """Nothing to take: the gradient stays where it is."""
        return None

    def zero_grad(self) -> None:
        """Mark the gradient stale; nothing is written."""
        self.fresh = False


def _no_memory(shape: tuple[int, ...], mean: float) -> np.ndarray:
    """What stands for the values of a parameter outside an arena: the right shape, and no memory."""
    return np.empty(shape, np.float32) if math.prod(shape) == 0 else np.broadcast_to(np.float32(mean), shape)


def _unplaced() -> RuntimeError:
    return RuntimeError("[Parameter] call initialise() on the module first: it gives parameters their memory")


class Module:
    """Something with parameters: attributes that are parameters, modules, or lists of modules."""

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """Every parameter once, with its dotted name, in the order of definition."""
        seen = set()
        for name, parameter in self._walk(prefix):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield name, parameter

    def _walk(self, prefix: str) -> Iterator[tuple[str, Parameter]]:
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield f"{prefix}{name}", value
            elif isinstance(value, Module):
                yield from value._walk(f"{prefix}{name}.")
            elif isinstance(value, list):
                for i, item in enumerate(value):
                    if isinstance(item, Module):
                        yield from item._walk(f"{prefix}{name}.{i}.")

    def named_packed(self, prefix: str = "") -> Iterator[tuple[str, PackedWeight]]:
        """Every packed weight once, with its dotted name; they are no parameters."""
        seen = set()
        for name, module in self._modules(prefix):
            for key, value in vars(module).items():
                if isinstance(value, PackedWeight) and id(value) not in seen:
                    seen.add(id(value))
                    yield f"{name}{key}", value

    def _modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """The module itself and all inside it, each with the prefix of its names."""
        yield prefix, self
        for name, value in vars(self).items():
            for key, item in enumerate(value) if isinstance(value, list) else ((None, value),):
                if isinstance(item, Module):
                    yield from item._modules(f"{prefix}{name}." if key is None else f"{prefix}{name}.{key}.")

    def pack(self, kind: str, keep: Iterable[Module | None] = (), values: bool = True) -> None:
        """Keep the weights of all products and tables as numbers of 16 or 8 bits; nothing here can be trained after it.

        Parameters
        ----------
        kind : str
            ``bfloat16`` or ``int8``.
        keep : iterable of Module
            Their weights stay float32.
        values : bool
            Take the values along. Otherwise they are all 0, for a reader of files, and no float32 is touched.

        Raises
        ------
        ValueError
            Another kind, or a value is out of its range.
        """
        check_kind("pack", "kind", kind, KINDS[1:])
        kept = {id(module) for module in keep}
        chosen = {id(module): module for _, module in self._modules() if isinstance(module, (Linear, Embedding))}
        modules = [m for key, m in chosen.items() if key not in kept and isinstance(m.weight, Parameter)]
        # All in one piece, as parameters are: the system gives large pages to what is large.
        sizes = [packed_size(module.weight.shape, kind) for module in modules]
        memory, start = aligned_zeros(sum(sizes)), 0
        for module, size in zip(modules, sizes, strict=True):
            weight = module.weight
            packed = PackedWeight(weight.shape, kind, memory[start : start + size])
            start += size
            if values:
                packed.pack(weight.data)
            vars(module)["weight"] = packed  # declared a Parameter, as it is for whoever trains
        rest = self.parameters()
        held = [parameter.data.copy() if values else None for parameter in rest]
        self.initialise(None)  # an arena without those that were packed: the old one is freed
        for parameter, data in zip(rest, held, strict=True):
            parameter.requires_grad = False
            if data is not None:
                parameter.data = data

    def parameters(self) -> list[Parameter]:
        """Every parameter once."""
        return [parameter for _, parameter in self.named_parameters()]

    def num_parameters(self) -> int:
        """The number of values; a tied weight counts once, a packed one as if it were not."""
        shapes = [parameter.shape for parameter in self.parameters()] + [held.shape for _, held in self.named_packed()]
        return sum(math.prod(shape) for shape in shapes)

    def zero_grad(self) -> None:
        """Mark all gradients stale."""
        for parameter in self.parameters():
            parameter.zero_grad()

    def initialise(self, seed: int | None = 0) -> Module:
        """Give all parameters their memory, decayed ones first, and their initial values.

        Parameters
        ----------
        seed : int or None
            Every parameter draws from a generator of its own, by (seed, its place in `named_parameters`). None: all
            values are 0 and their memory is not touched.

        Raises
        ------
        ValueError
            The seed is negative.
        """
        if seed is not None and seed < 0:
            raise ValueError(f"[initialise] 'seed' must be 0 or more, got {seed}")
        parameters = self.parameters()
        starts, end = {}, 0
        for parameter in sorted(parameters, key=lambda p: not p.decay):
            starts[id(parameter)] = end
            end += -(-math.prod(parameter.shape) // ALIGN) * ALIGN
        arena = Arena(end)
        for i, parameter in enumerate(parameters):
            parameter.place(arena, starts[id(parameter)], None if seed is None else np.random.default_rng([seed, i]))
        return self


class Linear(Module):
    """y = x W^T + b.

    Parameters
    ----------
    n_in, n_out : int
        Widths; the weight has shape (n_out, n_in).
    bias : bool
    std : float
        Of the initial weights.
    """

    def __init__(self, n_in: int, n_out: int, bias: bool = True, std: float = 0.02):
        self.weight = Parameter((n_out, n_in), std=std)
        self.bias = Parameter((n_out,), decay=False) if bias else None

    def __call__(self, x: Tensor, residual: Tensor | None = None, activation: str = "none") -> Tensor:
        """activation(x W^T + b) + residual, (..., n_in) to (..., n_out)."""
        return ops.linear(x, self.weight, self.bias, residual, activation)


class LayerNorm(Module):
    """Layer normalisation over the last axis of width `width`."""

    def __init__(self, width: int, bias: bool = True, eps: float = 1e-5):
        self.weight = Parameter((width,), mean=1.0, decay=False)
        self.bias = Parameter((width,), decay=False) if bias else None
        self.eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise (..., width)."""
        return ops.layernorm(x, self.weight, self.bias, self.eps)


class RMSNorm(Module):
    """Root-mean-square normalisation over the last axis of width `width`."""

    def __init__(self, width: int, eps: float = 1e-5):
        self.weight = Parameter((width,), mean=1.0, decay=False)
        self.eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise (..., width)."""
        return ops.rmsnorm(x, self.weight, self.eps)


class Embedding(Module):
    """A table with one row of `width` per token."""

    def __init__(self, count: int, width: int, std: float = 0.02):
        self.weight = Parameter((count, width), std=std)
