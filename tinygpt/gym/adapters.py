"""Ops built around a learner's simpler function, so that a whole model can train with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Function = Callable[..., Any]


def softmax_op(function: Function) -> Function:
    """Give ``softmax(x, out)`` the signature of the op, which has a number of threads too."""
    return lambda x, out, n_threads: function(x, out)


def loss_with_softmax(function: Function) -> dict[str, Function]:
    """Build the training loss on ``softmax(x, out)``: -log of the probability that each row gives to its target."""

    def cross_entropy(logits, targets, losses, lse, n_threads):
        probabilities = np.empty_like(logits)
        function(logits, probabilities)
        rows, best = np.arange(len(logits)), logits.argmax(1)
        # p = exp(x - lse) for every element, so the largest one tells lse.
        lse[...] = logits[rows, best] - np.log(probabilities[rows, best])
        losses[...] = np.where(targets < 0, 0, lse - logits[rows, np.maximum(targets, 0)])

    return {"cross_entropy": cross_entropy}


def matmul_op(product: Function) -> Function:
    """Give ``matmul(a, b, out)`` the signature of the op.

    Transposed operands are copied, and bias, activation and residual are applied afterwards, as in the lower rungs.
    """

    def matmul(a, b, out, trans_a, trans_b, accumulate, bias, residual, activation, pre, n_threads):
        from tinygpt.kernels.numpy_rung import gelu

        a = np.ascontiguousarray(a.T) if trans_a else a
        b = np.ascontiguousarray(b.T) if trans_b else b
        if accumulate:
            part = np.empty_like(out)
            product(a, b, part)
            out += part
            return
        product(a, b, out)
        if bias is not None:
            out += bias
        if pre is not None:
            pre[...] = out
        if activation:
            gelu(out.copy(), out, n_threads)
        if residual is not None:
            out += residual

    return matmul


def attention_op(one_head: Function) -> Function:
    """Build the op from ``attention(q, k, v, scale)``, which returns the output (T, D) of one head."""

    def attention(q, k, v, out, lse, weights, scale, n_threads):
        batch, length, heads, _ = q.shape
        size, groups = k.shape[1:3]
        seen = np.arange(size) <= np.arange(length)[:, None] + size - length
        for b in range(batch):
            for h in range(heads):
                left, right, values = q[b, :, h], k[b, :, h * groups // heads], v[b, :, h * groups // heads]
                out[b, :, h] = one_head(left, right, values, scale)
                scores = np.where(seen, np.float32(scale) * (left @ right.T), np.float32(-np.inf))
                top = scores.max(1)
                lse[b, h] = top + np.log(np.exp(scores - top[:, None]).sum(1))
                if weights is not None:
                    weights[b, h] = np.exp(scores - lse[b, h][:, None])

    return attention


def attention_backward_op(one_head: Function) -> Function:
    """Build the op from ``attention_backward(dout, q, k, v, weights, scale)``, which returns dq, dk, dv of one head.

    Query heads that share keys and values add their gradients.
    """

    def attention_backward(dout, q, k, v, out, lse, dq, dk, dv, scale, n_threads):
        batch, length, heads, _ = q.shape
        size, groups = k.shape[1:3]
        seen = np.arange(size) <= np.arange(length)[:, None] + size - length
        dk[...] = 0
        dv[...] = 0
        for b in range(batch):
            for h in range(heads):
                g = h * groups // heads
                scores = np.float32(scale) * (q[b, :, h] @ k[b, :, g].T)
                weights = np.where(seen, np.exp(scores - lse[b, h][:, None]), np.float32(0))
                dq[b, :, h], one, other = one_head(dout[b, :, h], q[b, :, h], k[b, :, g], v[b, :, g], weights, scale)
                dk[b, :, g] += one
                dv[b, :, g] += other

    return attention_backward


def softmax_of_blocks(max_and_sum: Function, width: int) -> Function:
    """Build ``softmax(x, out)`` from ``max_and_sum(blocks)``; blocks of `width` columns can be read only once."""

    def softmax(x, out):
        for row, place in zip(x, out, strict=True):
            top, total = max_and_sum(iter([row[c : c + width] for c in range(0, len(row), width)]))
            place[...] = np.exp(row - np.float32(top)) / np.float32(total)

    return softmax


def matmul_of_panels(pack: Function, width: int) -> Function:
    """Build ``matmul(a, b, out)`` from ``pack(b, width)``: each sliver of the panel gives `width` columns of out."""

    def product(a, b, out):
        for s, sliver in enumerate(pack(b, width)):
            columns = out[:, s * width : (s + 1) * width]
            columns[...] = (a @ sliver)[:, : columns.shape[1]]

    return product


def matmul_with_epilogue(bias_gelu: Function) -> dict[str, Function]:
    """Build the op matmul on the fastest rung, with ``bias_gelu(z, bias, out)`` for calls with an activation."""
    from tinygpt.kernels import registry

    fastest = registry.function("matmul", registry.default_rung())

    def matmul(a, b, out, trans_a, trans_b, accumulate, bias, residual, activation, pre, n_threads):
        if not activation:
            fastest(a, b, out, trans_a, trans_b, accumulate, bias, residual, activation, pre, n_threads)
            return
        z = np.empty_like(out)
        fastest(a, b, z, trans_a, trans_b, False, None, None, 0, None, n_threads)
        if pre is not None:
            pre[...] = z if bias is None else z + bias
        bias_gelu(z, np.zeros(out.shape[1], np.float32) if bias is None else bias, out)
        if residual is not None:
            out += residual

    return {"matmul": matmul}
