"""Speed of every rung of csrc/adamw.pyx, at the sizes of a training step."""

from conftest import each_rung

from tinygpt import testing


@each_rung("adamw", "squared_norm")
def test_adamw(ladder, op, rung):
    for case in testing.default_cases(op):
        ladder(case, rung)
