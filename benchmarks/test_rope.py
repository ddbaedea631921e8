"""Speed of every rung of csrc/rope.pyx, at the sizes of a training step."""

from conftest import each_rung

from tinygpt import testing


@each_rung("rope")
def test_rope(ladder, op, rung):
    for case in testing.default_cases(op):
        ladder(case, rung)
