"""Tests of csrc/softmax.pyx: blocks of BLOCK = 2048 columns under a running maximum, in simd of half as many.

A step of simd is four vectors of 4, 8 or 16 lanes: 16, 32 or 64 columns.
"""

import numpy as np
import pytest

from tinygpt.testing import check, run, softmax_case

BLOCK = 2048
WIDTHS = [0, 1, 2, 7, 13, 15, 16, 17, 33, 47, 63, 64, 65, 127, BLOCK // 2 - 1, BLOCK // 2 + 1]
WIDTHS += [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3]
softmax, softmax_backward = pytest.mark.op("softmax"), pytest.mark.op("softmax_backward")


@softmax
@pytest.mark.parametrize("C", WIDTHS)
def test_equals_reference(function, threads, make, C):
    """Catches missing last columns, a block with a wrong maximum, and rows that no thread or two threads compute."""
    for R in (0, 1, 7):
        check(function, make("softmax", R=R, C=C), threads)


@softmax_backward
@pytest.mark.parametrize("C", WIDTHS)
def test_backward_equals_reference(function, threads, make, C):
    """Catches a row sum without its last columns, or one that includes the sum of the row before."""
    for R in (0, 1, 7):
        check(function, make("softmax_backward", R=R, C=C), threads)


@softmax
def test_masked_elements_get_probability_0(function, threads):
    """Catches -inf - (-inf) in a row whose first element, first block or all but last element are masked."""
    x = np.random.default_rng(0).standard_normal((4, 2 * BLOCK + 5)).astype(np.float32)
    x[0, 0] = x[1, :BLOCK] = x[2, :-1] = -np.inf
    x[3, np.random.default_rng(1).random(x.shape[1]) < 0.5] = -np.inf
    out = check(function, softmax_case(*x.shape, x), threads)["out"]
    assert (out[np.isinf(x)] == 0).all()
    assert out[2, -1] == 1


@softmax
@pytest.mark.filterwarnings("ignore:overflow encountered in subtract")  # NumPy's: -3e38 - 3e38 is -inf, as it should
@pytest.mark.parametrize("largest", [100.0, 1e4, 1e30, 3e38])
def test_outliers_do_not_overflow(function, threads, largest):
    """Catches an exponential of a positive number, which is infinite from 89 on."""
    x = np.random.default_rng(2).standard_normal((3, 2 * BLOCK + 1)).astype(np.float32)
    x[0, 5], x[1, -1], x[1, 0] = largest, largest, -largest
    x[2, 3], x[2, BLOCK + 3] = largest, largest
    check(function, softmax_case(*x.shape, x), threads)


@softmax
@pytest.mark.parametrize("C", [1, 3, 15, 47, 64, BLOCK + 1])
def test_equal_rows_are_uniform(function, threads, C):
    """Catches rows that influence each other, and a maximum that includes zero or a padding lane."""
    out = check(function, softmax_case(5, C, np.full((5, C), -300.0)), threads)["out"]
    assert (out == out[0, 0]).all()


@softmax
def test_maximum_renewed_in_every_block(function, threads):
    """Catches a new maximum for which only the sum or only the exponentials are rescaled."""
    x = np.linspace(-20, 20, 3 * BLOCK + 1, dtype=np.float32)[None]
    for row in (x, x[:, ::-1]):
        check(function, softmax_case(*row.shape, row), threads)


@softmax
def test_maximum_anywhere(function):
    """Catches elements that the maximum skips: their exponential would be infinite."""
    for C in (*range(1, 132), BLOCK // 2 + 70):
        x = np.full((C, C), -1000, np.float32)
        np.fill_diagonal(x, 1000)
        out = np.full_like(x, np.nan)
        function(x, out, 1)
        np.testing.assert_array_equal(out, np.eye(C, dtype=np.float32))


@softmax
@pytest.mark.parametrize("C", [1, 47, 64, BLOCK + 5])
def test_nan_stays_in_its_row(function, threads, C):
    """Catches a NaN that is lost, or that reaches the next row."""
    x = np.random.default_rng(3).standard_normal((3, C)).astype(np.float32)
    for place in {0, C // 2, C - 1}:
        x[1] = 0
        x[1, place] = np.nan
        out = np.zeros_like(x)
        function(x, out, threads)
        np.testing.assert_array_equal(np.isnan(out), [[row == 1] * C for row in range(3)])


@softmax
@pytest.mark.parametrize("C", [37, 2 * BLOCK + 37])
def test_misaligned(function, make, C):
    """Catches aligned vector loads and stores."""
    check(function, make("softmax", R=3, C=C), 2, 4)


@softmax_backward
@pytest.mark.parametrize("C", [37, 2 * BLOCK + 37])
def test_backward_misaligned(function, make, C):
    """Catches aligned vector loads and stores."""
    check(function, make("softmax_backward", R=3, C=C), 2, 4)


@softmax_backward
def test_backward_counts_every_product(function):
    """Catches columns that the sum skips: in each case only one product is not zero."""
    for C in (*range(1, 132), BLOCK // 2 + 70):
        y, dy = np.full((C, C), 0.5, np.float32), np.eye(C, dtype=np.float32)
        dx = np.full_like(y, np.nan)
        function(dy, y, dx, 1)
        np.testing.assert_array_equal(dx, 0.5 * (dy - 0.5))


@softmax_backward
def test_constant_gradient_gives_zero(function):
    """Catches a gradient that is not 0 for dy = 1: adding a constant to a row changes no probability."""
    case = softmax_case(3, 100)
    y = case.wanted["out"].astype(np.float32)
    dx = np.full_like(y, np.nan)
    function(np.ones_like(y), y, dx, 1)
    assert (abs(dx) <= y * 100 * 2.0**-23).all()


@softmax
def test_rows_sum_to_one(function, make):
    """Catches a sum that skips terms too small to be noticed in any single element."""
    case = make("softmax", R=5, C=2 * BLOCK + 3)
    out = run(function, case, 2)["out"].astype(np.float64)
    assert (abs(out.sum(axis=1) - 1) <= case.bounds["out"].sum(axis=1)).all()
