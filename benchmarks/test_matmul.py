"""Speed of every rung of csrc/matmul.pyx: square products, and those of a training step."""

import math

import pytest
from conftest import each_rung

from tinygpt import testing
from tinygpt.kernels import registry

# Rows x in x out of the default model at 4 x 64 tokens, and of a model 384 wide at 16 x 256.
LAYERS = [(256, 64, 192), (256, 64, 256), (256, 256, 64), (4096, 384, 1536)]


RUNGS = registry.rungs("matmul")
# Most multiply-adds for the rungs without tiles, because larger products take seconds and show nothing new.
LARGEST = {"naive": 2**28, "parallel": 2**28}


def feasible(sizes):
    """List (sizes, rung) for every rung that is fast enough for these sizes."""
    return [(size, rung) for size in sizes for rung in RUNGS if math.prod(size) <= LARGEST.get(rung, math.inf)]


@pytest.mark.parametrize(("size", "rung"), feasible([(n, n, n) for n in (64, 128, 256, 512, 1024)]))
def test_square(ladder, size, rung):
    ladder(testing.matmul_case(*size), rung)


@pytest.mark.parametrize(("size", "rung"), feasible(LAYERS))
def test_layer(ladder, size, rung):
    M, K, N = size
    ladder(testing.matmul_case(M, N, K, trans_b=True), rung)


@pytest.mark.parametrize("transposed", [(False, False), (False, True), (True, False), (True, True)])
@each_rung("matmul")
def test_transposed(ladder, op, rung, transposed):
    ladder(testing.matmul_case(256, 256, 256, trans_a=transposed[0], trans_b=transposed[1]), rung)


@each_rung("column_sum")
def test_column_sum(ladder, op, rung):
    for case in testing.default_cases(op):
        ladder(case, rung)
