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
    """Catches a tail or chunk that is left out or updated twice."""
    check(function, make("adamw", N=N), threads)


@adamw
@pytest.mark.parametrize("step", [1, 2, 1000, 10**6])
@pytest.mark.parametrize("betas", [(0.9, 0.95), (0.9, 0.999), (0.875, 0.5)], ids=str)
def test_bias_correction(function, threads, make, step, betas):
    """Catches a step that counts from 0, 1 - beta in float32, and a power that is left out."""
    check(function, make("adamw", N=37, step=step, beta1=betas[0], beta2=betas[1]), threads)


@adamw
@pytest.mark.parametrize("scalars", [{"weight_decay": 0.0}, {"lr": 0.0}, {"grad_scale": 0.0}, {"eps": 1.0}], ids=str)
def test_scalars(function, threads, make, scalars):
    """Catches a scalar that is read in another's place: each is set to where it matters most."""
    check(function, make("adamw", N=37, **scalars), threads)


@adamw
@pytest.mark.parametrize("size", [0.0, 1e-20, 1e-5, 1e10])
def test_gradients_of_any_size(function, threads, size):
    """Catches 0 / 0 without eps, and eps inside of the root, where it stops small gradients from moving anything."""
    grad = size * np.random.default_rng(0).standard_normal(37)
    check(function, adamw_case(37, step=1, grad=grad, grad_scale=1.0), threads)


@adamw
def test_first_step_is_the_sign(function):
    """Catches a correction of the wrong moment: from zero moments, every parameter moves by lr against its gradient."""
    case = adamw_case(50, step=1, lr=0.5, weight_decay=0.0, grad_scale=1.0)
    wanted = case.inputs["param"] - 0.5 * np.sign(case.inputs["grad"])
    # eps makes the step shorter by eps / |g|; the rest is rounding, for which the case has its bound.
    room = case.bounds["param"] + 0.5 * 1e-8 / abs(case.inputs["grad"])
    assert (abs(run(function, case)["param"] - wanted.astype(np.float64)) <= room + 2.0**-24 * abs(wanted)).all()


@adamw
def test_decay_is_decoupled(function):
    """Catches weight decay that goes through the moments: without a gradient it takes lr weight_decay of the rest."""
    case = adamw_case(50, lr=0.5, weight_decay=0.25, grad_scale=0.0, step=1)
    result = run(function, case)
    assert (abs(result["param"] - 0.875 * case.inputs["param"].astype(np.float64)) <= case.bounds["param"]).all()
    np.testing.assert_array_equal(result["m"], 0)


@adamw
def test_depends_on_the_values_alone(function):
    """Catches another formula for the remaining elements: no bit may change when the arrays are cut from the left."""
    inputs = adamw_case(75).inputs
    whole = [inputs[name].copy() for name in ("param", "grad", "m", "v")]
    function(*whole, 1e-3, 0.9, 0.95, 1e-8, 0.1, 3, 0.5, 1)
    for first in range(64):
        part = [inputs[name][first:].copy() for name in ("param", "grad", "m", "v")]
        function(*part, 1e-3, 0.9, 0.95, 1e-8, 0.1, 3, 0.5, 1)
        for one, other in zip(part, whole, strict=True):
            assert one.tobytes() == other[first:].tobytes()


@adamw
def test_nan_stays_where_it_is(function):
    """Catches a root or quotient that hides a gradient gone wrong, and one that spreads to other parameters."""
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
    """Catches a tail that is left out, a chunk counted twice, and a sum in float32: the bound is that of double."""
    check(function, make("squared_norm", N=N), threads)


@squared_norm
def test_squared_norm_counts_every_element_once(function):
    """Catches one of several sums that is left out or added twice: 3 alone, wherever it stands, gives 9."""
    for N in (64, 150):
        for at in range(N):
            x = np.zeros(N, np.float32)
            x[at] = 3
            assert function(x, 1) == 9


@squared_norm
def test_squared_norm_does_not_overflow(function, threads):
    """Catches squares in float32: 1e30 squared is beyond it, and within double."""
    result = run(function, squared_norm_case(5000, np.full(5000, 1e30)), threads)["result"]
    assert isinstance(result, float)
    assert math.isclose(result, 5000 * float(np.float32(1e30)) ** 2, rel_tol=1e-11)


@squared_norm
def test_squared_norm_passes_nan_on(function, threads):
    """Catches a norm that hides a gradient gone wrong: one NaN makes it NaN, infinity makes it infinite."""
    for bad in (np.nan, np.inf):
        x = np.ones(CHUNK + 9, np.float32)
        x[-1] = bad
        np.testing.assert_equal(function(x, threads), bad)


@squared_norm
def test_squared_norm_misaligned(function, make):
    """Catches aligned vector loads."""
    check(function, make("squared_norm", N=100), 2, 4)
