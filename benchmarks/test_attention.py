"""Speed of every rung of csrc/attention.pyx: the default model's heads, and longer contexts."""

import pytest
from conftest import each_rung

from tinygpt import testing


@pytest.mark.parametrize(("B", "T", "H", "D"), [(4, 64, 2, 32), (2, 256, 6, 64), (1, 1024, 2, 64)])
@each_rung("attention", "attention_backward")
def test_attention(ladder, op, rung, B, T, H, D):
    ladder(testing.make(op, B=B, T=T, H=H, D=D, layout="fused"), rung)
