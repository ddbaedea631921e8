"""Tests of csrc/activation.pyx: element-wise ops, whose only edges are vector widths, and the generator of dropout."""

import dataclasses
import math

import numpy as np
import pytest

from tinygpt import reference
from tinygpt.testing import (
    check,
    dropout_case,
    gelu_backward_case,
    gelu_case,
    run,
    shapes_around,
    swiglu_backward_case,
    swiglu_case,
)

LENGTHS = shapes_around(8, 16, 32, 64)
# The simd rung's pieces of 4096 elements, several of them, and the sizes up to which it uses one thread.
PIECES = [4095, 4096, 4097, 8193, 3 * 4096 + 5, 32769]
# Zeros of both signs, the smallest normal and subnormal numbers, both sides of each limit of the functions, and beyond.
# The cube of 1e20 is infinite in float32.
SPECIAL = [0.0, -0.0, 2.0**-126, -(2.0**-149), 1.0, -1.0, 5.5, -5.5, 9.1, -9.1, 88.8, -88.8, 120.0, -120.0, 1e4, -1e4]
HUGE = [*SPECIAL, 1e20, -1e20]


@pytest.mark.op("gelu")
@pytest.mark.parametrize("N", LENGTHS)
def test_gelu(function, threads, make, N):
    """Catches last elements of the array that are not computed, or with a different formula."""
    check(function, make("gelu", N=N), threads)


@pytest.mark.op("gelu_backward")
@pytest.mark.parametrize("N", LENGTHS)
def test_gelu_backward(function, threads, make, N):
    """Catches last elements that are not computed, and a derivative without its second term."""
    check(function, make("gelu_backward", N=N), threads)


@pytest.mark.op("gelu")
@pytest.mark.filterwarnings("ignore:overflow encountered in multiply")  # NumPy's: the tanh of infinity is right
def test_gelu_of_special_values(function):
    """Catches tanh as a quotient of exponentials (inf / inf from x = 44 on), and a polynomial beyond its interval."""
    out = check(function, gelu_case(len(HUGE), HUGE))["out"]
    np.testing.assert_array_equal(out[-4:], np.float32([1e4, 0, 1e20, 0]))


@pytest.mark.op("gelu_backward")
def test_gelu_slope_of_special_values(function):
    """Catches 0 times infinity where tanh is constant and x^2 is large."""
    case = gelu_backward_case(len(HUGE), HUGE)
    check(function, case)
    ones = dataclasses.replace(case, inputs=case.inputs | {"dy": np.ones_like(case.inputs["dy"])})
    np.testing.assert_array_equal(run(function, ones)["dx"][-4:], [1, 0, 1, 0])


@pytest.mark.op("swiglu")
@pytest.mark.parametrize("F", LENGTHS)
def test_swiglu(function, threads, make, F):
    """Catches swapped gate and up, and a half that is read from the wrong column on."""
    for R in (0, 1, 5):
        check(function, make("swiglu", R=R, F=F), threads)


@pytest.mark.op("swiglu_backward")
@pytest.mark.parametrize("F", LENGTHS)
def test_swiglu_backward(function, threads, make, F):
    """Catches the gradients of gate and up in the wrong halves, and a derivative without its second term."""
    for R in (0, 1, 5):
        check(function, make("swiglu_backward", R=R, F=F), threads)


@pytest.mark.op("swiglu")
def test_swiglu_of_special_values(function):
    """Catches inf / inf in the sigmoid, whose exponential overflows for gate < -88."""
    x = np.stack([SPECIAL, SPECIAL[::-1]]).astype(np.float32)
    check(function, swiglu_case(2, len(SPECIAL) // 2, x))


@pytest.mark.op("swiglu_backward")
def test_swiglu_backward_of_special_values(function):
    """Catches infinity times 0 in the derivative of the sigmoid."""
    x = np.stack([SPECIAL, SPECIAL[::-1]]).astype(np.float32)
    check(function, swiglu_backward_case(2, len(SPECIAL) // 2, x))


@pytest.mark.op("add")
@pytest.mark.parametrize("N", LENGTHS)
def test_add(function, threads, make, N):
    """Catches last elements of the array that are not computed."""
    check(function, make("add", N=N), threads)


@pytest.mark.op("gelu")
@pytest.mark.parametrize("N", PIECES)
def test_gelu_in_pieces(function, threads, make, N):
    """Catches a last piece that is not computed, or that begins at the wrong element."""
    check(function, make("gelu", N=N), threads)


@pytest.mark.op("gelu_backward")
@pytest.mark.parametrize("N", PIECES)
def test_gelu_backward_in_pieces(function, threads, make, N):
    """Catches a last piece that is not computed, and pieces of dy and x that do not match."""
    check(function, make("gelu_backward", N=N), threads)


@pytest.mark.op("add")
@pytest.mark.parametrize("N", PIECES)
def test_add_in_pieces(function, threads, make, N):
    """Catches a last piece that is not computed, and pieces of a and b that do not match."""
    check(function, make("add", N=N), threads)


@pytest.mark.op("swiglu")
def test_swiglu_of_many_rows(function, threads, make):
    """Catches rows that two threads compute, or no thread."""
    check(function, make("swiglu", R=33, F=257), threads)


@pytest.mark.op("swiglu_backward")
def test_swiglu_backward_of_many_rows(function, threads, make):
    """Catches rows that two threads compute, or no thread."""
    check(function, make("swiglu_backward", R=33, F=257), threads)


@pytest.mark.op("gelu")
def test_gelu_depends_only_on_the_value(function):
    """Catches a different formula for the last elements, by moving each element to other places in the array."""
    x = gelu_case(75).inputs["x"]
    whole = run(function, gelu_case(75, x))["out"]
    for first in range(64):
        assert run(function, gelu_case(75, x[first:]))["out"].tobytes() == whole[first:].tobytes()


@pytest.mark.op("gelu_backward")
def test_gelu_slope_depends_only_on_the_value(function):
    """Catches a different formula for the last elements."""
    x, dx = gelu_case(75).inputs["x"], np.empty((2, 75), np.float32)
    function(np.ones_like(x), x, dx[0], 1)
    for first in range(64):
        function(np.ones_like(x[first:]), x[first:], dx[1, first:], 1)
        assert dx[1, first:].tobytes() == dx[0, first:].tobytes()


@pytest.mark.op("swiglu")
def test_swiglu_depends_only_on_the_values(function):
    """Catches a different formula for the last elements."""
    gate, up = np.split(swiglu_case(1, 75).inputs["x"][0], 2)
    whole = run(function, swiglu_case(1, 75, np.stack([np.concatenate([gate, up])])))["out"]
    for first in range(64):
        part = np.stack([np.concatenate([gate[first:], up[first:]])])
        assert run(function, swiglu_case(1, 75 - first, part))["out"].tobytes() == whole[:, first:].tobytes()


@pytest.mark.op("swiglu_backward")
def test_swiglu_backward_depends_only_on_the_values(function):
    """Catches a different formula for the last elements of either half."""
    (gate, up), whole = np.split(swiglu_case(1, 75).inputs["x"][0], 2), np.empty((1, 150), np.float32)
    function(np.ones((1, 75), np.float32), np.concatenate([gate, up])[None], whole, 1)
    for first in range(64):
        part = np.empty((1, 2 * (75 - first)), np.float32)
        function(np.ones((1, 75 - first), np.float32), np.concatenate([gate[first:], up[first:]])[None], part, 1)
        assert part.tobytes() == whole.reshape(2, 75)[:, first:].tobytes()


@pytest.mark.op("dropout")
@pytest.mark.parametrize(
    "shape",
    [(0, 5, 1), (1, 0, 1), (1, 1, 1), (6, 17, 3), (7, 33, 3), (5, 64, 1), (3, 65, 2), (4, 199, 2), (70, 131, 32)],
    ids=str,
)
@pytest.mark.parametrize("residual", [False, True])
def test_dropout(function, threads, make, shape, residual):
    """Catches random numbers other than the documented ones, and a residual that is dropped or scaled too."""
    R, C, T = shape
    for rate in (0.0, 0.1, 0.9):
        check(function, make("dropout", R=R, C=C, T=T, rate=rate, residual=residual), threads)


@pytest.mark.op("dropout")
@pytest.mark.parametrize("name", ["key", "site", "sequence"])
def test_dropout_uses_all_64_bits(function, make, name):
    """Catches a key, site or sequence that is truncated to 32 bits or read as signed."""
    for value in (0, 2**31, 2**32 + 1, 2**63 - 1) + ((2**64 - 1,) if name == "key" else ()):
        check(function, make("dropout", R=4, C=9, T=2, rate=0.5, **{name: value}))


@pytest.mark.op("dropout")
def test_dropout_masks_differ(function):
    """Catches an argument that does not influence the mask; each must change some of 400 elements."""
    changes = [{}, {"key": 7}, {"site": 7}, {"sequence": 7}, {"T": 2}]
    masks = {
        (run(function, dropout_case(4, 100, rate=0.5, **({"T": 4} | change)))["out"] == 0).tobytes()
        for change in changes
    }
    assert len(masks) == len(changes)


@pytest.mark.op("dropout")
def test_dropout_drops_at_the_rate(function):
    """Catches a wrong threshold: n kept of N must be within 5 standard deviations of sqrt(N p (1 - p))."""
    for rate in (0.1, 0.5, 0.9):
        kept = np.count_nonzero(run(function, dropout_case(256, 1024, T=64, rate=rate), 2)["out"])
        N = 256 * 1024
        assert abs(kept - N * (1 - rate)) <= 5 * math.sqrt(N * rate * (1 - rate))


@pytest.mark.op("dropout")
def test_dropout_at_a_rate_close_to_1(function):
    """Catches a threshold of 32 bits: a rate of 1 - 2^-40 would round to 2^32 and drop everything."""
    case = dropout_case(4, 100, T=4, rate=1 - 2.0**-40)
    np.testing.assert_array_equal(run(function, case)["out"], 0)


@pytest.mark.op("dropout")
def test_dropout_mask_depends_only_on_the_position(function):
    """Catches a mask that depends on the batch: a sequence alone must get the mask that it gets in a batch."""
    B, T, C = 5, 6, 33
    whole = dropout_case(B * T, C, T=T, rate=0.5, residual=True, sequence=40)
    together = run(function, whole, 2)["out"]
    for b in range(B):
        rows = slice(b * T, (b + 1) * T)
        out = np.full((T, C), np.nan, np.float32)
        x, residual = whole.inputs["x"][rows], whole.inputs["residual"][rows]
        function(x, residual, out, 0.5, whole.inputs["key"], whole.inputs["site"], 40 + b, T, 1)
        np.testing.assert_array_equal(out, together[rows])


@pytest.mark.op("dropout")
def test_dropout_has_the_same_mask_in_backward(function):
    """Catches a mask that depends on the values: dropout of dy must use the same mask as dropout of x."""
    forward = run(function, dropout_case(12, 50, T=3, rate=0.5, seed=1))["out"]
    backward = run(function, dropout_case(12, 50, T=3, rate=0.5, seed=2))["out"]
    np.testing.assert_array_equal(forward == 0, backward == 0)


@pytest.mark.op("dropout")
def test_dropout_at_rate_0_copies_the_input(function):
    """Catches scaling or dropping at rate 0, where the output must be an exact copy."""
    case = dropout_case(5, 33, T=5, rate=0.0)
    np.testing.assert_array_equal(run(function, case)["out"], case.inputs["x"])


@pytest.mark.op("dropout")
def test_dropped_infinity_and_nan_are_zero(function):
    """Catches dropping by multiplication with 0, which gives NaN for infinity and NaN."""
    case = dropout_case(4, 50, T=4, rate=0.5)
    keep = reference.dropout_mask((4, 50), 0.5, case.inputs["key"], case.inputs["site"], case.inputs["sequence"], 4)
    x = np.where(keep, case.inputs["x"], np.float32(np.nan))
    out = run(function, dataclasses.replace(case, inputs=case.inputs | {"x": x}))["out"]
    assert (out[~keep] == 0).all()


@pytest.mark.op("gelu")
def test_gelu_misaligned(function, make):
    """Catches aligned vector loads and stores."""
    check(function, make("gelu", N=100), 2, 4)


@pytest.mark.op("gelu_backward")
def test_gelu_backward_misaligned(function, make):
    """Catches aligned vector loads and stores."""
    check(function, make("gelu_backward", N=100), 2, 4)


@pytest.mark.op("swiglu")
def test_swiglu_misaligned(function, make):
    """Catches aligned vector loads and stores."""
    check(function, make("swiglu", R=3, F=37), 2, 4)


@pytest.mark.op("swiglu_backward")
def test_swiglu_backward_misaligned(function, make):
    """Catches aligned vector loads and stores."""
    check(function, make("swiglu_backward", R=3, F=37), 2, 4)


@pytest.mark.op("dropout")
def test_dropout_misaligned(function, make):
    """Catches aligned vector loads and stores."""
    check(function, make("dropout", R=3, C=37, T=3, residual=True), 2, 4)
