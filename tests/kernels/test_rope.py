"""csrc/rope.pyx: pairs of a head's numbers, half a head apart."""

import dataclasses

import numpy as np
import pytest

from tinygpt.testing import check, rope_case, run

FLAGS = (False, True)
pytestmark = pytest.mark.op("rope")


@pytest.mark.parametrize("E", [1, 2, 3, 7, 8, 9, 15, 16, 17, 32])
@pytest.mark.parametrize("inverse", FLAGS)
def test_equals_reference(function, threads, make, E, inverse):
    """Catches pairs (2j, 2j + 1) for (j, j + E), a wrong sign, and a tail of pairs that is left out."""
    for B, T, H in ((1, 1, 1), (2, 5, 3)):
        check(function, make("rope", B=B, T=T, H=H, E=E, inverse=inverse), threads)


@pytest.mark.parametrize("shape", [(0, 3, 2, 4), (2, 0, 2, 4), (1, 65, 1, 4), (3, 33, 2, 4)], ids=str)
def test_lengths(function, threads, make, shape):
    """Catches an angle that is taken by batch or head in place of the position, and a crash for nothing to do."""
    B, T, H, E = shape
    check(function, make("rope", B=B, T=T, H=H, E=E), threads)


@pytest.mark.parametrize("in_place", FLAGS)
@pytest.mark.parametrize("fused", FLAGS)
def test_in_place_and_in_a_fused_row(function, threads, make, in_place, fused):
    """Catches a second half that is computed from the first one's result, and writes to the heads beside its own."""
    for inverse in FLAGS:
        check(function, make("rope", B=2, T=5, H=3, E=9, inverse=inverse, in_place=in_place, fused=fused), threads)


def test_position_zero_stays_as_it_is(function, threads):
    """Catches positions that count from 1."""
    case = rope_case(2, 4, 3, 8)
    np.testing.assert_array_equal(run(function, case, threads)["out"][:, 0], case.inputs["x"][:, 0])


def test_inverse_turns_back(function, threads):
    """Catches an inverse that is the same rotation again, or another one."""
    case = rope_case(2, 9, 3, 8)
    turned = run(function, case, threads)["out"]
    back = dataclasses.replace(case, inputs=case.inputs | {"x": turned, "inverse": True})
    # Each way is off by gamma_2 (|x1 cos| + |x2 sin|) <= 3 u |pair|, and rounded tables have cos^2 + sin^2 = 1 within
    # 2 u (|cos| + |sin|) <= 3 u: 9 u |pair| in all, where |pair| is the length that a rotation keeps.
    pair = np.hypot(*np.split(case.inputs["x"].astype(np.float64), 2, axis=3))
    room = 10 * 2.0**-24 * np.concatenate([pair, pair], axis=3)
    assert (abs(run(function, back, threads)["out"] - case.inputs["x"].astype(np.float64)) <= room).all()


def test_misaligned(function, make):
    """Catches aligned vector loads and stores."""
    check(function, make("rope", B=2, T=5, H=3, E=9, fused=True), 2, 4)
