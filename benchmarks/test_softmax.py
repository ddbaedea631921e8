"""Speed of every rung of csrc/softmax.pyx, at the sizes of a training step."""

from conftest import each_rung

from tinygpt import testing


@each_rung("softmax", "softmax_backward")
def test_softmax(ladder, op, rung):
    for case in testing.default_cases(op):
        ladder(case, rung)
