"""Tests of csrc/rope.pyx: rotations of pairs half a head apart."""

import dataclasses

import numpy as np
import pytest

from tinygpt.testing import check, rope_case, run

FLAGS = (False, True)
pytestmark = pytest.mark.op("rope")


@pytest.mark.parametrize("E", [1, 2, 3, 7, 8, 9, 15, 16, 17, 32])
@pytest.mark.parametrize("inverse", FLAGS)
def test_equals_reference(function, threads, make, E, inverse):
    """Catches pairs (2j, 2j + 1) instead of (j, j + E), a wrong sign, and last pairs that are not rotated."""
    for B, T, H in ((1, 1, 1), (2, 5, 3)):
        check(function, make("rope", B=B, T=T, H=H, E=E, inverse=inverse), threads)


@pytest.mark.parametrize("shape", [(0, 3, 2, 4), (2, 0, 2, 4), (1, 65, 1, 4), (3, 33, 2, 4), (2, 67, 5, 16)], ids=str)
def test_lengths(function, threads, make, shape):
    """Catches an angle chosen by batch or head instead of position, and a crash for empty arrays."""
    B, T, H, E = shape
    check(function, make("rope", B=B, T=T, H=H, E=E), threads)


@pytest.mark.parametrize("in_place", FLAGS)
@pytest.mark.parametrize("fused", FLAGS)
def test_in_place_and_in_a_fused_row(function, threads, make, in_place, fused):
    """Catches a second half computed from the overwritten first half, and writes to neighbouring heads."""
    for inverse in FLAGS:
        for E in (9, 16, 33):
            check(function, make("rope", B=2, T=5, H=3, E=E, inverse=inverse, in_place=in_place, fused=fused), threads)


def test_strides_of_x_and_out_may_differ(function, threads):
    """Catches heads of out located with the strides of x: out is (B, H, T, 2E) in memory, as in a cache of keys."""
    case = rope_case(2, 5, 3, 9)
    inputs, wanted = case.inputs, run(function, case)["out"]
    x = inputs["x"].transpose(0, 2, 1, 3).copy().transpose(0, 2, 1, 3)
    out = np.full((2, 3, 5, 18), np.nan, np.float32).transpose(0, 2, 1, 3)
    for one, other in ((inputs["x"], out), (x, np.full_like(wanted, np.nan))):
        function(one, other, inputs["cos"], inputs["sin"], False, threads)
        np.testing.assert_array_equal(other, wanted)


def test_position_zero_is_not_rotated(function, threads):
    """Catches positions counted from 1: position 0 has the angle 0."""
    case = rope_case(2, 4, 3, 8)
    np.testing.assert_array_equal(run(function, case, threads)["out"][:, 0], case.inputs["x"][:, 0])


def test_inverse_undoes_the_rotation(function, threads):
    """Catches an inverse that rotates in the same direction, or by another angle."""
    case = rope_case(2, 9, 3, 8)
    turned = run(function, case, threads)["out"]
    back = dataclasses.replace(case, inputs=case.inputs | {"x": turned, "inverse": True})
    # Each way is off by gamma_2 (|x1 cos| + |x2 sin|) <= 3 u |pair|, and rounded tables have cos^2 + sin^2 = 1 within
    # 2 u (|cos| + |sin|) <= 3 u: 9 u |pair| in all, where |pair| is the length that a rotation keeps.
    pair = np.hypot(*np.split(case.inputs["x"].astype(np.float64), 2, axis=3))
    room = 10 * 2.0**-24 * np.concatenate([pair, pair], axis=3)
    assert (abs(run(function, back, threads)["out"] - case.inputs["x"].astype(np.float64)) <= room).all()


def test_nan_stays_in_its_pair(function):
    """Catches masked lanes that come from other pairs: a NaN at j belongs to j and j + E of its own head."""
    case = rope_case(1, 2, 2, 21)
    for j in range(42):
        x = case.inputs["x"].copy()
        x[0, 1, 0, j] = np.nan
        out = run(function, dataclasses.replace(case, inputs=case.inputs | {"x": x}))["out"]
        assert np.flatnonzero(np.isnan(out[0, 1, 0])).tolist() == [j % 21, j % 21 + 21]
        assert np.isnan(out).sum() == 2


def test_misaligned(function, make):
    """Catches aligned vector loads and stores."""
    check(function, make("rope", B=2, T=5, H=3, E=9, fused=True), 2, 4)
