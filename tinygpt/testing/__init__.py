"""Checks of kernels against float64 references, with derived error bounds and guard zones around all memory.

Tests, benchmarks and `tinygpt bench` use them::

    from tinygpt import testing

    case = testing.softmax_case(R=7, C=300)
    testing.check(my_softmax, case, n_threads=2)  # raises testing.Mismatch when an element exceeds its bound

`cases` draws inputs and computes the reference, `bounds` derives the error bounds with the rules of `rounding`, `guard`
runs the call and compares, `timing` times it.
"""

from tinygpt.testing.cases import (
    FACTORIES,
    adamw_case,
    add_case,
    attention_backward_case,
    attention_case,
    column_sum_case,
    cross_entropy_backward_case,
    cross_entropy_case,
    default_cases,
    dropout_case,
    embedding_backward_case,
    embedding_case,
    gelu_backward_case,
    gelu_case,
    layernorm_backward_case,
    layernorm_case,
    make,
    matmul_bfloat16_case,
    matmul_case,
    matmul_int8_case,
    rmsnorm_backward_case,
    rmsnorm_case,
    rope_case,
    shapes_around,
    softmax_backward_case,
    softmax_case,
    squared_norm_case,
    swiglu_backward_case,
    swiglu_case,
)
from tinygpt.testing.guard import Case, Layout, Mismatch, check, compare, run

__all__ = [
    "FACTORIES",
    "Case",
    "Layout",
    "Mismatch",
    "adamw_case",
    "add_case",
    "attention_backward_case",
    "attention_case",
    "check",
    "column_sum_case",
    "compare",
    "cross_entropy_backward_case",
    "cross_entropy_case",
    "default_cases",
    "dropout_case",
    "embedding_backward_case",
    "embedding_case",
    "gelu_backward_case",
    "gelu_case",
    "layernorm_backward_case",
    "layernorm_case",
    "make",
    "matmul_bfloat16_case",
    "matmul_case",
    "matmul_int8_case",
    "rmsnorm_backward_case",
    "rmsnorm_case",
    "rope_case",
    "run",
    "shapes_around",
    "softmax_backward_case",
    "softmax_case",
    "squared_norm_case",
    "swiglu_backward_case",
    "swiglu_case",
]
