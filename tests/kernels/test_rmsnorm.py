"""Tests of csrc/rmsnorm.pyx: sums over rows in chunks of ROWS = 32, added up in tiles of LINE = 16 columns.

A step of simd is four vectors of 4, 8 or 16 lanes: 16, 32 or 64 columns. Its second sum has tiles of 64.
"""

import numpy as np
import pytest

from tinygpt.kernels import registry
from tinygpt.testing import check, rmsnorm_case

ROWS, LINE = 32, 16
FLAGS = (False, True)
WIDTHS = [1, 2, 7, LINE - 1, LINE, LINE + 1, 2 * LINE + 5, 47, 63, 64, 65, 100, 131]
rmsnorm, rmsnorm_backward = pytest.mark.op("rmsnorm"), pytest.mark.op("rmsnorm_backward")


@rmsnorm
@pytest.mark.parametrize("C", WIDTHS)
@pytest.mark.parametrize("residual", FLAGS)
def test_equals_reference(function, threads, make, C, residual):
    """Catches missing last columns, a missing residual, and a mean that is subtracted as in layernorm."""
    for R in (0, 1, 5):
        check(function, make("rmsnorm", R=R, C=C, residual=residual), threads)


@rmsnorm_backward
@pytest.mark.parametrize("R", [0, 1, 2, ROWS - 1, ROWS, ROWS + 1, 3 * ROWS + 5])
@pytest.mark.parametrize("C", [1, 7, LINE - 1, LINE, LINE + 1, 37, 64, 65, 131])
def test_backward_equals_reference(function, threads, make, R, C):
    """Catches a partial chunk of rows that is lost or added twice, and dweight not written for zero rows."""
    check(function, make("rmsnorm_backward", R=R, C=C), threads)


@rmsnorm_backward
@pytest.mark.parametrize("dtotal", FLAGS)
@pytest.mark.parametrize("accumulate", FLAGS)
def test_backward_options(function, threads, make, dtotal, accumulate):
    """Catches gradients that overwrite instead of adding, and dtotal that is not added or added too early."""
    for R in (0, 3, ROWS + 2):
        check(function, make("rmsnorm_backward", R=R, C=21, dtotal=dtotal, accumulate=accumulate), threads)


@rmsnorm
def test_zero_row_stays_zero(function, threads):
    """Catches a division by zero without eps inside the root."""
    x = np.zeros((3, 40))
    x[1] = 5.0
    out = check(function, rmsnorm_case(3, 40, x=x), threads)["out"]
    assert (out[[0, 2]] == 0).all()


@rmsnorm
@pytest.mark.parametrize("size", [1e-30, 1e-6, 1e12])
def test_rows_of_any_size(function, threads, size):
    """Catches eps outside the root, and squares that overflow."""
    check(function, rmsnorm_case(3, 33, x=size * np.random.default_rng(1).standard_normal((3, 33))), threads)


@pytest.mark.op("rmsnorm", without=[registry.OWN])  # NumPy squares in float32
def test_squares_do_not_overflow(function, threads):
    """Catches squares in float32, which are infinite from 2^64 on and make the row zero."""
    check(function, rmsnorm_case(3, 101, x=1e30 * np.random.default_rng(1).standard_normal((3, 101))), threads)


@rmsnorm
def test_outlier(function, threads):
    """Catches a sum of squares that loses more of its small terms than rounding explains."""
    x = np.random.default_rng(2).standard_normal((3, 100))
    x[1, 50] = 1e5
    check(function, rmsnorm_case(3, 100, x=x), threads)


@rmsnorm
def test_every_column_counts_once(function):
    """Catches columns that the sum of squares skips."""
    for C in range(1, 132):
        x, out = np.eye(C, dtype=np.float32) * C, np.empty((C, C), np.float32)
        rstd = np.full(C, np.nan, np.float32)
        function(x, None, np.ones(C, np.float32), out, None, rstd, 0.0, 1)
        np.testing.assert_allclose(rstd, C**-0.5, rtol=2.0**-22)


@rmsnorm
def test_nan_stays_in_its_row(function, threads):
    """Catches a NaN that is lost, or that reaches the next row."""
    x = np.random.default_rng(4).standard_normal((3, 47)).astype(np.float32)
    x[1, 46] = np.nan
    out, rstd = np.zeros_like(x), np.zeros(3, np.float32)
    function(x, None, np.ones(47, np.float32), out, None, rstd, 1e-5, threads)
    np.testing.assert_array_equal(np.isnan(out).all(axis=1), [False, True, False])
    np.testing.assert_array_equal(np.isnan(out).any(axis=1), [False, True, False])


@rmsnorm_backward
def test_backward_counts_every_column(function):
    """Catches columns that a sum along a row skips: in each case only one product is not zero."""
    for C in range(1, 132):
        dy, x, dx = np.eye(C, dtype=np.float32) * C, np.ones((C, C), np.float32), np.full((C, C), np.nan, np.float32)
        rstd, weight, dweight = np.ones(C, np.float32), np.ones(C, np.float32), np.full(C, np.nan, np.float32)
        function(dy, x, weight, rstd, None, dx, dweight, False, 1)
        np.testing.assert_allclose(dx, dy - 1, rtol=2.0**-20)  # xhat is 1, and the mean of g xhat C / C
        np.testing.assert_array_equal(dweight, C)


@rmsnorm
def test_misaligned(function, make):
    """Catches aligned vector loads and stores."""
    check(function, make("rmsnorm", R=3, C=101, residual=True), 2, 4)


@rmsnorm_backward
def test_backward_misaligned(function, make):
    """Catches aligned vector loads and stores."""
    check(function, make("rmsnorm_backward", R=3, C=101, dtotal=True), 2, 4)
