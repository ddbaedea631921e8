"""Tests of csrc/simd/math.h: exponential, sigmoid and GELU over all of float32, through ops that expose them."""

import numpy as np
import pytest

from tinygpt.kernels import isa, registry
from tinygpt.testing import check, gelu_backward_case, gelu_case

from .conftest import every

# The error of exp that math.h promises, in units in the last place. The relative error is at most as many times 2^-23.
EXP = 1.02
TINY = 2.0**-126  # the smallest normal float32
LOWEST, HIGHEST = -87.33654, 88.72283  # exp is 0 below and infinite above, to the nearest 10^-5
EDGES = [0.0, -0.0, np.inf, -np.inf, LOWEST, -LOWEST, HIGHEST, -HIGHEST, 89.0, -89.0, 104.0, -104.0, 2.0**-149, TINY]


def whole_range():
    """Return every exponent with both signs and random mantissas, a dense grid where exp is finite, and the edges."""
    rng = np.random.default_rng(0)
    exponents = np.arange(255, dtype=np.uint32)[:, None, None] << 23
    mantissas = rng.integers(0, 2**23, (255, 30, 2), dtype=np.uint32)
    mantissas[:, 0], mantissas[:, 1] = 0, 2**23 - 1
    signs = np.uint32([0, 2**31])
    edges = np.float32(EDGES)
    steps = [edges]
    for _ in range(3):
        steps += [np.nextafter(steps[-1], np.float32(200)), np.nextafter(steps[-1], np.float32(-200))]
    dense = rng.uniform(-104, 89, 200_000).astype(np.float32)
    return np.concatenate([(exponents | mantissas | signs).view(np.float32).ravel(), dense, *steps])


X = whole_range()


def units(got, wanted):
    """Return the error of `got` in units in the last place of the exact result."""
    spacing = 2.0 ** np.maximum(np.floor(np.log2(np.maximum(abs(wanted), 2.0**-149))) - 23, -149)
    return abs(got.astype(np.float64) - wanted) / spacing


@pytest.fixture
def using(name):
    """Return the functions of the simd rung, at the instruction set of this run."""
    before = isa.get()
    isa.use(name)
    yield lambda op: registry.function(op, "simd")
    isa.use(before)


def exp(function, x):
    """Compute exp(x) as the gradient of a cross-entropy with lse = 0 and scale = 1, whose target is an extra column."""
    width = 256
    rows = -(-x.size // width)
    logits = np.zeros((rows, 1 + width), np.float32)
    logits[:, 1:].flat[: x.size] = x
    out = np.full_like(logits, np.nan)
    function(logits, np.zeros(rows, np.int32), np.zeros(rows, np.float32), out, 1.0, 1)
    return out[:, 1:].ravel()[: x.size]


def gated(function, x):
    """Compute x sigmoid(x), which is swiglu with up = 1."""
    out = np.full((1, x.size), np.nan, np.float32)
    function(np.concatenate([x, np.ones_like(x)])[None], out, 1)
    return out[0]


@pytest.mark.parametrize("name", isa.available())
def test_error_of_exp_is_at_most_one_unit(using, name):
    """Catches a wrong coefficient, a wrong part of ln 2, and a power 2^n outside the range of a float."""
    with np.errstate(over="ignore"):
        wanted = np.exp(X.astype(np.float64))
        infinite = np.isinf(wanted.astype(np.float32))
    got = exp(using("cross_entropy_backward"), X)
    normal = (wanted >= TINY) & ~infinite
    assert units(got[normal], wanted[normal]).max() <= EXP
    np.testing.assert_array_equal(got[wanted < TINY], 0)
    np.testing.assert_array_equal(got[infinite], np.inf)
    np.testing.assert_array_equal(got[X == 0], 1)


@pytest.mark.parametrize("name", isa.available())
def test_exp_is_monotonic_up_to_rounding(using, name):
    """Catches a jump where n changes: exp of a larger number may be smaller only by rounding, 2 units on each side."""
    x = np.sort(X[abs(X) < HIGHEST])
    got = exp(using("cross_entropy_backward"), x).astype(np.float64)
    assert (got[1:] >= got[:-1] * (1 - 4 * 2.0**-23)).all()


@pytest.mark.parametrize("name", isa.available())
def test_sigmoid(using, name):
    """Catches inf / inf, cancellation for negative x, and an exponential with the wrong sign.

    Relative to the result, exp is off by EXP 2^-23 and counts at most once; 1 + exp, the quotient and the product with
    x are rounded, 2^-24 each. Where exp(-x) is infinite, 0 stands for a sigmoid below 2^-128.
    """
    x = X[~np.isneginf(X)]
    with np.errstate(over="ignore"):
        wanted = x.astype(np.float64) / (1 + np.exp(-x.astype(np.float64)))
    got = gated(using("swiglu"), x)
    finite = np.isfinite(x)
    room = (EXP + 1.5) * 2.0**-23 * abs(wanted) + np.where(x < LOWEST, abs(x.astype(np.float64)) * 2.0**-127, 2.0**-149)
    assert (abs(got[finite].astype(np.float64) - wanted[finite]) <= room[finite]).all()
    np.testing.assert_array_equal(got[~finite], np.inf)


@pytest.mark.parametrize("name", isa.available())
@pytest.mark.filterwarnings("ignore:overflow encountered")  # the reference's: its cube of a large number is infinite
def test_gelu_and_its_slope(using, name):
    """Catches a limit that is too small, and an intermediate product that overflows although the result does not."""
    x = X[abs(X) < 1e30]
    check(using("gelu"), gelu_case(x.size, x))
    check(using("gelu_backward"), gelu_backward_case(x.size, x))


@pytest.mark.parametrize("name", isa.available())
def test_nan_stays_nan(using, name):
    """Catches a limit that replaces a NaN, in any lane and in the last elements, and a NaN that spreads."""
    for at in range(37):
        x = np.linspace(-3, 3, 37, dtype=np.float32)
        x[at] = np.nan
        slope, value = np.empty_like(x), np.empty_like(x)
        using("gelu_backward")(np.ones_like(x), x, slope, 1)
        using("gelu")(x, value, 1)
        for got in (exp(using("cross_entropy_backward"), x), gated(using("swiglu"), x), value, slope):
            np.testing.assert_array_equal(np.isnan(got), np.isnan(x))


@pytest.mark.parametrize("op", ["gelu", "gelu_backward", "swiglu", "swiglu_backward", "cross_entropy_backward"])
def test_simd_runs_at_every_instruction_set(op):
    """Catches an op without its simd rung, for which the tests above would check a lower rung."""
    assert [name.partition("-")[2] for name in every(op) if name.startswith("simd")] == list(isa.available())
