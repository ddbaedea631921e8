"""Tests of csrc/column_sum.pyx: LINE = 16 columns per tile, TILE = 64 in simd."""

import pytest

from tinygpt.testing import check, shapes_around

LINE, TILE = 16, 64
FLAGS = (False, True)
column_sum = pytest.mark.op("column_sum")


@column_sum
@pytest.mark.parametrize("C", [*shapes_around(LINE), TILE - 1, TILE, TILE + 1, 2 * TILE + 17])
@pytest.mark.parametrize("accumulate", FLAGS)
def test_column_sum(function, threads, make, C, accumulate):
    """Catches a wrong partial tile of columns, a total that is not reset, and an output not written for zero rows."""
    for R in (0, 1, 2, 13, 300):
        check(function, make("column_sum", R=R, C=C, accumulate=accumulate), threads)


@column_sum
def test_column_sum_misaligned(function, make):
    """Catches aligned vector loads."""
    check(function, make("column_sum", R=5, C=37), 2, 4)
