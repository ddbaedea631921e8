"""Speed of every rung of csrc/activation.pyx, at the sizes of a training step."""

from conftest import each_rung

from tinygpt import testing


@each_rung("gelu", "gelu_backward", "swiglu", "swiglu_backward", "add", "dropout")
def test_activation(ladder, op, rung):
    for case in testing.default_cases(op):
        ladder(case, rung)
