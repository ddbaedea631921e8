"""Every op as its formula in float64 NumPy, and three lessons: `gpt`, `bpe` and `one_file`.

A beginner reads `gpt` first, a whole forward pass; `bpe` is byte-pair encoding; `one_file` trains and samples a GPT.

The kernels are tested against these formulas. A function has the name of its op. Its arguments are those that
`tinygpt.kernels.spec` marks ``in`` or ``scalar``, by the same names, and it returns the outputs in the same order. The
code is plain rather than fast: masks are built and nothing is blocked. No function has the argument ``accumulate``,
because the caller can add.
"""

from tinygpt.reference.activation import add, dropout, dropout_mask, gelu, gelu_backward, swiglu, swiglu_backward
from tinygpt.reference.adamw import adamw, squared_norm
from tinygpt.reference.attention import attention, attention_backward, rope
from tinygpt.reference.embedding import embedding, embedding_backward
from tinygpt.reference.products import column_sum, matmul, matmul_bfloat16, matmul_int8
from tinygpt.reference.rowwise import (
    cross_entropy,
    cross_entropy_backward,
    layernorm,
    layernorm_backward,
    rmsnorm,
    rmsnorm_backward,
    softmax,
    softmax_backward,
)

__all__ = [
    "adamw",
    "add",
    "attention",
    "attention_backward",
    "column_sum",
    "cross_entropy",
    "cross_entropy_backward",
    "dropout",
    "dropout_mask",
    "embedding",
    "embedding_backward",
    "gelu",
    "gelu_backward",
    "layernorm",
    "layernorm_backward",
    "matmul",
    "matmul_bfloat16",
    "matmul_int8",
    "rmsnorm",
    "rmsnorm_backward",
    "rope",
    "softmax",
    "softmax_backward",
    "squared_norm",
    "swiglu",
    "swiglu_backward",
]
