"""Every op as its formula in float64 NumPy, and three lessons: `gpt`, `bpe` and `one_file`.

Begin with `gpt`, a whole forward pass. `bpe` is byte-pair encoding, and `one_file` trains a GPT and samples from it.

The kernels are tested against the formulas. A function has the name of its op. It takes the arguments that
`tinygpt.kernels.spec` marks ``in`` or ``scalar``, by the same names, and returns the outputs in the same order. The
code is plain rather than fast: for example, attention builds its whole mask and score matrix. No function has the
argument ``accumulate``, because the caller can add.
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
