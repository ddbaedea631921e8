"""csrc/layernorm.pyx: sums over rows in chunks of ROWS = 32, their second sum in tiles of LINE = 16 columns."""

import numpy as np
import pytest

from tinygpt.testing import check, layernorm_case

ROWS, LINE = 32, 16
FLAGS = (False, True)
WIDTHS = [1, 2, 7, LINE - 1, LINE, LINE + 1, 2 * LINE + 5, 64, 100]
layernorm, layernorm_backward = pytest.mark.op("layernorm"), pytest.mark.op("layernorm_backward")


@layernorm
@pytest.mark.parametrize("C", WIDTHS)
@pytest.mark.parametrize("residual", FLAGS)
@pytest.mark.parametrize("bias", FLAGS)
def test_equals_reference(function, threads, make, C, residual, bias):
    """Catches a dropped tail, a missing bias or residual, and statistics of x where those of the total are due."""
    for R in (0, 1, 5):
        check(function, make("layernorm", R=R, C=C, residual=residual, bias=bias), threads)


@layernorm_backward
@pytest.mark.parametrize("R", [0, 1, 2, ROWS - 1, ROWS, ROWS + 1, 3 * ROWS + 5])
@pytest.mark.parametrize("C", [1, 7, LINE - 1, LINE, LINE + 1, 37])
def test_backward_equals_reference(function, threads, make, R, C):
    """Catches a partial chunk of rows that is lost or added twice, and zero rows leaving dweight unwritten."""
    check(function, make("layernorm_backward", R=R, C=C), threads)


@layernorm_backward
@pytest.mark.parametrize("dtotal", FLAGS)
@pytest.mark.parametrize("bias", FLAGS)
@pytest.mark.parametrize("accumulate", FLAGS)
def test_backward_options(function, threads, make, dtotal, bias, accumulate):
    """Catches a gradient that is written over what should be added to, and dtotal added nowhere or before the scale."""
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
    """Catches a variance from sum of squares less square of the sum, which cancels when the mean is large."""
    x = 1e4 + np.random.default_rng(0).standard_normal((3, 64))
    check(function, layernorm_case(3, 64, x=x), threads)


@layernorm
@pytest.mark.parametrize("size", [1e-30, 1e-6, 1e12])
def test_rows_of_any_size(function, threads, size):
    """Catches a missing eps in rows of nearly zeros, and squares that overflow too early."""
    check(function, layernorm_case(3, 33, x=size * np.random.default_rng(1).standard_normal((3, 33))), threads)


@layernorm
def test_outlier(function, threads):
    """Catches sums that lose the small elements beside one large one in ways that no order of summation explains."""
    x = np.random.default_rng(2).standard_normal((3, 100))
    x[1, 50] = 1e5
    check(function, layernorm_case(3, 100, x=x), threads)


@layernorm
def test_misaligned(function, make):
    """Catches aligned vector loads and stores."""
    check(function, make("layernorm", R=3, C=37, residual=True), 2, 4)


@layernorm_backward
def test_backward_misaligned(function, make):
    """Catches aligned vector loads and stores."""
    check(function, make("layernorm_backward", R=3, C=37, dtotal=True), 2, 4)
