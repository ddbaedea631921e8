"""PyTorch's functions in the form of a rung, so that `tinygpt bench --against torch` checks and times them like ours.

Every function has the signature of its op in `tinygpt.kernels.spec` and writes into the same arrays, without a copy
where PyTorch can write there itself. Ops without a counterpart in PyTorch are left out. This is the only module of the
package that imports PyTorch, and only when it is asked to.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

Function = Callable[..., Any]


class Unsupported(ValueError):
    """Raised when PyTorch's function lacks an option that a case uses."""


def torch_rung(n_threads: int) -> dict[str, Function]:
    """Return PyTorch's functions by op, and let PyTorch use `n_threads` threads.

    Raises
    ------
    ImportError
        PyTorch is not installed; the message says how to install it.
    """
    try:
        import torch
    except ImportError:
        raise ImportError("PyTorch is not installed: pip install torch") from None
    torch.set_num_threads(n_threads)
    warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # inputs are read-only here on purpose
    return {**_elementwise(torch), **_rowwise(torch), **_products(torch), **_attention(torch)}


def _views(torch: Any) -> Function:
    """Return the function that views arrays as tensors without copying; int32 ids become the int64 of PyTorch."""

    def view(x: np.ndarray) -> Any:
        return torch.from_numpy(x).long() if x.dtype == np.int32 else torch.from_numpy(x)

    return view


def _elementwise(torch: Any) -> dict[str, Function]:
    aten, t = torch.ops.aten, _views(torch)

    def add(a, b, out, n_threads):
        torch.add(t(a), t(b), out=t(out))

    def gelu(x, out, n_threads):
        aten.gelu.out(t(x), approximate="tanh", out=t(out))

    def gelu_backward(dy, x, dx, n_threads):
        aten.gelu_backward.grad_input(t(dy), t(x), approximate="tanh", grad_input=t(dx))

    def swiglu(x, out, n_threads):
        gate, up = t(x).chunk(2, dim=1)
        torch.mul(torch.nn.functional.silu(gate), up, out=t(out))

    def embedding(tokens, table, positions, start, out, n_threads):
        B, T = tokens.shape
        rows = torch.nn.functional.embedding(t(tokens), t(table))
        place = t(out).view(B, T, -1)
        if positions is None:
            place.copy_(rows)
        else:
            torch.add(rows, t(positions)[start : start + T], out=place)

    return {"add": add, "gelu": gelu, "gelu_backward": gelu_backward, "swiglu": swiglu, "embedding": embedding}


def _rowwise(torch: Any) -> dict[str, Function]:
    aten, t = torch.ops.aten, _views(torch)

    def column_sum(x, out, accumulate, n_threads):
        if accumulate:
            t(out).add_(t(x).sum(0))
        else:
            torch.sum(t(x), 0, out=t(out))

    def softmax(x, out, n_threads):
        torch.softmax(t(x), 1, out=t(out))

    def softmax_backward(dy, y, dx, n_threads):
        aten._softmax_backward_data.out(t(dy), t(y), 1, torch.float32, grad_input=t(dx))

    def layernorm(x, residual, weight, bias, out, total, mean, rstd, eps, n_threads):
        C, y = x.shape[1], t(x)
        if residual is not None:
            y = torch.add(y, t(residual), out=t(total))
        shift = None if bias is None else t(bias)
        places = {"out0": t(out), "out1": t(mean)[:, None], "out2": t(rstd)[:, None]}
        aten.native_layer_norm.out(y, [C], t(weight), shift, eps, **places)

    def layernorm_backward(dy, x, weight, mean, rstd, dtotal, dx, dweight, dbias, accumulate, n_threads):
        if accumulate:
            raise Unsupported("no accumulation")
        shift = t(weight) if dbias is None else t(dbias)  # only says that there is a bias; its values are not used
        given = t(dy), t(x), [x.shape[1]], t(mean)[:, None], t(rstd)[:, None], t(weight), shift, [True] * 3
        unused = torch.empty(0) if dbias is None else t(dbias)
        aten.native_layer_norm_backward.out(*given, out0=t(dx), out1=t(dweight), out2=unused)
        if dtotal is not None:
            t(dx).add_(t(dtotal))

    def cross_entropy(logits, targets, losses, lse, n_threads):
        x, ids = t(logits), t(targets)
        torch.logsumexp(x, 1, out=t(lse))
        torch.sub(t(lse), x.gather(1, ids.clamp(min=0)[:, None])[:, 0], out=t(losses))
        t(losses).masked_fill_(ids < 0, 0.0)

    return {
        "column_sum": column_sum,
        "softmax": softmax,
        "softmax_backward": softmax_backward,
        "layernorm": layernorm,
        "layernorm_backward": layernorm_backward,
        "cross_entropy": cross_entropy,
    }


def _products(torch: Any) -> dict[str, Function]:
    t = _views(torch)

    def matmul(a, b, out, trans_a, trans_b, accumulate, bias, residual, activation, pre, n_threads):
        if activation or pre is not None:
            raise Unsupported("no activation inside a matmul")
        A, B, place = t(a).t() if trans_a else t(a), t(b).t() if trans_b else t(b), t(out)
        if accumulate:
            place.addmm_(A, B)
        elif bias is not None:
            torch.addmm(t(bias), A, B, out=place)
        else:
            torch.mm(A, B, out=place)
        if residual is not None:
            place.add_(t(residual))

    return {"matmul": matmul}


def _attention(torch: Any) -> dict[str, Function]:
    aten, t = torch.ops.aten, _views(torch)

    def heads(q, k, v):
        """Check what the fused function can do; view q, k and v as (B, H, T, D)."""
        if q.shape[1] != k.shape[1] or q.shape[2] != k.shape[2]:
            raise Unsupported("equally many queries and keys, and equally many heads")
        return (t(x).transpose(1, 2) for x in (q, k, v))

    def attention(q, k, v, out, lse, weights, scale, n_threads):
        if weights is not None:
            raise Unsupported("no attention weights")
        found, log = aten._scaled_dot_product_flash_attention_for_cpu(*heads(q, k, v), 0.0, True, scale=scale)
        t(out).transpose(1, 2).copy_(found)
        t(lse).copy_(log)

    def attention_backward(dout, q, k, v, out, lse, dq, dk, dv, scale, n_threads):
        given = t(dout).transpose(1, 2), *heads(q, k, v), t(out).transpose(1, 2), t(lse)
        found = aten._scaled_dot_product_flash_attention_for_cpu_backward(*given, 0.0, True, scale=scale)
        for place, gradient in zip((dq, dk, dv), found, strict=True):
            t(place).transpose(1, 2).copy_(gradient)

    return {"attention": attention, "attention_backward": attention_backward}
