"""Tests of csrc/layernorm.pyx: sums over rows in chunks of ROWS = 32, added up in tiles of LINE = 16 columns.

A step of simd is four vectors of 4, 8 or 16 lanes: 16, 32 or 64 columns. Its second sum has tiles of 64.
"""

import numpy as np
import pytest

from tinygpt.kernels import registry
from tinygpt.testing import check, layernorm_case

ROWS, LINE = 32, 16
FLAGS = (False, True)
WIDTHS = [1, 2, 7, LINE - 1, LINE, LINE + 1, 2 * LINE + 5, 47, 63, 64, 65, 100, 131]
layernorm, layernorm_backward = pytest.mark.op("layernorm"), pytest.mark.op("layernorm_backward")


@layernorm
@pytest.mark.parametrize("C", WIDTHS)
@pytest.mark.parametrize("residual", FLAGS)
@pytest.mark.parametrize("bias", FLAGS)
def test_equals_reference(function, threads, make, C, residual, bias):
    """Catches missing last columns, a missing bias or residual, and statistics of x instead of x + residual."""
    for R in (0, 1, 5):
        check(function, make("layernorm", R=R, C=C, residual=residual, bias=bias), threads)


@layernorm_backward
@pytest.mark.parametrize("R", [0, 1, 2, ROWS - 1, ROWS, ROWS + 1, 3 * ROWS + 5])
@pytest.mark.parametrize("C", [1, 7, LINE - 1, LINE, LINE + 1, 37, 64, 65, 131])
def test_backward_equals_reference(function, threads, make, R, C):
    """Catches a partial chunk of rows that is lost or added twice, and dweight not written for zero rows."""
    check(function, make("layernorm_backward", R=R, C=C), threads)


@layernorm_backward
@pytest.mark.parametrize("dtotal", FLAGS)
@pytest.mark.parametrize("bias", FLAGS)
@pytest.mark.parametrize("accumulate", FLAGS)
def test_backward_options(function, threads, make, dtotal, bias, accumulate):
    """Catches gradients that overwrite instead of adding, and dtotal that is not added or added too early."""
    for R in (0, 3, ROWS + 2):
        case = make("layernorm_backward", R=R, C=21, dtotal=dtotal, bias=bias, accumulate=accumulate)
        check(function, case, threads)


@layernorm
def test_equal_elements_give_the_bias(function, threads):
    """Catches a negative variance under the root, and a division by zero."""
    case = layernorm_case(4, 48, x=np.repeat(np.float32([0, 1, -3, 0.1]), 48).reshape(4, 48))
    out = check(function, case, threads)["out"]
    np.testing.assert_array_equal(out[0], case.inputs["bias"])


@layernorm
def test_mean_far_from_zero(function, threads):
    """Catches the variance as a mean of squares minus a squared mean, which loses its digits for a large mean."""
    x = 1e4 + np.random.default_rng(0).standard_normal((3, 64))
    check(function, layernorm_case(3, 64, x=x), threads)


@layernorm
@pytest.mark.parametrize("size", [1e-30, 1e-6, 1e12])
def test_rows_of_any_size(function, threads, size):
    """Catches a missing eps for rows of almost zeros, and squares that overflow."""
    check(function, layernorm_case(3, 33, x=size * np.random.default_rng(1).standard_normal((3, 33))), threads)


@pytest.mark.op("layernorm", without=[registry.OWN])  # NumPy squares in float32
def test_squares_do_not_overflow(function, threads):
    """Catches squares in float32, which are infinite from 2^64 on and make the row zero."""
    check(function, layernorm_case(3, 101, x=1e30 * np.random.default_rng(1).standard_normal((3, 101))), threads)


@layernorm
def test_outlier(function, threads):
    """Catches sums that lose more of the small elements beside a large one than rounding explains."""
    x = np.random.default_rng(2).standard_normal((3, 100))
    x[1, 50] = 1e5
    check(function, layernorm_case(3, 100, x=x), threads)


@pytest.mark.op("layernorm", without=[registry.OWN])  # NumPy has a plain float sum
@pytest.mark.parametrize("C", [47, 1000, 20_011])
def test_mean_is_exact_up_to_rounding(function, C):
    """Catches a mean from a float32 sum, whose error would shift every deviation."""
    values = (np.random.default_rng(3).uniform(1, 10, 32) * 10.0 ** (np.arange(32) % 16)).astype(np.float32)
    x, weight, bias = np.repeat(values[:, None], C, axis=1), np.ones(C, np.float32), np.ones(C, np.float32)
    out, (mean, rstd) = np.full_like(x, np.nan), np.full((2, 32), np.nan, np.float32)
    function(x, None, weight, bias, out, None, mean, rstd, 1e-5, 1)
    np.testing.assert_array_equal(mean, values)
    np.testing.assert_array_equal(out, 1)


@pytest.mark.op("layernorm", without=[registry.OWN])  # NumPy has a plain float sum
def test_variance_is_not_negative(function):
    """Catches the root of a negative number: in very long rows of equal elements the sum of deviations is rounded."""
    C = 300_007
    x = np.repeat((1e12 * np.random.default_rng(4).uniform(1, 10, 16)).astype(np.float32)[:, None], C, axis=1)
    out, (mean, rstd) = np.empty_like(x), np.full((2, 16), np.nan, np.float32)
    function(x, None, np.ones(C, np.float32), None, out, None, mean, rstd, 1e-5, 2)
    assert np.isfinite(rstd).all()


@layernorm
def test_every_column_counts_once(function):
    """Catches columns that mean or variance skip, and padding lanes that count in the variance."""
    for C in range(1, 132):
        x, out = np.eye(C, dtype=np.float32) * C, np.empty((C, C), np.float32)
        mean, rstd = np.full((2, C), np.nan, np.float32)
        function(x, None, np.ones(C, np.float32), None, out, None, mean, rstd, 1.0, 1)
        np.testing.assert_allclose(mean, 1, rtol=2.0**-22)
        np.testing.assert_allclose(rstd, C**-0.5, rtol=2.0**-20)  # C^2 / C - 1 is the variance, 1 is eps


@layernorm
def test_nan_stays_in_its_row(function, threads):
    """Catches a variance of zero instead of NaN, and a NaN that reaches the next row."""
    x = np.random.default_rng(4).standard_normal((3, 47)).astype(np.float32)
    x[1, 46] = np.nan
    out, (mean, rstd) = np.zeros_like(x), np.zeros((2, 3), np.float32)
    function(x, None, np.ones(47, np.float32), None, out, None, mean, rstd, 1e-5, threads)
    np.testing.assert_array_equal(np.isnan(out).all(axis=1), [False, True, False])
    np.testing.assert_array_equal(np.isnan(out).any(axis=1), [False, True, False])


@layernorm_backward
def test_backward_counts_every_column(function):
    """Catches columns that a sum along a row skips: in each case only one product is not zero."""
    for C in range(1, 132):
        dy, x, dx = np.eye(C, dtype=np.float32) * C, np.ones((C, C), np.float32), np.full((C, C), np.nan, np.float32)
        mean, rstd, weight = np.full(C, -1, np.float32), np.ones(C, np.float32), np.ones(C, np.float32)
        dweight, dbias = np.full((2, C), np.nan, np.float32)
        function(dy, x, weight, mean, rstd, None, dx, dweight, dbias, False, 1)
        np.testing.assert_allclose(dx, dy - 1 - 2 * 2, rtol=2.0**-20)  # xhat is 2, and both means of C elements one sum
        np.testing.assert_array_equal(dweight, 2 * C)
        np.testing.assert_array_equal(dbias, C)


@layernorm
def test_misaligned(function, make):
    """Catches aligned vector loads and stores."""
    check(function, make("layernorm", R=3, C=101, residual=True), 2, 4)


@layernorm_backward
def test_backward_misaligned(function, make):
    """Catches aligned vector loads and stores."""
    check(function, make("layernorm_backward", R=3, C=101, dtotal=True), 2, 4)
