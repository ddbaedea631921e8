"""Kernels: call every op on plain arrays, and choose the rung (implementation) that computes it.

>>> import numpy as np
>>> from tinygpt import kernels
>>> kernels.available()["softmax"]
('naive', 'parallel', 'blocked', 'simd', 'numpy')
>>> with kernels.use("naive"):
...     probabilities = kernels.softmax(np.zeros((1, 4), np.float32))
>>> probabilities
array([[0.25, 0.25, 0.25, 0.25]], dtype=float32)
"""

from tinygpt.kernels import numpy_rung, registry
from tinygpt.kernels.attention import attention, embedding, rope
from tinygpt.kernels.gradients import (
    attention_backward,
    cross_entropy_backward,
    embedding_backward,
    layernorm_backward,
    rmsnorm_backward,
    swiglu_backward,
)
from tinygpt.kernels.products import column_sum, matmul, matmul_bfloat16, matmul_int8
from tinygpt.kernels.registry import active, available, register, selection, unregister, use, use_text
from tinygpt.kernels.rowwise import (
    add,
    cross_entropy,
    dropout,
    gelu,
    gelu_backward,
    layernorm,
    rmsnorm,
    softmax,
    softmax_backward,
    swiglu,
)
from tinygpt.kernels.update import adamw, squared_norm

registry.start()
register("numpy", **numpy_rung.FUNCTIONS)
registry.apply_environment()

__all__ = [
    "active",
    "adamw",
    "add",
    "attention",
    "attention_backward",
    "available",
    "column_sum",
    "cross_entropy",
    "cross_entropy_backward",
    "dropout",
    "embedding",
    "embedding_backward",
    "gelu",
    "gelu_backward",
    "layernorm",
    "layernorm_backward",
    "matmul",
    "matmul_bfloat16",
    "matmul_int8",
    "register",
    "rmsnorm",
    "rmsnorm_backward",
    "rope",
    "selection",
    "softmax",
    "softmax_backward",
    "squared_norm",
    "swiglu",
    "swiglu_backward",
    "unregister",
    "use",
    "use_text",
]
