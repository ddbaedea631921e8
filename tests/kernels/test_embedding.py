"""Tests of csrc/embedding.pyx: the lookup, and its gradient by ranges of the vocabulary."""

import numpy as np
import pytest

from tinygpt.kernels import registry
from tinygpt.testing import check, embedding_backward_case, run

FLAGS = (False, True)
embedding, embedding_backward = pytest.mark.op("embedding"), pytest.mark.op("embedding_backward")
# (B, T, V, C): no sequence, no token, one of everything, fewer ids than threads, more ids than tokens, more numbers
# than the simd rung leaves to one thread.
SHAPES = [(0, 3, 5, 4), (2, 0, 5, 4), (1, 1, 1, 1), (3, 7, 2, 5), (2, 5, 40, 17), (4, 9, 11, 16), (3, 8, 300, 33)]
SHAPES += [(4, 67, 97, 65)]


@embedding
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("positions", FLAGS)
def test_equals_reference(function, threads, make, shape, positions):
    """Catches swapped b and t, positions that are not added, and start counted from the end of the cache."""
    B, T, V, C = shape
    for start in (0, 3):
        check(function, make("embedding", B=B, T=T, V=V, C=C, positions=positions, start=start), threads)


@embedding_backward
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("positions", FLAGS)
@pytest.mark.parametrize("start", [0, 3])
def test_backward_equals_reference(function, threads, make, shape, positions, start):
    """Catches rows of unused tokens that are not set to zero, and ranges of ids that overlap or leave a gap."""
    B, T, V, C = shape
    check(function, make("embedding_backward", B=B, T=T, V=V, C=C, positions=positions, start=start), threads)


@embedding_backward
@pytest.mark.parametrize("accumulate", FLAGS)
@pytest.mark.parametrize("accumulate_positions", FLAGS)
def test_backward_accumulates_each_table_by_its_own_flag(function, threads, make, accumulate, accumulate_positions):
    """Catches one flag used for both tables, and rows that are set to zero instead of added to."""
    flags = {"accumulate": accumulate, "accumulate_positions": accumulate_positions}
    for B in (0, 3):
        check(function, make("embedding_backward", B=B, T=5, V=13, C=9, start=1, **flags), threads)


@embedding_backward
@pytest.mark.parametrize("token", [0, 6, 12])
def test_backward_of_one_token_repeated(function, threads, token):
    """Catches lost tokens when one id occurs everywhere, also the first and the last id of the table."""
    check(function, embedding_backward_case(3, 50, 13, 9, tokens=np.full((3, 50), token)), threads)


@embedding_backward
def test_backward_sums_in_order_of_tokens(function):
    """Catches a sum in another order: 2^24 + 1 - 2^24 is 0 in float32, but 1 if the large terms cancel first."""
    dy = np.float32([[2.0**24], [1.0], [-(2.0**24)]])
    dtable, tokens = np.full((2, 1), np.nan, np.float32), np.int32([[1], [1], [1]])
    for n_threads in (1, 2, 3, 7):
        function(dy, tokens, dtable, None, 0, False, False, n_threads)
        np.testing.assert_array_equal(dtable, [[0.0], [0.0]])


@embedding
def test_lookup_copies_the_bits(function, make):
    """Catches arithmetic in a lookup without positions, which must copy the bits."""
    case = make("embedding", B=2, T=9, V=7, C=21, positions=False)
    out = run(function, case, 2)["out"]
    np.testing.assert_array_equal(out, case.inputs["table"][case.inputs["tokens"]].reshape(18, 21))


@embedding_backward
@pytest.mark.parametrize("C", [1, 7, 16, 37])
def test_backward_has_the_bits_of_naive(function, threads, make, C):
    """Catches rows that are summed in another order than in naive."""
    case = make("embedding_backward", B=4, T=33, V=11, C=C, start=2, accumulate=True)
    naive = run(registry.function("embedding_backward", "naive"), case)
    result = run(function, case, threads)
    for name in ("dtable", "dpositions"):
        assert result[name].tobytes() == naive[name].tobytes()


@embedding
def test_misaligned(function, make):
    """Catches aligned vector loads and stores."""
    check(function, make("embedding", B=2, T=5, V=7, C=37), 2, 4)


@embedding_backward
def test_backward_misaligned(function, make):
    """Catches aligned vector loads and stores."""
    check(function, make("embedding_backward", B=2, T=5, V=7, C=37), 2, 4)
