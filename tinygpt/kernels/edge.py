"""Calls of kernels with plain arrays: check the arguments, copy what is not contiguous, allocate the outputs.

The records in `spec` say what to check and what to allocate. The autograd layer (`tinygpt.ops`) does not come through
here: it knows its shapes, and calls the active rung directly.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygpt.kernels import registry, spec, threads


def array(op: str, name: str, x: Any, dtype: str = "float32") -> np.ndarray:
    """Return `x`, or raise TypeError if it is not an array of `dtype`."""
    if not isinstance(x, np.ndarray):
        raise TypeError(f"[{op}] '{name}' must be a NumPy array, got {type(x).__name__}")
    if x.dtype != dtype:
        raise TypeError(f"[{op}] '{name}' must be {dtype}, got {x.dtype}")
    return x


def contiguous(op: str, name: str, x: Any, dtype: str = "float32") -> np.ndarray:
    """Return `x` itself if it is C-contiguous, otherwise a copy that is."""
    return np.ascontiguousarray(array(op, name, x, dtype))


def rows(op: str, name: str, x: Any) -> np.ndarray:
    """Reshape `x` from (..., C) to (R, C)."""
    if array(op, name, x).ndim < 1:
        raise ValueError(f"[{op}] '{name}' must have at least one axis, got a scalar")
    x = contiguous(op, name, x)
    return x.reshape(int(np.prod(x.shape[:-1])), x.shape[-1])


def flat(op: str, name: str, x: Any) -> np.ndarray:
    """Reshape `x` from any shape to (N,)."""
    return contiguous(op, name, x).reshape(-1)


def same_shape(op: str, **arrays: Any) -> None:
    """Raise ValueError unless all arrays have one shape; once flattened, (2, 3) and (3, 2) would fit each other."""
    for name, x in arrays.items():
        array(op, name, x)
    (first, one), *others = arrays.items()
    for name, other in others:
        if other.shape != one.shape:
            raise ValueError(f"[{op}] '{name}' must have the shape of '{first}' {one.shape}, got {other.shape}")


def run(op: str, want: tuple[str, ...] = (), /, **given: Any) -> dict[str, Any]:
    """Check the arguments of an op, allocate its outputs, and call the active rung.

    Parameters
    ----------
    op : str
        Name of the op in `spec.OPS`.
    want : tuple of str
        Names of optional outputs to compute too.
    **given
        Inputs and scalars by name. An output given here is written in place.

    Returns
    -------
    dict
        Output name to array, and ``"result"`` to the return value of the rung.
    """
    record = spec.OPS[op]
    given = {arg.name: None for arg in record.args if arg.optional and arg.role == "in"} | given
    for arg in record.args:
        if arg.role == "in" and not arg.strided and given[arg.name] is not None:
            given[arg.name] = contiguous(op, arg.name, given[arg.name], arg.dtype)
    dims = spec.check(op, given, **given)
    outputs = {}
    for arg in record.args:
        if arg.role == "out" and arg.name not in given:
            needed = not arg.optional or arg.name in want
            axes = arg.shape.split()
            given[arg.name] = np.empty([spec.size(axis, dims) for axis in axes], arg.dtype) if needed else None
        if arg.role in ("out", "inout"):
            outputs[arg.name] = given[arg.name]
    arguments = [given[arg.name] for arg in record.args]
    outputs["result"] = getattr(registry.active, op)(*arguments, threads.for_work(record.work(dims)))
    return outputs
