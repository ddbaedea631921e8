"""Speed of every rung of csrc/rmsnorm.pyx, at the sizes of a training step."""

from conftest import each_rung

from tinygpt import testing


@each_rung("rmsnorm", "rmsnorm_backward")
def test_rmsnorm(ladder, op, rung):
    for case in testing.default_cases(op):
        ladder(case, rung)
