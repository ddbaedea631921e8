"""Tests of csrc/matmul.pyx: micro-tiles of MR x NR = 4 x 8, parts of the sum of KC = 256, blocks MC = 64, NC = 512."""

import dataclasses

import numpy as np
import pytest

from tinygpt.testing import Case, check, run, shapes_around

MR, NR, KC, MC, NC = 4, 8, 256, 64, 512
FLAGS = (False, True)
matmul = pytest.mark.op("matmul")


@matmul
@pytest.mark.parametrize("M", shapes_around(MR, most=13))
def test_register_tile(function, threads, make, M):
    """Catches rows and columns of a partial micro-tile that are lost, added twice, or stored past the edge."""
    for N in shapes_around(NR, most=13):
        check(function, make("matmul", M=M, N=N, K=5), threads)


@matmul
@pytest.mark.parametrize("K", [0, 1, 2, 7, KC - 1, KC, KC + 1, 2 * KC + 1])
@pytest.mark.parametrize("accumulate", FLAGS)
def test_blocks_of_the_sum(function, threads, make, K, accumulate):
    """Catches a block of the sum that overwrites the one before, a lost last block, and K = 0 leaving out unset."""
    check(function, make("matmul", M=5, N=9, K=K, accumulate=accumulate), threads)


@matmul
@pytest.mark.parametrize("M", [MC - 1, MC, MC + 1, 2 * MC - 1, 2 * MC + 3])
def test_blocks_of_rows(function, threads, make, M):
    """Catches blocks of rows that overlap or leave a gap when threads divide them."""
    check(function, make("matmul", M=M, N=9, K=17), threads)


@matmul
@pytest.mark.parametrize("N", [NC - 1, NC, NC + 1, 2 * NC + 7])
def test_panels_of_columns(function, threads, make, N):
    """Catches a second panel that is computed with the first one's packed columns."""
    check(function, make("matmul", M=5, N=N, K=7), threads)


@matmul
@pytest.mark.parametrize("trans_a", FLAGS)
@pytest.mark.parametrize("trans_b", FLAGS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 9, 7), (MC + 3, 17, KC + 3), (3, NC + 1, 2)], ids=str)
def test_transpositions(function, threads, make, shape, trans_a, trans_b):
    """Catches swapped strides, with which an operand is read along the wrong axis."""
    M, N, K = shape
    check(function, make("matmul", M=M, N=N, K=K, trans_a=trans_a, trans_b=trans_b), threads)


@matmul
@pytest.mark.parametrize("bias", FLAGS)
@pytest.mark.parametrize("residual", FLAGS)
@pytest.mark.parametrize("activation", [0, 1])
@pytest.mark.parametrize("pre", FLAGS)
def test_bias_activation_and_residual(function, threads, make, bias, residual, activation, pre):
    """Catches an order other than bias, pre, activation, residual, and steps lost with several blocks of K."""
    after = {"bias": bias, "residual": residual, "activation": activation, "pre": pre}
    for M, N, K in ((5, 13, 9), (1, 8, KC + 1), (3, 2, 0)):
        check(function, make("matmul", M=M, N=N, K=K, trans_b=True, **after), threads)


@matmul
@pytest.mark.parametrize("trans_a", FLAGS)
@pytest.mark.parametrize("accumulate", FLAGS)
def test_one_row(function, threads, make, trans_a, accumulate):
    """Catches errors in the last rows of b after groups of eight, in the last columns, and late in a wide row."""
    for N, K in ((1, 1), (67, 7), (64, 8), (131, 19), (4096 + 33, 17), (5, 0)):
        after = {"trans_a": trans_a, "accumulate": accumulate}
        check(function, make("matmul", M=1, N=N, K=K, **after), threads)
        if not accumulate:
            more = {"bias": True, "residual": True, "activation": 1, "pre": True}
            check(function, make("matmul", M=1, N=N, K=K, **after, **more), threads)


@matmul
@pytest.mark.parametrize("trans_a", FLAGS)
@pytest.mark.parametrize("trans_b", FLAGS)
def test_all_edges_at_once(function, make, trans_a, trans_b):
    """Catches an index that is right for each partial tile alone but wrong in the corner where they meet."""
    case = make("matmul", M=MC + 1, N=NC + 1, K=KC + 1, trans_a=trans_a, trans_b=trans_b, accumulate=trans_a)
    check(function, case, 2)


@matmul
@pytest.mark.parametrize("offset", [4, 12, 32])
def test_misaligned(function, make, offset):
    """Catches aligned vector loads and stores: an array may begin at any multiple of 4 bytes."""
    check(function, make("matmul", M=13, N=19, K=7, bias=True, residual=True, pre=True), 2, offset)


@matmul
def test_unit_matrix_copies_the_bits(function, threads):
    """Catches rounding during packing, and permuted columns, with a bound of zero."""
    n, K = 21, 21
    b = np.random.default_rng(0).standard_normal((K, n)).astype(np.float32)
    inputs = {"a": np.eye(K, dtype=np.float32), "b": b, "trans_a": False, "trans_b": False, "activation": 0}
    case = Case("matmul", inputs | {"accumulate": False}, {"out": b.astype(np.float64)}, {"out": np.zeros(b.shape)})
    check(function, case, threads)


@matmul
@pytest.mark.filterwarnings("ignore:invalid value encountered in matmul")  # NumPy's: BLAS pads its lanes as well
def test_infinity_stays_in_its_row(function, make):
    """Catches padding lanes that are stored: 0 times infinity is NaN, in a row without infinity."""
    case = make("matmul", M=6, N=11, K=9)
    a = case.inputs["a"].copy()
    a[4, 2] = np.inf
    out = run(function, dataclasses.replace(case, inputs=case.inputs | {"a": a}), 2)["out"]
    others = np.arange(6) != 4
    assert (abs(out - case.wanted["out"]) <= case.bounds["out"])[others].all()
    np.testing.assert_array_equal(out[4], np.inf * np.sign(case.inputs["b"][2]))
