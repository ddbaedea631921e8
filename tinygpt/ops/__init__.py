"""Differentiable operations: each function computes a value with a kernel and defines its gradient beside it."""

from tinygpt.ops.activation import gelu, softmax, swiglu
from tinygpt.ops.attention import attention
from tinygpt.ops.elementwise import add, dropout
from tinygpt.ops.embedding import embedding
from tinygpt.ops.linear import linear
from tinygpt.ops.loss import cross_entropy, head_loss
from tinygpt.ops.low_rank import low_rank
from tinygpt.ops.norm import layernorm, rmsnorm

__all__ = [
    "add",
    "attention",
    "cross_entropy",
    "dropout",
    "embedding",
    "gelu",
    "head_loss",
    "layernorm",
    "linear",
    "low_rank",
    "rmsnorm",
    "softmax",
    "swiglu",
]
