"""Speed of every rung of csrc/packed_matmul.pyx: one token of a small model and its head, a batch, a prompt."""

import pytest
from conftest import each_rung

from tinygpt import testing

# M, N, K of SmolLM2-135M: the first product of a block at batch 1 and 8, one token's head, and 128 tokens of a prompt.
SIZES = [(1, 960, 576), (8, 960, 576), (1, 49152, 576), (128, 960, 576)]


@pytest.mark.parametrize("size", SIZES)
@each_rung("matmul_bfloat16", "matmul_int8")
def test_packed_matmul(ladder, op, rung, size):
    M, N, K = size
    ladder(testing.make(op, M=M, N=N, K=K), rung)
