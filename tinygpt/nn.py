"""Modules and parameters; all parameters of a model share one contiguous array, the arena.

A module declares each parameter with a shape and an initialisation. `Module.initialise` then places all of them in one
arena, those with weight decay first, so that an optimizer step is one pass over memory and a copy is one call.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from tinygpt import ops
from tinygpt.packed import KINDS, PackedWeight, aligned_zeros, check_kind, packed_size
from tinygpt.tensor import Tensor

ALIGN = 16  # floats, one cache line: every parameter starts on one, and no two share one


class Arena:
    """One array for all parameters of a model, and one with the same layout for their gradients.

    Parameters
    ----------
    size : int
        Length in floats.
    """

    def __init__(self, size: int):
        self.data = self._aligned(size)
        self._grad: np.ndarray | None = None

    @property
    def grad(self) -> np.ndarray:
        """Gradients; allocated on first use, because inference needs none. Untouched pages cost no memory."""
        if self._grad is None:
            self._grad = self._aligned(len(self.data))
        return self._grad

    def __getstate__(self) -> np.ndarray:
        """Return the values alone: gradients are neither copied nor pickled."""
        return self.data

    def __setstate__(self, data: np.ndarray) -> None:
        Arena.__init__(self, len(data))  # not a plain copy, which might not start on a cache line
        self.data[...] = data

    @staticmethod
    def _aligned(size: int) -> np.ndarray:
        memory = np.zeros(size + ALIGN, np.float32)
        start = -(memory.ctypes.data // 4) % ALIGN
        return memory[start : start + size]


class Parameter(Tensor):
    """A trainable tensor: a view into an arena, which also has a place for its gradient.

    Parameters
    ----------
    shape : tuple of int
    std : float
        Standard deviation of the initial values, drawn from N(mean, std^2); 0 gives the constant `mean`.
    mean : float
        Mean of the initial values.
    decay : bool
        Whether weight decay applies to it.

    Notes
    -----
    Assigning `data` copies into the arena. After `zero_grad`, the gradient is stale: `grad` is None, the next gradient
    overwrites the memory, and later ones are added.

    A copy of a model (`copy.deepcopy`, `pickle`) has its own arena; its gradients are stale.
    """

    __slots__ = ("_arena", "_slot_view", "decay", "fresh", "mean", "start", "std")

    def __init__(self, shape: tuple[int, ...], std: float = 0.0, mean: float = 0.0, decay: bool = True):
        super().__init__(np.empty(0, np.float32), requires_grad=True)
        self._data = _no_memory(shape, mean)
        self.std, self.mean, self.decay = std, mean, decay
        self._arena: Arena | None = None
        self._slot_view: np.ndarray | None = None  # view of the gradient, made once because small models need it often
        self.start = 0
        self.fresh = False

    def place(self, arena: Arena, start: int, rng: np.random.Generator | None) -> None:
        """Move into an arena and draw the initial values; without a generator, keep those of the arena."""
        shape = self._data.shape
        self._arena, self.start, self._slot_view = arena, start, None
        flat = arena.data[start : start + math.prod(shape)]
        if rng is not None and self.std:
            rng.standard_normal(out=flat, dtype=np.float32)
            flat *= np.float32(self.std)
        if rng is not None:
            flat += np.float32(self.mean)
        self._data = flat.reshape(shape)
        self.fresh = False

    def __getstate__(self) -> tuple:
        """Return everything but the values, which the arena holds, and the gradient."""
        return self.shape, self.std, self.mean, self.decay, self.requires_grad, self._arena, self.start

    def __setstate__(self, state: tuple) -> None:
        shape, std, mean, decay, requires_grad, arena, start = state
        Parameter.__init__(self, shape, std, mean, decay)
        self.requires_grad, self._arena, self.start = requires_grad, arena, start
        if arena is not None:  # copying and pickling keep one arena for all parameters of a model
            self._data = arena.data[start : start + math.prod(shape)].reshape(shape)

    @property
    def data(self) -> np.ndarray:
        """Values, a view into the arena."""
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
        """Gradient, a view into the arena; None while it is stale."""
        return self._slot() if self.fresh else None

    @property
    def placed(self) -> bool:
        """True if the parameter was placed in an arena."""
        return self._arena is not None

    @property
    def arena(self) -> Arena:
        """Arena that holds this parameter; RuntimeError before `Module.initialise`."""
        if self._arena is None:
            raise _unplaced()
        return self._arena

    def _slot(self) -> np.ndarray:
        if self._slot_view is None:
            part = self.arena.grad[self.start : self.start + self._data.size]
            self._slot_view = part.reshape(self._data.shape)
        return self._slot_view

    def grad_buffer(self) -> tuple[np.ndarray, bool]:
        """Return the memory of the gradient, and whether a kernel must add to it."""
        slot, add = self._slot(), self.fresh
        self.fresh = True
        return slot, add

    def receive(self, grad: np.ndarray) -> None:
        """Accumulate a gradient that an operation computed into an array of its own."""
        if self.requires_grad:
            slot, add = self.grad_buffer()
            if add:
                slot += grad
            else:
                slot[...] = grad

    def take_grad(self) -> np.ndarray | None:
        """Return None: the gradient of a parameter stays in the arena."""
        return None

    def zero_grad(self) -> None:
        """Mark the gradient stale, without writing to it."""
        self.fresh = False


def _no_memory(shape: tuple[int, ...], mean: float) -> np.ndarray:
    """Return a stand-in for the values of a parameter outside an arena: the right shape without memory."""
    return np.empty(shape, np.float32) if math.prod(shape) == 0 else np.broadcast_to(np.float32(mean), shape)


def _unplaced() -> RuntimeError:
    return RuntimeError("[Parameter] call initialise() on the module first, because it allocates the parameters")


class Module:
    """Base class of layers and models; its attributes may be parameters, modules and lists of modules."""

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """Yield every parameter once, with its dotted name, in order of definition."""
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
        """Yield every packed weight once, with its dotted name; packed weights are not parameters."""
        seen = set()
        for name, module in self._modules(prefix):
            for key, value in vars(module).items():
                if isinstance(value, PackedWeight) and id(value) not in seen:
                    seen.add(id(value))
                    yield f"{name}{key}", value

    def _modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Yield this module and all modules inside it, each with the prefix of its parameter names."""
        yield prefix, self
        for name, value in vars(self).items():
            for key, item in enumerate(value) if isinstance(value, list) else ((None, value),):
                if isinstance(item, Module):
                    yield from item._modules(f"{prefix}{name}." if key is None else f"{prefix}{name}.{key}.")

    def pack(self, kind: str, keep: Iterable[Module | None] = (), values: bool = True) -> None:
        """Convert the weights of all linear layers and embeddings to 16 or 8 bits; the module cannot be trained after.

        Parameters
        ----------
        kind : str
            ``bfloat16`` or ``int8``.
        keep : iterable of Module
            Modules whose weights stay float32.
        values : bool
            Convert the current values. False leaves all of them 0, for loading a file without float32 memory.

        Raises
        ------
        ValueError
            The kind is unknown, or a value is outside its range.
        """
        check_kind("pack", "kind", kind, KINDS[1:])
        kept = {id(module) for module in keep}
        chosen = {id(module): module for _, module in self._modules() if isinstance(module, (Linear, Embedding))}
        modules = [m for key, m in chosen.items() if key not in kept and isinstance(m.weight, Parameter)]
        # One allocation for all, because the system gives large pages to large allocations.
        sizes = [packed_size(module.weight.shape, kind) for module in modules]
        memory, start = aligned_zeros(sum(sizes)), 0
        for module, size in zip(modules, sizes, strict=True):
            weight = module.weight
            packed = PackedWeight(weight.shape, kind, memory[start : start + size])
            start += size
            if values:
                packed.pack(weight.data)
            vars(module)["weight"] = packed  # through vars, because the attribute is declared as Parameter
        rest = self.parameters()
        held = [parameter.data.copy() if values else None for parameter in rest]
        self.initialise(None)  # a smaller arena, without the packed weights; frees the old one
        for parameter, data in zip(rest, held, strict=True):
            parameter.requires_grad = False
            if data is not None:
                parameter.data = data

    def parameters(self) -> list[Parameter]:
        """Return every parameter once, in order of definition."""
        return [parameter for _, parameter in self.named_parameters()]

    def num_parameters(self) -> int:
        """Count the values; a tied weight counts once, and packed weights count too."""
        shapes = [parameter.shape for parameter in self.parameters()] + [held.shape for _, held in self.named_packed()]
        return sum(math.prod(shape) for shape in shapes)

    def zero_grad(self) -> None:
        """Mark the gradients of all parameters stale."""
        for parameter in self.parameters():
            parameter.zero_grad()

    def initialise(self, seed: int | None = 0) -> Module:
        """Allocate all parameters in one arena, decayed ones first, and set their initial values.

        Parameters
        ----------
        seed : int or None
            Seed of the initial values. Each parameter has its own generator, seeded by (seed, index in
            `named_parameters`). None leaves all values 0 and their memory untouched.

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
    """A linear layer, y = x W^T + b.

    Parameters
    ----------
    n_in, n_out : int
        Widths of input and output; the weight has shape (n_out, n_in).
    bias : bool
        Whether to add b.
    std : float
        Standard deviation of the initial weights.
    """

    def __init__(self, n_in: int, n_out: int, bias: bool = True, std: float = 0.02):
        self.weight = Parameter((n_out, n_in), std=std)
        self.bias = Parameter((n_out,), decay=False) if bias else None

    def __call__(self, x: Tensor, residual: Tensor | None = None, activation: str = "none") -> Tensor:
        """Compute activation(x W^T + b) + residual, (..., n_in) to (..., n_out)."""
        return ops.linear(x, self.weight, self.bias, residual, activation)


class LayerNorm(Module):
    """Layer normalisation over the last axis, of width `width`."""

    def __init__(self, width: int, bias: bool = True, eps: float = 1e-5):
        self.weight = Parameter((width,), mean=1.0, decay=False)
        self.bias = Parameter((width,), decay=False) if bias else None
        self.eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise (..., width)."""
        return ops.layernorm(x, self.weight, self.bias, self.eps)


class RMSNorm(Module):
    """Root-mean-square normalisation over the last axis, of width `width`."""

    def __init__(self, width: int, eps: float = 1e-5):
        self.weight = Parameter((width,), mean=1.0, decay=False)
        self.eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise (..., width)."""
        return ops.rmsnorm(x, self.weight, self.eps)


class Embedding(Module):
    """An embedding table: one row of length `width` for each of `count` tokens or positions."""

    def __init__(self, count: int, width: int, std: float = 0.02):
        self.weight = Parameter((count, width), std=std)
