"""Speed of every rung of csrc/cross_entropy.pyx, at the sizes of a training step."""

from conftest import each_rung

from tinygpt import testing


@each_rung("cross_entropy", "cross_entropy_backward")
def test_cross_entropy(ladder, op, rung):
    for case in testing.default_cases(op):
        ladder(case, rung)
