"""Tests of csrc/cross_entropy.pyx: blocks of BLOCK = 4096 columns under a running maximum, in simd of SMALL = 1024.

A step of simd is four vectors of 4, 8 or 16 lanes: 16, 32 or 64 columns.
"""

import numpy as np
import pytest

from tinygpt.testing import check, cross_entropy_backward_case, cross_entropy_case

BLOCK, SMALL = 4096, 1024
WIDTHS = [1, 2, 7, 13, 15, 16, 17, 33, 47, 63, 64, 65, 127, SMALL - 1, SMALL, SMALL + 1]
WIDTHS += [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3]
FLAGS = (False, True)
cross_entropy, cross_entropy_backward = pytest.mark.op("cross_entropy"), pytest.mark.op("cross_entropy_backward")


@cross_entropy
@pytest.mark.parametrize("V", WIDTHS)
def test_equals_reference(function, threads, make, V):
    """Catches missing last columns, a target read from another row, and an ignored row without lse."""
    for R in (0, 1, 7):
        check(function, make("cross_entropy", R=R, V=V, ignored=R > 1), threads)


@cross_entropy_backward
@pytest.mark.parametrize("V", WIDTHS)
@pytest.mark.parametrize("in_place", FLAGS)
def test_backward_equals_reference(function, threads, make, V, in_place):
    """Catches a logit that is read after its gradient overwrote it, and an ignored row with a gradient."""
    for R in (0, 1, 7):
        check(function, make("cross_entropy_backward", R=R, V=V, ignored=R > 1, in_place=in_place), threads)


@cross_entropy
def test_all_targets_ignored(function, threads):
    """Catches a loss in ignored rows, and an lse that is not written for them."""
    losses = check(function, cross_entropy_case(5, 40, targets=[-1, -100, -(2**31), -1, -2]), threads)["losses"]
    np.testing.assert_array_equal(losses, 0)


@cross_entropy
def test_first_and_last_target(function, threads):
    """Catches a target that is off by one."""
    logits = np.random.default_rng(0).standard_normal((4, BLOCK + 1))
    check(function, cross_entropy_case(4, BLOCK + 1, logits=logits, targets=[0, BLOCK, BLOCK - 1, 1]), threads)


@cross_entropy
def test_loss_of_equal_logits_is_their_logarithm(function, threads):
    """Catches log2, and a maximum that starts at zero: every target must cost ln V."""
    for V in (1, 2, 15, 47, 300):
        case = cross_entropy_case(3, V, logits=np.full((3, V), -500.0))
        losses = check(function, case, threads)["losses"]
        assert (abs(losses - np.log(V)) <= case.bounds["losses"]).all()


@cross_entropy
@pytest.mark.filterwarnings("ignore:overflow encountered in subtract")  # NumPy's: -3e38 - 3e38 is -inf, as it should
@pytest.mark.parametrize("largest", [100.0, 1e4, 1e30, 3e38])
def test_outliers_do_not_overflow(function, threads, largest):
    """Catches an exponential taken before the maximum is subtracted, which overflows."""
    logits = np.random.default_rng(1).standard_normal((3, BLOCK + 9))
    logits[0, 5], logits[1, -1], logits[1, 0], logits[2, 7] = largest, largest, -largest, -largest
    check(function, cross_entropy_case(*logits.shape, logits=logits, targets=[5, 3, 7]), threads)


@cross_entropy
def test_masked_logits(function, threads):
    """Catches -inf - (-inf) in a row that begins with masked logits; a masked target costs infinity."""
    logits = np.random.default_rng(2).standard_normal((4, BLOCK + 9))
    logits[0, 0] = logits[1, :BLOCK] = logits[2, :-1] = logits[3, 4] = -np.inf
    targets = [1, BLOCK + 1, BLOCK + 8, 4]
    losses = check(function, cross_entropy_case(*logits.shape, logits=logits, targets=targets), threads)["losses"]
    assert losses[3] == np.inf
    assert losses[2] == 0


@cross_entropy_backward
@pytest.mark.parametrize("in_place", FLAGS)
def test_backward_masked_logits(function, threads, in_place):
    """Catches NaN for a logit of -inf: its probability and its gradient are 0."""
    logits = np.random.default_rng(3).standard_normal((3, 50))
    logits[:, ::2] = -np.inf
    logits[1, 1] = 1e4
    case = cross_entropy_backward_case(3, 50, logits=logits, in_place=in_place)
    check(function, case, threads)


@cross_entropy
def test_maximum_anywhere(function):
    """Catches elements that the maximum skips: their exponential would be infinite."""
    for V in (*range(1, 132), SMALL + 70):
        logits = np.full((V, V), -1000, np.float32)
        np.fill_diagonal(logits, 1000)
        losses, lse = np.full((2, V), np.nan, np.float32)
        function(logits, np.arange(V, dtype=np.int32), losses, lse, 1)
        np.testing.assert_array_equal(lse, 1000)
        np.testing.assert_array_equal(losses, 0)


@cross_entropy
def test_every_logit_counts_once(function):
    """Catches elements that the sum skips or adds twice: V zeros must have lse ln V."""
    for V in (*range(1, 132), SMALL + 70):
        losses, lse = np.full((2, 1), np.nan, np.float32)
        function(np.zeros((1, V), np.float32), np.zeros(1, np.int32), losses, lse, 1)
        assert round(float(np.exp(np.float64(lse[0])))) == V


@cross_entropy
def test_maximum_renewed_in_every_block(function, threads):
    """Catches a sum that is not rescaled to a new maximum, or that is rescaled twice."""
    logits = np.linspace(-20, 20, 2 * BLOCK + 1, dtype=np.float32)[None]
    for row in (logits, logits[:, ::-1]):
        check(function, cross_entropy_case(*row.shape, logits=row, targets=[0]), threads)


@cross_entropy
@pytest.mark.parametrize("V", [1, 47, 64, BLOCK + 5])
def test_nan_stays_in_its_row(function, threads, V):
    """Catches a NaN that is lost, or that reaches the next row."""
    logits = np.random.default_rng(4).standard_normal((3, V)).astype(np.float32)
    for place in {0, V // 2, V - 1}:
        logits[1] = 0
        logits[1, place] = np.nan
        losses, lse = np.zeros((2, 3), np.float32)
        function(logits, np.zeros(3, np.int32), losses, lse, threads)
        np.testing.assert_array_equal(np.isnan([losses, lse]), [[False, True, False]] * 2)


@cross_entropy_backward
@pytest.mark.parametrize("V", [15, 64, 70])
def test_backward_of_every_target(function, V):
    """Catches a target that is missed among the last columns, or subtracted from the column beside it."""
    dlogits = np.full((V, V), np.nan, np.float32)
    lse = np.full(V, np.inf, np.float32)
    function(np.zeros((V, V), np.float32), np.arange(V, dtype=np.int32), lse, dlogits, 0.5, 1)
    np.testing.assert_array_equal(dlogits, -0.5 * np.eye(V))


@cross_entropy
@pytest.mark.parametrize("V", [37, SMALL + 37])
def test_misaligned(function, make, V):
    """Catches aligned vector loads."""
    check(function, make("cross_entropy", R=3, V=V), 2, 4)


@cross_entropy_backward
@pytest.mark.parametrize("in_place", FLAGS)
def test_backward_misaligned(function, make, in_place):
    """Catches aligned vector loads and stores."""
    check(function, make("cross_entropy_backward", R=3, V=101, in_place=in_place), 2, 4)
