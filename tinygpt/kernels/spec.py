"""Specification of every op: its arguments in order, their shapes and dtypes, and the cost of a call.

Argument checks, `tinygpt bench`, the generated stubs and the test of signatures read these records, so that none of
them has a list of its own. Shapes are written in letters: rows R, width C, batch B, time T, heads H, head width D,
vocabulary V, MLP width F, and (M, K) x (K, N) for a product. In attention S is the number of keys and G the number of
key/value heads; in `matmul_int8` S is the number of scales in a row. The arrays of a call give letters their values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

Dims = dict[str, int]

_PRODUCT = re.compile(r"[A-Z]\*[A-Z]")


@dataclass(frozen=True)
class Arg:
    """One argument of a kernel.

    Parameters
    ----------
    name : str
        Name of the parameter in every rung.
    role : str
        ``in``: an array that is only read. ``out``: an array that is written before it is read. ``inout``: an array
        that is updated. ``scalar``: a number.
    shape : str
        Axes as letters or products of letters, for example ``"B*T C"``; empty for a scalar.
    dtype : str
        Dtype of the array.
    optional : bool
        The argument may be None.
    strided : bool
        Only the last axis must be contiguous.
    swapped_by : str
        Name of a flag; if it is true, the two axes of `shape` are in the other order.
    """

    name: str
    role: str
    shape: str = ""
    dtype: str = "float32"
    optional: bool = False
    strided: bool = False
    swapped_by: str = ""

    def axes(self, flags: Mapping[str, Any]) -> list[str]:
        """Return the axes in the order that the flags of a call imply."""
        axes = self.shape.split()
        return axes[::-1] if self.swapped_by and flags.get(self.swapped_by) else axes


@dataclass(frozen=True)
class Op:
    """A kernel: name, arguments in the order of its signature, and floating-point operations of one call."""

    name: str
    args: tuple[Arg, ...]
    flops: Callable[[Dims], int]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the arguments in order; every rung has exactly these parameters."""
        return (*(arg.name for arg in self.args), "n_threads")

    @property
    def module(self) -> str:
        """The compiled module, and file of csrc, that contains the op."""
        return MODULES.get(self.name.removesuffix("_backward"), self.name.removesuffix("_backward"))

    def work(self, dims: Dims) -> int:
        """Return the scalar operations of one call, which decide about the number of threads."""
        if self.name in ("attention", "attention_backward"):
            once = attention_work(dims["B"], dims["H"], dims["T"], dims["S"], dims["D"])
            return once if self.name == "attention" else 2 * once
        if self.name not in WORK:
            return self.flops(dims)
        elements = max(prod(size(axis, dims) for axis in arg.shape.split()) for arg in self.args if arg.name in MEASURE)
        return WORK[self.name] * elements

    def bytes(self, dims: Dims, without: frozenset[str] = frozenset()) -> int:
        """Return the bytes that move between memory and core if no array is in a cache; inout arrays count twice."""
        total = 0
        for arg in self.args:
            if arg.shape and arg.name not in without:
                cells = int(np.prod([size(axis, dims) for axis in arg.shape.split()]))
                total += cells * np.dtype(arg.dtype).itemsize * (2 if arg.role == "inout" else 1)
        return total


def size(axis: str, dims: Dims) -> int:
    """Return the length of an axis such as ``"2*F"``, given the values of its letters."""
    length = 1
    for factor in axis.split("*"):
        length *= int(factor) if factor.isdigit() else dims[factor]
    return length


_ARG = re.compile(r"(?P<role>in|out|inout|scalar) (?P<name>\w+)(?P<optional>\?)?(?P<strided>~)?"
                  r"(?: \[(?P<shape>[^\]]*)\](?P<swapped>\^\w+)?)?(?: (?P<dtype>int32|uint16|int8))?$")  # fmt: skip


def _op(name: str, arguments: str, flops: Callable[[Dims], int]) -> Op:
    """Parse the notation of the table below: ``role name [shape]^flag dtype``, ``?`` optional, ``~`` strided."""
    args = []
    for text in arguments.split(", "):
        found = _ARG.match(text.strip())
        if found is None:
            raise ValueError(f"[{name}] cannot read the argument {text!r}")
        args.append(
            Arg(
                found["name"],
                found["role"],
                found["shape"] or "",
                found["dtype"] or "float32",
                found["optional"] is not None,
                found["strided"] is not None,
                (found["swapped"] or "")[1:],
            )
        )
    return Op(name, tuple(args), flops)


# Ops that share a file with another op; every other op is in csrc/<op>.pyx.
MODULES = {
    "gelu": "activation",
    "swiglu": "activation",
    "add": "activation",
    "dropout": "activation",
    "squared_norm": "adamw",
    "matmul_bfloat16": "packed_matmul",
    "matmul_int8": "packed_matmul",
}

# Scalar operations for each element of the largest array of an op. An exponential, a tanh or a random draw takes
# about ten instructions, so that these numbers may exceed the floating-point operations of the formula. They decide on
# threads; the rates that `bench` prints count the formula alone.
WORK = {
    "column_sum": 1, "softmax": 20, "softmax_backward": 4, "layernorm": 8, "layernorm_backward": 14, "rmsnorm": 5,
    "rmsnorm_backward": 10, "gelu": 20, "gelu_backward": 20, "swiglu": 10, "swiglu_backward": 20, "add": 1,
    "dropout": 10, "cross_entropy": 30, "cross_entropy_backward": 30, "embedding": 1, "embedding_backward": 2,
    "rope": 6, "squared_norm": 2, "adamw": 14,
}  # fmt: skip
MEASURE = ("x", "y", "dy", "a", "logits", "out", "param")  # arguments that may be the largest; tables are not


def matmul_work(M: int, N: int, K: int) -> int:
    """Return the scalar operations of a product (M, K) x (K, N): each term is multiplied and added."""
    return 2 * M * N * K


def attention_work(B: int, H: int, T: int, S: int, D: int) -> int:
    """Return the scalar operations of attention: two products and a softmax for every query and key."""
    return 4 * B * H * T * S * (D + 5)


# fmt: off
_TABLE = [
    _op("matmul", "in a [M K]^trans_a, in b [K N]^trans_b, out out [M N], scalar trans_a, scalar trans_b, "
        "scalar accumulate, in bias? [N], in residual? [M N], scalar activation, out pre? [M N]",
        lambda d: matmul_work(d["M"], d["N"], d["K"])),
    _op("matmul_bfloat16", "in a [M K], in b [N K] uint16, out out [M N], in bias? [N], in residual? [M N], "
        "scalar activation", lambda d: matmul_work(d["M"], d["N"], d["K"])),
    _op("matmul_int8", "in a [M K], in b [N K] int8, in scales [N S] uint16, out out [M N], in bias? [N], "
        "in residual? [M N], scalar activation", lambda d: matmul_work(d["M"], d["N"], d["K"])),
    _op("column_sum", "in x [R C], out out [C], scalar accumulate", lambda d: d["R"] * d["C"]),
    _op("softmax", "in x [R C], out out [R C]", lambda d: 5 * d["R"] * d["C"]),
    _op("softmax_backward", "in dy [R C], in y [R C], out dx [R C]", lambda d: 4 * d["R"] * d["C"]),
    _op("layernorm", "in x [R C], in residual? [R C], in weight [C], in bias? [C], out out [R C], out total? [R C], "
        "out mean [R], out rstd [R], scalar eps", lambda d: 8 * d["R"] * d["C"]),
    _op("layernorm_backward", "in dy [R C], in x [R C], in weight [C], in mean [R], in rstd [R], in dtotal? [R C], "
        "out dx [R C], out dweight [C], out dbias? [C], scalar accumulate", lambda d: 14 * d["R"] * d["C"]),
    _op("rmsnorm", "in x [R C], in residual? [R C], in weight [C], out out [R C], out total? [R C], out rstd [R], "
        "scalar eps", lambda d: 5 * d["R"] * d["C"]),
    _op("rmsnorm_backward", "in dy [R C], in x [R C], in weight [C], in rstd [R], in dtotal? [R C], out dx [R C], "
        "out dweight [C], scalar accumulate", lambda d: 10 * d["R"] * d["C"]),
    _op("gelu", "in x [N], out out [N]", lambda d: 10 * d["N"]),
    _op("gelu_backward", "in dy [N], in x [N], out dx [N]", lambda d: 18 * d["N"]),
    _op("swiglu", "in x [R 2*F], out out [R F]", lambda d: 6 * d["R"] * d["F"]),
    _op("swiglu_backward", "in dy [R F], in x [R 2*F], out dx [R 2*F]", lambda d: 12 * d["R"] * d["F"]),
    _op("add", "in a [N], in b [N], out out [N]", lambda d: d["N"]),
    _op("dropout", "in x [R C], in residual? [R C], out out [R C], scalar rate, scalar key, scalar site, "
        "scalar sequence, scalar T", lambda d: 4 * d["R"] * d["C"]),
    _op("attention", "in q~ [B T H D], in k~ [B S G D], in v~ [B S G D], out out~ [B T H D], out lse [B H T], "
        "out weights? [B H T S], scalar scale", lambda d: 4 * _pairs(d) * d["D"] + 5 * _pairs(d)),
    _op("attention_backward", "in dout~ [B T H D], in q~ [B T H D], in k~ [B S G D], in v~ [B S G D], "
        "in out~ [B T H D], in lse [B H T], out dq~ [B T H D], out dk~ [B S G D], out dv~ [B S G D], scalar scale",
        lambda d: 10 * _pairs(d) * d["D"] + 6 * _pairs(d)),
    _op("cross_entropy", "in logits [R V], in targets [R] int32, out losses [R], out lse [R]",
        lambda d: 4 * d["R"] * d["V"]),
    _op("cross_entropy_backward", "in logits [R V], in targets [R] int32, in lse [R], out dlogits [R V], scalar scale",
        lambda d: 4 * d["R"] * d["V"]),
    _op("embedding", "in tokens [B T] int32, in table [V C], in positions? [P C], scalar start, out out [B*T C]",
        lambda d: d["B"] * d["T"] * d["C"]),
    _op("embedding_backward", "in dy [B*T C], in tokens [B T] int32, out dtable [V C], out dpositions? [P C], "
        "scalar start, scalar accumulate, scalar accumulate_positions", lambda d: 2 * d["B"] * d["T"] * d["C"]),
    _op("rope", "in x~ [B T H 2*E], out out~ [B T H 2*E], in cos [T E], in sin [T E], scalar inverse",
        lambda d: 6 * d["B"] * d["T"] * d["H"] * d["E"]),
    _op("squared_norm", "in x [N]", lambda d: 2 * d["N"]),
    _op("adamw", "inout param [N], in grad [N], inout m [N], inout v [N], scalar lr, scalar beta1, scalar beta2, "
        "scalar eps, scalar weight_decay, scalar step, scalar grad_scale", lambda d: 14 * d["N"]),
]
# fmt: on


def _pairs(d: Dims) -> int:
    """Count the query-key pairs under the causal mask: query t of T sees S - T + t + 1 of the S keys."""
    return d["B"] * d["H"] * (d["T"] * (d["S"] - d["T"]) + d["T"] * (d["T"] + 1) // 2)


OPS: dict[str, Op] = {op.name: op for op in _TABLE}


def check(name: str, arrays: Mapping[str, np.ndarray | None], **flags: Any) -> Dims:
    """Check the arrays of a call against the record of the op, and return the value of every letter.

    Parameters
    ----------
    name : str
        Name of the op.
    arrays : mapping
        Argument name to array. Outputs that are not allocated yet may be missing.
    **flags
        Scalars that change the order of axes (``trans_a``, ``trans_b``).

    Returns
    -------
    dict
        Letter to size, for example ``{"M": 2, "K": 3, "N": 4}``.

    Raises
    ------
    TypeError
        An argument is not an array, is None without being optional, or has the wrong dtype.
    ValueError
        An argument has the wrong number of axes or the wrong length.
    """
    dims: Dims = {}
    # Arguments with an axis such as B*T come last, because its length says nothing while B and T are unknown.
    for arg in sorted(OPS[name].args, key=lambda arg: _PRODUCT.search(arg.shape) is not None):
        if not arg.shape or arg.name not in arrays:
            continue
        array = arrays[arg.name]
        if array is None and arg.optional:
            continue
        if not isinstance(array, np.ndarray):
            raise TypeError(f"[{name}] '{arg.name}' must be a NumPy array, got {type(array).__name__}")
        if array.dtype != arg.dtype:
            raise TypeError(f"[{name}] '{arg.name}' must be {arg.dtype}, got {array.dtype}")
        _bind(name, arg, array.shape, arg.axes(flags), dims)
    return dims


def _bind(name: str, arg: Arg, shape: tuple[int, ...], axes: list[str], dims: Dims) -> None:
    """Set letters from the shape of one array; ValueError if a letter already has another value."""
    if len(shape) != len(axes):
        raise ValueError(f"[{name}] '{arg.name}' must have {len(axes)} axes ({', '.join(axes)}), got shape {shape}")
    for length, axis in zip(shape, axes, strict=True):
        unknown = [factor for factor in axis.split("*") if not factor.isdigit() and factor not in dims]
        if len(unknown) == 1:
            rest = size(axis.replace(unknown[0], "1"), dims)
            if length % rest:
                raise ValueError(f"[{name}] '{arg.name}' must have {axis} as a multiple of {rest}, got shape {shape}")
            dims[unknown[0]] = length // rest
        elif length != size(axis, dims):
            wanted = ", ".join(f"{one} = {size(one, dims)}" if _known(one, dims) else one for one in axes)
            raise ValueError(f"[{name}] '{arg.name}' must have shape ({wanted}), got {shape}")


def _known(axis: str, dims: Dims) -> bool:
    return all(factor.isdigit() or factor in dims for factor in axis.split("*"))
