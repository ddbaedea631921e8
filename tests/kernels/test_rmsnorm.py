"""csrc/rmsnorm.pyx: sums over rows in chunks of ROWS = 32, their second sum in tiles of LINE = 16 columns."""

import numpy as np
import pytest

from tinygpt.testing import check, rmsnorm_case

ROWS, LINE = 32, 16
FLAGS = (False, True)
WIDTHS = [1, 2, 7, LINE - 1, LINE, LINE + 1, 2 * LINE + 5, 64, 100]
rmsnorm, rmsnorm_backward = pytest.mark.op("rmsnorm"), pytest.mark.op("rmsnorm_backward")


@rmsnorm
@pytest.mark.parametrize("C", WIDTHS)
@pytest.mark.parametrize("residual", FLAGS)
def test_equals_reference(function, threads, make, C, residual):
    """Catches a dropped tail, a missing residual, and a mean that is taken out as layernorm does."""
    for R in (0, 1, 5):
        check(function, make("rmsnorm", R=R, C=C, residual=residual), threads)


@rmsnorm_backward
@pytest.mark.parametrize("R", [0, 1, 2, ROWS - 1, ROWS, ROWS + 1, 3 * ROWS + 5])
@pytest.mark.parametrize("C", [1, 7, LINE - 1, LINE, LINE + 1, 37])
def test_backward_equals_reference(function, threads, make, R, C):
    """Catches a partial chunk of rows that is lost or added twice, and zero rows leaving dweight unwritten."""
    check(function, make("rmsnorm_backward", R=R, C=C), threads)


@rmsnorm_backward
@pytest.mark.parametrize("dtotal", FLAGS)
@pytest.mark.parametrize("accumulate", FLAGS)
def test_backward_options(function, threads, make, dtotal, accumulate):
    """Catches a gradient that is written over what should be added to, and dtotal added nowhere or before the scale."""
    for R in (0, 3, ROWS + 2):
        check(function, make("rmsnorm_backward", R=R, C=21, dtotal=dtotal, accumulate=accumulate), threads)


@rmsnorm
def test_zero_row_stays_zero(function, threads):
    """Catches a division by zero: eps belongs inside the root."""
    x = np.zeros((3, 40))
    x[1] = 5.0
    out = check(function, rmsnorm_case(3, 40, x=x), threads)["out"]
    assert (out[[0, 2]] == 0).all()


@rmsnorm
@pytest.mark.parametrize("size", [1e-30, 1e-6, 1e12])
def test_rows_of_any_size(function, threads, size):
    """Catches eps outside of the root, and squares that overflow too early."""
    check(function, rmsnorm_case(3, 33, x=size * np.random.default_rng(1).standard_normal((3, 33))), threads)


@rmsnorm
def test_outlier(function, threads):
    """Catches a sum of squares that loses its smaller terms in ways that no order of summation explains."""
    x = np.random.default_rng(2).standard_normal((3, 100))
    x[1, 50] = 1e5
    check(function, rmsnorm_case(3, 100, x=x), threads)


@rmsnorm
def test_misaligned(function, make):
    """Catches aligned vector loads and stores."""
    check(function, make("rmsnorm", R=3, C=37, residual=True), 2, 4)


@rmsnorm_backward
def test_backward_misaligned(function, make):
    """Catches aligned vector loads and stores."""
    check(function, make("rmsnorm_backward", R=3, C=37, dtotal=True), 2, 4)
