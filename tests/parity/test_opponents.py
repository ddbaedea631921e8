"""PyTorch's functions in the form of a rung, as `tinygpt bench --against torch` uses them."""

import pytest

from tinygpt import kernels, testing
from tinygpt.cli import app
from tinygpt.testing import opponents


def test_every_function_stays_within_the_bounds_of_our_rungs(require):
    """Catches a counterpart that computes something else than the op it is compared with."""
    require("torch")
    functions = opponents.torch_rung(1)
    assert {"matmul", "softmax", "layernorm_backward", "attention_backward", "cross_entropy"} <= functions.keys()
    for op, function in functions.items():
        for case in testing.default_cases(op):
            testing.check(function, case, n_threads=1)


def test_options_that_pytorch_lacks_are_named(require):
    """Catches a wrong result where PyTorch's function has no such option."""
    require("torch")
    case = testing.attention_case(B=1, T=2, H=2, D=4, S=3)
    with pytest.raises(opponents.Unsupported, match="equally many queries and keys"):
        testing.check(opponents.torch_rung(1)["attention"], case, n_threads=1)


def test_the_benchmark_leaves_no_rung_behind(require, capsys):
    """Catches PyTorch's functions among the rungs after the benchmark, where a training run could use them."""
    require("torch")
    arguments = ["bench", "--against", "torch", "--op", "softmax", "rope", "--seconds", "0.01", "--threads", "1"]
    assert app.main(arguments) == 0
    out = capsys.readouterr().out
    assert "torch takes" in out
    assert "rope" in out
    assert "torch" not in kernels.available()["softmax"]
