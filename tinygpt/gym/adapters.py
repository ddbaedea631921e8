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
