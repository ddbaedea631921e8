"""The kernels: every op callable on plain arrays, and the choice of the rung that serves it.

>>> from tinygpt import kernels
>>> kernels.available()["softmax"]
('naive', 'parallel', 'blocked', 'numpy')
>>> with kernels.use("naive"):
...     ...
"""

from tinygpt.kernels import numpy_rung, registry
from tinygpt.kernels.attention import attention, embedding, rope
from tinygpt.kernels.products import column_sum, matmul
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

registry.start()
register("numpy", **numpy_rung.FUNCTIONS)
registry.apply_environment()

__all__ = [
    "active",
    "add",
    "attention",
    "available",
    "column_sum",
    "cross_entropy",
    "dropout",
    "embedding",
    "gelu",
    "gelu_backward",
    "layernorm",
    "matmul",
    "register",
    "rmsnorm",
    "rope",
    "selection",
    "softmax",
    "softmax_backward",
    "swiglu",
    "unregister",
    "use",
    "use_text",
]
