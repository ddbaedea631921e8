"""The linear layer; bias, activation and residual are fused into its matmul."""

from __future__ import annotations

import numpy as np

from tinygpt import memory
from tinygpt.kernels.products import ACTIVATIONS
from tinygpt.kernels.registry import active
from tinygpt.kernels.spec import WORK
from tinygpt.kernels.threads import for_work
from tinygpt.ops.product import packed_product, product
from tinygpt.ops.shapes import expect, rows
from tinygpt.packed import PackedWeight
from tinygpt.tensor import Tensor, is_recording, traced

Weight = Tensor | PackedWeight


@traced
def linear(
    x: Tensor, weight: Weight, bias: Tensor | None = None, residual: Tensor | None = None, activation: str = "none"
) -> Tensor:
    """Compute activation(x W^T + b) + residual.

    Parameters
    ----------
    x : Tensor, shape (..., K)
    weight : Tensor or PackedWeight, shape (N, K)
        A packed weight raises RuntimeError if a tensor here requires a gradient.
    bias : Tensor, shape (N,), optional
    residual : Tensor, shape (..., N), optional
    activation : str
        ``none`` or ``gelu``.

    Returns
    -------
    Tensor, shape (..., N)

    Raises
    ------
    ValueError
        Shapes do not match, or the activation is unknown.

    Notes
    -----
    With z = x W^T + b and dz = dy activation'(z): dx = dz W, dW = dz^T x, db = sum of the rows of dz. The matmul for dW
    accumulates into the gradient's memory.
    """
    X = rows("linear", "x", x)
    R, K = X.shape
    if len(weight.shape) != 2 or weight.shape[1] != K:  # compare before calling: small models need it
        expect("linear", "weight", weight, (None, K))
    N, shape = weight.shape[0], (*x.shape[:-1], weight.shape[0])
    b, r = None if bias is None else bias.data, None if residual is None else residual.data
    _check(b, r, activation, shape)
    r, code = None if r is None else r.reshape(R, N), ACTIVATIONS[activation]
    if isinstance(weight, PackedWeight):
        refuse_gradients("linear", x, bias, residual)
        return Tensor.plain(packed_product(X, weight, bias=b, residual=r, activation=code).reshape(shape))
    pre = memory.empty((R, N)) if activation != "none" and is_recording() else None
    out = product(X, weight.data, trans_b=True, bias=b, residual=r, activation=code, pre=pre)
    if not is_recording():
        return Tensor.plain(out.reshape(shape))

    def backward(dy: np.ndarray) -> None:
        if residual is not None:
            residual.receive(dy)
        dz = dy.reshape(R, N)
        if pre is not None:
            dz = memory.empty((R, N))
            n_threads = for_work(WORK["gelu_backward"] * dz.size)
            active.gelu_backward(dy.reshape(-1), pre.reshape(-1), dz.reshape(-1), n_threads)
        product_backward(x, weight, dz)
        if bias is not None and bias.requires_grad:
            db, add = bias.grad_buffer()
            active.column_sum(dz, db, add, for_work(WORK["column_sum"] * dz.size))

    return Tensor.from_op(out.reshape(shape), (x, weight, bias, residual), backward)


def _check(bias: np.ndarray | None, residual: np.ndarray | None, activation: str, shape: tuple[int, ...]) -> None:
    """Raise ValueError if bias, residual or activation do not match the shape (..., N) of the result."""
    if bias is not None and bias.shape != shape[-1:]:
        expect("linear", "bias", bias, shape[-1:])
    if residual is not None and residual.shape != shape:
        expect("linear", "residual", residual, shape)
    if activation not in ACTIVATIONS:
        raise ValueError(f"[linear] 'activation' must be one of {', '.join(ACTIVATIONS)}, got '{activation}'")


def refuse_gradients(op: str, *tensors: Tensor | None) -> None:
    """Raise RuntimeError if a tensor used with a packed weight requires a gradient now."""
    if is_recording() and any(x is not None and x.requires_grad for x in tensors):
        raise RuntimeError(f"[{op}] 'weight' is packed and cannot be trained: load the model with weights='float32'")


def product_backward(x: Tensor, weight: Tensor, dz: np.ndarray) -> None:
    """Propagate dz (R, N) through z = x W^T: dx = dz W, and dW = dz^T x, accumulated in place."""
    if x.requires_grad:
        x.receive(product(dz, weight.data).reshape(x.shape))
    if weight.requires_grad:
        dW, accumulate = weight.grad_buffer()
        product(dz, rows("linear", "x", x), trans_a=True, out=dW, accumulate=accumulate)
