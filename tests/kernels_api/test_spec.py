"""The table of ops: reading its notation, binding letters, and the cost of a call."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from tinygpt.kernels import products, spec

CSRC = Path(__file__).parents[2] / "csrc"


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


def test_every_op_has_a_module_that_registers_it():
    """Catches an op without code, code without a record, and an op in the wrong file."""
    for op in spec.OPS.values():
        assert (CSRC / f"{op.module}.pyx").exists(), op.name
        assert op.name in importlib.import_module(f"tinygpt.core.{op.module}").RUNGS["naive"]
    for module in {op.module for op in spec.OPS.values()}:
        for rung, functions in importlib.import_module(f"tinygpt.core.{module}").RUNGS.items():
            for op, function in functions.items():
                assert spec.OPS[op].module == module
                assert function.__name__ == f"{op}_{rung}"


def test_gradients_belong_to_an_op():
    """Catches a gradient whose op does not exist."""
    for name in spec.OPS:
        assert name.removesuffix("_backward") in spec.OPS


def test_reading_the_notation():
    """Catches an ignored mark of the table: optional, strided, swapped, dtype."""
    args = {arg.name: arg for arg in spec.OPS["matmul"].args}
    assert args["a"].axes({"trans_a": True}) == ["K", "M"]
    assert args["a"].axes({"trans_a": False}) == args["a"].axes({}) == ["M", "K"]
    assert args["bias"].optional
    assert args["pre"].role == "out"
    assert args["pre"].optional
    assert args["activation"].shape == ""
    assert spec.OPS["attention"].args[0].strided
    assert spec.OPS["embedding"].args[0].dtype == "int32"
    assert spec.OPS["adamw"].args[0].role == "inout"
    assert spec.OPS["softmax"].names == ("x", "out", "n_threads")
    with pytest.raises(ValueError, match=r"^\[wrong\] cannot read the argument 'inn x \[R\]'$"):
        spec._op("wrong", "in y [R], inn x [R]", lambda d: 0)


def test_activation_codes_are_those_of_csrc():
    """Catches an activation code that means something else in the compiled code."""
    x, one = np.array([[1.5]], np.float32), np.ones((1, 1), np.float32)
    for name, code in products.ACTIVATIONS.items():
        want = {"none": 1.5, "gelu": 0.75 * (1 + np.tanh(np.sqrt(2 / np.pi) * (1.5 + 0.044715 * 1.5**3)))}[name]
        out = zeros(1, 1)
        importlib.import_module("tinygpt.core.matmul").matmul_naive(
            x, one, out, False, False, False, None, None, code, None, 1
        )
        assert out[0, 0] == pytest.approx(want, rel=1e-6)


def test_letters_are_bound():
    """Catches letters with wrong values: from swapped axes, products of letters or optional arrays."""
    dims = spec.check("matmul", {"a": zeros(5, 2), "b": zeros(3, 5), "bias": None}, trans_a=True, trans_b=True)
    assert dims == {"M": 2, "K": 5, "N": 3}
    assert spec.check("swiglu", {"x": zeros(4, 10)}) == {"R": 4, "F": 5}
    tokens = zeros(2, 3, dtype=np.int32)
    dims = spec.check("embedding_backward", {"dy": zeros(6, 4), "tokens": tokens, "dtable": zeros(9, 4)})
    assert dims == {"B": 2, "T": 3, "C": 4, "V": 9}


@pytest.mark.parametrize(
    ("op", "arrays", "text"),
    [
        ("matmul", {"a": zeros(2, 3), "b": zeros(4, 5)}, "'b' must have shape (K = 3, N), got (4, 5)"),
        ("matmul", {"a": zeros(2), "b": zeros(4, 5)}, "'a' must have 2 axes (M, K), got shape (2,)"),
        ("softmax_backward", {"dy": zeros(2, 3), "y": zeros(2, 4)}, "'y' must have shape (R = 2, C = 3), got (2, 4)"),
        ("swiglu", {"x": zeros(2, 5)}, "'x' must have 2*F as a multiple of 2, got shape (2, 5)"),
        (
            "swiglu_backward",
            {"dy": zeros(2, 3), "x": zeros(2, 4)},
            "'x' must have shape (R = 2, 2*F = 6), got (2, 4)",
        ),
        (
            "embedding_backward",
            {"dy": zeros(5, 4), "tokens": zeros(2, 3, dtype=np.int32)},
            "'dy' must have shape (B*T = 6, C), got (5, 4)",
        ),
        ("gelu", {"x": zeros(2, 2)}, "'x' must have 1 axes (N), got shape (2, 2)"),
    ],
    ids=str,
)
def test_inconsistent_shapes(op, arrays, text):
    """Catches a shape that is not checked, and an error that does not say what was expected."""
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole text is compared
        spec.check(op, arrays)
    assert str(error.value) == f"[{op}] {text}"


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"x": [1.0]}, "'x' must be a NumPy array, got list"),
        ({"x": None}, "'x' must be a NumPy array, got NoneType"),
        ({"x": zeros(3, dtype=np.float64)}, "'x' must be float32, got float64"),
        ({"x": zeros(3).astype(">f4")}, "'x' must be float32, got >f4"),
    ],
    ids=str,
)
def test_wrong_types(arrays, text):
    """Catches memory of the wrong type passed to a kernel."""
    with pytest.raises(TypeError) as error:
        spec.check("gelu", arrays)
    assert str(error.value) == f"[gelu] {text}"


def test_bytes():
    """Catches arrays that are not counted, a wrong size of int32, and updated arrays counted once."""
    softmax, adamw, embedding = spec.OPS["softmax"], spec.OPS["adamw"], spec.OPS["embedding"]
    assert softmax.bytes({"R": 3, "C": 5}) == 2 * 3 * 5 * 4
    assert adamw.bytes({"N": 10}) == (2 + 1 + 2 + 2) * 10 * 4
    dims = {"B": 2, "T": 3, "V": 7, "C": 5, "P": 4}
    assert embedding.bytes(dims) == 4 * (2 * 3 + 7 * 5 + 4 * 5 + 2 * 3 * 5)
    assert embedding.bytes(dims, frozenset({"positions"})) == 4 * (2 * 3 + 7 * 5 + 2 * 3 * 5)


def test_flops():
    """Catches a wrong count for ops whose rate is printed, against counts by hand for small shapes."""
    assert spec.OPS["matmul"].flops({"M": 2, "N": 3, "K": 5}) == 2 * 2 * 3 * 5
    # Two queries after two cached keys attend to 3 and 4 keys: 7 pairs for each of 3 heads.
    dims = {"B": 1, "H": 3, "G": 1, "T": 2, "S": 4, "D": 8}
    assert spec.OPS["attention"].flops(dims) == 3 * 7 * (4 * 8 + 5)
