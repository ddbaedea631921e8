"""Speed of every rung of csrc/layernorm.pyx, at the sizes of a training step."""

from conftest import each_rung

from tinygpt import testing


@each_rung("layernorm", "layernorm_backward")
def test_layernorm(ladder, op, rung):
    for case in testing.default_cases(op):
        ladder(case, rung)
