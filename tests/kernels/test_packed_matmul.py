"""Tests of csrc/packed_matmul.pyx: blocks of 32, 16 rows unpacked at a time, dot products up to 16 rows, 384 steps."""

import numpy as np
import pytest

from tinygpt import kernels, packed
from tinygpt.testing import check, run, shapes_around

BLOCK, ROWS, FEW, STRIPE, KC = 32, 16, 16, 64, 384
KINDS = ("matmul_bfloat16", "matmul_int8")
bfloat16, int8 = (pytest.mark.op(name) for name in KINDS)
SIZES = [(1, 9, 5), (3, 17, 64), (FEW, 2 * ROWS + 1, 100), (FEW + 1, 49, KC + 1), (40, 100, 2 * KC + 9)]


def sums(function, threads, make, op):
    """Return cases with K around a block, and around a part of the sum."""
    for K in (*shapes_around(4, 8, 16, BLOCK, 2 * BLOCK), KC - 1, KC, KC + 1):
        for M in (1, FEW + 1):
            check(function, make(op, M=M, N=9, K=K), threads)


@bfloat16
def test_sums_of_bfloat16(function, threads, make):
    """Catches a lost last term of the sum, reads past a row, and a second panel that overwrites the first."""
    sums(function, threads, make, "matmul_bfloat16")


@int8
def test_sums_of_int8(function, threads, make):
    """Catches elements multiplied by no scale or the scale of another block, also in a short last block."""
    sums(function, threads, make, "matmul_int8")


def rows_and_columns(function, threads, make, op):
    """Return cases with every number of rows up to the change of path, and columns around every tile and stripe."""
    for M in (0, 1, 2, 3, 4, 5, 7, FEW, FEW + 1, FEW + 8):
        for N in (0, 1, 7, 8, 9, ROWS + 1, 47, 49, STRIPE - 1, STRIPE + 1, 2 * STRIPE + 3):
            check(function, make(op, M=M, N=N, K=BLOCK + 3), threads)


@bfloat16
def test_rows_and_columns_of_bfloat16(function, threads, make):
    """Catches columns that are lost or added twice where threads, stripes or tiles meet."""
    rows_and_columns(function, threads, make, "matmul_bfloat16")


@int8
def test_rows_and_columns_of_int8(function, threads, make):
    """Catches columns that are lost or added twice where threads, stripes or tiles meet."""
    rows_and_columns(function, threads, make, "matmul_int8")


def everything_after(function, make, op):
    for M, N, K in SIZES:
        for bias, residual, activation in ((0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 0, 1), (1, 1, 1)):
            case = make(op, M=M, N=N, K=K, bias=bool(bias), residual=bool(residual), activation=activation)
            check(function, case, 2, offset=4 if bias else 0)


@bfloat16
def test_bias_activation_and_residual_of_bfloat16(function, make):
    """Catches bias, activation and residual in another order, from another column, or once per block of the sum."""
    everything_after(function, make, "matmul_bfloat16")


@int8
def test_bias_activation_and_residual_of_int8(function, make):
    """Catches bias, activation and residual in another order, from another column, or once per block of the sum."""
    everything_after(function, make, "matmul_int8")


@int8
@pytest.mark.parametrize("M", [21, 40])
def test_unit_matrix_gives_the_weights(function, make, M):
    """Catches a rounded scale, with a bound of zero: scale times int8 is exact in float32."""
    case = make("matmul_int8", M=M, N=37, K=M)
    wanted = packed.from_int8(case.inputs["b"], case.inputs["scales"])
    out = np.full((M, 37), np.nan, np.float32)
    function(np.eye(M, dtype=np.float32), case.inputs["b"], case.inputs["scales"], out, None, None, 0, 2)
    np.testing.assert_array_equal(out, wanted.T)


def same_as_alone(function, make, op):
    """Assert that each row of a product of few rows has the same bits as that row alone."""
    case = make(op, M=FEW, N=70, K=100)
    together = run(function, case)["out"]
    for i in range(FEW):
        arguments = {**case.inputs, "a": case.inputs["a"][i : i + 1]}
        out = np.full((1, 70), np.nan, np.float32)
        weights = [arguments[name] for name in ("b", "scales") if name in arguments]
        function(arguments["a"], *weights, out, None, None, 0, 1)
        np.testing.assert_array_equal(out[0], together[i])


@bfloat16
def test_rows_do_not_depend_on_each_other_bfloat16(function, make, rung):
    """Catches another order of the sum for several rows, with which a batch would decode other tokens."""
    if rung != "numpy":
        same_as_alone(function, make, "matmul_bfloat16")


@int8
def test_rows_do_not_depend_on_each_other_int8(function, make, rung):
    """Catches another order of the sum for several rows, with which a batch would decode other tokens."""
    if rung != "numpy":
        same_as_alone(function, make, "matmul_int8")


def test_wrong_scales_and_dtypes_are_refused():
    """Catches scales for the wrong number of blocks, which would be read past their end, and a wrong dtype."""
    a, (b, scales) = np.ones((2, 40), np.float32), packed.to_int8(np.ones((3, 40), np.float32))
    with pytest.raises(ValueError, match=r"\[matmul_int8\] 'scales' must have 2 for each row of 'b', got"):
        kernels.matmul_int8(a, b, scales[:, :1])
    with pytest.raises(ValueError, match=r"\[matmul_int8\] 'scales' must have shape"):
        kernels.matmul_int8(a, b, scales[:2])
    with pytest.raises(TypeError, match=r"\[matmul_int8\] 'scales' must be uint16, got float16"):
        kernels.matmul_int8(a, b, scales.view(np.float16))
    with pytest.raises(TypeError, match=r"\[matmul_bfloat16\] 'b' must be uint16, got int8"):
        kernels.matmul_bfloat16(a, b)
