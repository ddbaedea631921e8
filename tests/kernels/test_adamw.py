"""Tests of csrc/adamw.pyx: updates and sums of squares in chunks of CHUNK = 4096 elements."""

import dataclasses
import math

import numpy as np
import pytest

from tinygpt.testing import adamw_case, check, run, shapes_around, squared_norm_case

CHUNK = 4096
LENGTHS = [*shapes_around(8, 16, 32, 64), CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5, 5 * CHUNK + 63]
adamw, squared_norm = pytest.mark.op("adamw"), pytest.mark.op("squared_norm")


@adamw
@pytest.mark.parametrize("N", LENGTHS)
def test_equals_reference(function, threads, make, N):
    """Catches last elements or chunks that are updated never or twice."""
    check(function, make("adamw", N=N), threads)


@adamw
@pytest.mark.parametrize("step", [1, 2, 1000, 10**6])
@pytest.mark.parametrize("betas", [(0.9, 0.95), (0.9, 0.999), (0.875, 0.5)], ids=str)
def test_bias_correction(function, threads, make, step, betas):
    """Catches steps counted from 0, 1 - beta computed in float32, and a missing power of beta."""
    check(function, make("adamw", N=37, step=step, beta1=betas[0], beta2=betas[1]), threads)


@adamw
@pytest.mark.parametrize("scalars", [{"weight_decay": 0.0}, {"lr": 0.0}, {"grad_scale": 0.0}, {"eps": 1.0}], ids=str)
def test_scalars(function, threads, make, scalars):
    """Catches two swapped scalar arguments: each is given a value that changes the result clearly."""
    check(function, make("adamw", N=37, **scalars), threads)


@adamw
@pytest.mark.parametrize("size", [0.0, 1e-20, 1e-5, 1e10])
def test_gradients_of_any_size(function, threads, size):
    """Catches 0 / 0 without eps, and eps inside the root, where it stops updates from small gradients."""
    grad = size * np.random.default_rng(0).standard_normal(37)
    check(function, adamw_case(37, step=1, grad=grad, grad_scale=1.0), threads)


@adamw
def test_first_step_is_the_sign(function):
    """Catches a wrong bias correction: from zero moments every parameter moves by lr, against its gradient's sign."""
    case = adamw_case(50, step=1, lr=0.5, weight_decay=0.0, grad_scale=1.0)
    wanted = case.inputs["param"] - 0.5 * np.sign(case.inputs["grad"])
    # eps makes the step shorter by eps / |g|; the rest is rounding, for which the case has its bound.
    room = case.bounds["param"] + 0.5 * 1e-8 / abs(case.inputs["grad"])
    assert (abs(run(function, case)["param"] - wanted.astype(np.float64)) <= room + 2.0**-24 * abs(wanted)).all()


@adamw
def test_decay_is_decoupled(function):
    """Catches weight decay that enters the moments: without a gradient a weight shrinks by lr times weight_decay."""
    case = adamw_case(50, lr=0.5, weight_decay=0.25, grad_scale=0.0, step=1)
    result = run(function, case)
    assert (abs(result["param"] - 0.875 * case.inputs["param"].astype(np.float64)) <= case.bounds["param"]).all()
    np.testing.assert_array_equal(result["m"], 0)


@adamw
def test_update_depends_only_on_the_values(function):
    """Catches a different formula for the last elements, by moving each element to other places in the array."""
    inputs = adamw_case(75).inputs
    whole = [inputs[name].copy() for name in ("param", "grad", "m", "v")]
    function(*whole, 1e-3, 0.9, 0.95, 1e-8, 0.1, 3, 0.5, 1)
    for first in range(64):
        part = [inputs[name][first:].copy() for name in ("param", "grad", "m", "v")]
        function(*part, 1e-3, 0.9, 0.95, 1e-8, 0.1, 3, 0.5, 1)
        for one, other in zip(part, whole, strict=True):
            assert one.tobytes() == other[first:].tobytes()


@adamw
def test_nan_does_not_spread(function):
    """Catches a NaN in a gradient that disappears, or that spreads to other parameters."""
    case = adamw_case(37)
    for at in range(37):
        grad = case.inputs["grad"].copy()
        grad[at] = np.nan
        result = run(function, dataclasses.replace(case, inputs=case.inputs | {"grad": grad}))
        for name in ("param", "m", "v"):
            np.testing.assert_array_equal(np.isnan(result[name]), np.isnan(grad))


@adamw
def test_misaligned(function, make):
    """Catches aligned vector loads and stores."""
    check(function, make("adamw", N=100), 2, 4)


@squared_norm
@pytest.mark.parametrize("N", LENGTHS)
def test_squared_norm(function, threads, make, N):
    """Catches missing last elements, a chunk added twice, and a sum in float32 (the bound is that of a double)."""
    check(function, make("squared_norm", N=N), threads)


@squared_norm
def test_squared_norm_counts_every_element_once(function):
    """Catches an element that is added never or twice: a single 3 anywhere must give 9."""
    for N in (64, 150):
        for at in range(N):
            x = np.zeros(N, np.float32)
            x[at] = 3
            assert function(x, 1) == 9


@squared_norm
def test_squared_norm_does_not_overflow(function, threads):
    """Catches squares in float32, where 1e30 squared overflows."""
    result = run(function, squared_norm_case(5000, np.full(5000, 1e30)), threads)["result"]
    assert isinstance(result, float)
    assert math.isclose(result, 5000 * float(np.float32(1e30)) ** 2, rel_tol=1e-11)


@squared_norm
def test_squared_norm_of_nan_and_infinity(function, threads):
    """Catches a norm that hides NaN or infinity in a gradient."""
    for bad in (np.nan, np.inf):
        x = np.ones(CHUNK + 9, np.float32)
        x[-1] = bad
        np.testing.assert_equal(function(x, threads), bad)


@squared_norm
def test_squared_norm_misaligned(function, make):
    """Catches aligned vector loads."""
    check(function, make("squared_norm", N=100), 2, 4)
