"""Matrix products and column sums on plain arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygpt.kernels.edge import array, rows, run

# Codes of the argument `activation` in the compiled kernels. csrc/matmul.pyx has the same table; a test compares them.
ACTIVATIONS = {"none": 0, "gelu": 1}


def matmul(
    a: np.ndarray,
    b: np.ndarray,
    trans_a: bool = False,
    trans_b: bool = False,
    *,
    out: np.ndarray | None = None,
    accumulate: bool = False,
    bias: np.ndarray | None = None,
    residual: np.ndarray | None = None,
    activation: str = "none",
) -> np.ndarray:
    """Multiply matrices: out = activation(op(a) op(b) + bias) + residual, where op(x) is x or its transpose.

    Parameters
    ----------
    a : array, shape (M, K), or (K, M) with `trans_a`, float32
    b : array, shape (K, N), or (N, K) with `trans_b`, float32
    trans_a, trans_b : bool
        Read the operand as its transpose, without a copy.
    out : array, shape (M, N), float32, optional
        Array for the result. Must be C-contiguous and share no memory with an input. Default: a new array.
    accumulate : bool
        Add the product to `out`. Cannot be combined with bias, residual or activation.
    bias : array, shape (N,), optional
        Added to every row, before the activation.
    residual : array, shape (M, N), optional
        Added after the activation.
    activation : str
        ``none`` or ``gelu``.

    Returns
    -------
    array, shape (M, N), float32
        `out` if it was given. An input that is not contiguous is copied first.

    Raises
    ------
    TypeError
        An argument is not a float32 array.
    ValueError
        Shapes do not fit, options exclude each other, or `out` overlaps an input.
    """
    code = _activation("matmul", activation)
    if accumulate and out is None:
        raise ValueError("[matmul] 'out' must be given with accumulate=True")
    if accumulate and (bias is not None or residual is not None or activation != "none"):
        raise ValueError("[matmul] 'accumulate' must be False with bias, residual or activation")
    given: dict[str, Any] = {}
    if out is not None:
        given["out"] = writable("matmul", out, a=a, b=b, bias=bias, residual=residual)
    flags = {"trans_a": bool(trans_a), "trans_b": bool(trans_b), "accumulate": bool(accumulate)}
    return run("matmul", (), a=a, b=b, bias=bias, residual=residual, activation=code, **flags, **given)["out"]


def matmul_bfloat16(
    a: np.ndarray,
    b: np.ndarray,
    *,
    bias: np.ndarray | None = None,
    residual: np.ndarray | None = None,
    activation: str = "none",
) -> np.ndarray:
    """Multiply by bfloat16 weights: out = activation(a w^T + bias) + residual, where `b` holds the upper halves of w.

    Parameters
    ----------
    a : array, shape (M, K), float32
    b : array, shape (N, K), uint16
        Bits of the bfloat16 weights: the upper 16 bits of each float32.
    bias : array, shape (N,), optional
        Added to every row, before the activation.
    residual : array, shape (M, N), optional
        Added after the activation.
    activation : str
        ``none`` or ``gelu``.

    Returns
    -------
    array, shape (M, N), float32
    """
    code = _activation("matmul_bfloat16", activation)
    return run("matmul_bfloat16", a=a, b=b, bias=bias, residual=residual, activation=code)["out"]


def matmul_int8(
    a: np.ndarray,
    b: np.ndarray,
    scales: np.ndarray,
    *,
    bias: np.ndarray | None = None,
    residual: np.ndarray | None = None,
    activation: str = "none",
) -> np.ndarray:
    """Multiply by int8 weights: out = activation(a w^T + bias) + residual, w[j, p] = scales[j, p // 32] b[j, p].

    Parameters
    ----------
    a : array, shape (M, K), float32
    b : array, shape (N, K), int8
        Quantised weights.
    scales : array, shape (N, ceil(K / 32)), uint16
        Scale of each block of 32 weights in a row: the bits of half-precision numbers, finite and not negative.
    bias : array, shape (N,), optional
        Added to every row, before the activation.
    residual : array, shape (M, N), optional
        Added after the activation.
    activation : str
        ``none`` or ``gelu``.

    Returns
    -------
    array, shape (M, N), float32
    """
    code = _activation("matmul_int8", activation)
    array("matmul_int8", "scales", scales, "uint16")
    if array("matmul_int8", "b", b, "int8").ndim == scales.ndim == 2 and scales.shape[1] != -(-b.shape[1] // 32):
        blocks = -(-b.shape[1] // 32)
        raise ValueError(f"[matmul_int8] 'scales' must have {blocks} for each row of 'b', got shape {scales.shape}")
    return run("matmul_int8", a=a, b=b, scales=scales, bias=bias, residual=residual, activation=code)["out"]


def _activation(op: str, name: str) -> int:
    if name not in ACTIVATIONS:
        raise ValueError(f"[{op}] 'activation' must be one of {', '.join(ACTIVATIONS)}, got '{name}'")
    return ACTIVATIONS[name]


def column_sum(x: np.ndarray, *, out: np.ndarray | None = None, accumulate: bool = False) -> np.ndarray:
    """Sum over all axes except the last, as the gradient of a bias does.

    Parameters
    ----------
    x : array, shape (..., C), float32
    out : array, shape (C,), optional
        Array for the result. Must be C-contiguous and share no memory with `x`. Default: a new array.
    accumulate : bool
        Add the sum to `out`.

    Returns
    -------
    array, shape (C,), float32
    """
    if accumulate and out is None:
        raise ValueError("[column_sum] 'out' must be given with accumulate=True")
    given: dict[str, Any] = {} if out is None else {"out": writable("column_sum", out, x=x)}
    return run("column_sum", x=rows("column_sum", "x", x), accumulate=bool(accumulate), **given)["out"]


def writable(op: str, out: np.ndarray, **inputs: np.ndarray | None) -> np.ndarray:
    """Return `out`, or raise ValueError if a kernel cannot write into it while it reads the inputs."""
    if not array(op, "out", out).flags.c_contiguous or not out.flags.writeable:
        got = f"strides {out.strides} for shape {out.shape}" if out.flags.writeable else "a read-only array"
        raise ValueError(f"[{op}] 'out' must be C-contiguous and writable, got {got}")
    for name, x in inputs.items():
        if isinstance(x, np.ndarray) and np.may_share_memory(out, x):
            raise ValueError(f"[{op}] 'out' must not share memory with '{name}'")
    return out
