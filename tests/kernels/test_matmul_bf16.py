"""Tests of matmul_simd_bfloat16 in csrc/matmul.pyx: operands rounded to bfloat16 while they are packed, at every ISA.

`ml_dtypes` rounds independently: to nearest, ties to even, NaN kept.
"""

import ml_dtypes
import numpy as np
import pytest

from tinygpt.core import matmul as compiled
from tinygpt.kernels import isa
from tinygpt.testing.rounding import TINY, gamma

MR, NR, KC, MC = 8, 48, 384, 96  # of AVX-512, the largest tile; 2 KC steps of the sum with pairs


@pytest.fixture(autouse=True, params=isa.available())
def instruction_set(request):
    before = isa.get()
    isa.use(request.param)
    yield request.param
    isa.use(before)


def rounded(x):
    return x.astype(ml_dtypes.bfloat16).astype(np.float32)


def operands(M, N, K, trans_a=False, trans_b=False, seed=0):
    draw = np.random.default_rng(seed)
    a = draw.standard_normal((K, M) if trans_a else (M, K)).astype(np.float32)
    b = draw.standard_normal((N, K) if trans_b else (K, N)).astype(np.float32)
    return a, b


def product(a, b, trans_a=False, trans_b=False, n_threads=2, accumulate=False, out=None, **after):
    M, N = a.shape[1 if trans_a else 0], b.shape[0 if trans_b else 1]
    out = np.full((M, N), np.nan, np.float32) if out is None else out
    options = [after.get("bias"), after.get("residual"), after.get("activation", 0), after.get("pre")]
    compiled.matmul_simd_bfloat16(a, b, out, trans_a, trans_b, accumulate, *options, n_threads)
    return out


def assert_product_of_rounded(out, a, b):
    """Compare `out` with op(a) op(b) of the rounded operands, to the error of a float32 sum of K terms in any order."""
    a, b = rounded(a).astype(np.float64), rounded(b).astype(np.float64)
    K = a.shape[1]
    assert (abs(out - a @ b) <= gamma(K + 1) * (abs(a) @ abs(b)) + 2 * K * TINY).all()


@pytest.mark.parametrize("trans_a", [False, True])
@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize("M", [1, 3, 16, 17, MR + 1, MC + 5])
@pytest.mark.parametrize("K", [1, 2, 31, 33, KC - 1, KC + 1, 2 * KC - 1, 2 * KC + 1])
def test_product_of_rounded_operands(M, K, trans_a, trans_b):
    """Catches an odd last step that is lost or paired with garbage, swapped halves of a pair, a dropped column."""
    for N in (1, 15, 16, 17, NR, NR + 17):
        a, b = operands(M, N, K, trans_a, trans_b)
        out = product(a, b, trans_a, trans_b)
        assert_product_of_rounded(out, a.T if trans_a else a, b.T if trans_b else b)


@pytest.mark.parametrize("M", [2, 40])
def test_rounding_before_changes_nothing(M):
    """Catches truncation, ties away from even, and an operand that is not rounded, at a bound of zero.

    Half of the numbers lie exactly between two bfloat16 numbers.
    """
    a, b = operands(M, 33, 70)
    bits = a.view(np.uint32)
    bits[:, ::2] = bits[:, ::2] & np.uint32(0xFFFF0000) | np.uint32(0x8000)
    np.testing.assert_array_equal(product(a, b), product(rounded(a), rounded(b)))
    assert np.count_nonzero(rounded(a) != a) > a.size / 2


@pytest.mark.parametrize("M", [2, 40])
def test_nan_and_infinity(M):
    """Catches a NaN whose upper bits alone say infinity, and an infinity that rounding carries on to NaN."""
    a, b = operands(M, 20, 34)
    a.view(np.uint32)[1, 3] = 0x7F800001
    a[0, 5] = np.inf
    out = product(a, b)
    assert np.isnan(out[1]).all()
    np.testing.assert_array_equal(out[0], np.sign(rounded(b)[5]) * np.inf)
    assert np.isfinite(out[2:]).all()


def test_bias_and_residual_are_not_rounded():
    """Catches bias, residual or the stored sum in bfloat16, and an order other than bias, pre, activation, residual."""
    a, b = operands(50, 70, 64)
    draw = np.random.default_rng(1)
    bias = draw.standard_normal(70).astype(np.float32)
    residual = draw.standard_normal((50, 70)).astype(np.float32)
    pre = np.full((50, 70), np.nan, np.float32)
    plain = product(a, b)
    out = product(a, b, bias=bias, residual=residual, pre=pre)
    np.testing.assert_array_equal(pre, plain + bias)
    np.testing.assert_array_equal(out, plain + bias + residual)


@pytest.mark.parametrize("M", [4, 50])
def test_accumulate(M):
    """Catches a sum that replaces what is there, in the first block of the sum or in a later one."""
    for K in (9, KC + 9):
        a, b = operands(M, 40, K)
        start = np.random.default_rng(2).standard_normal((M, 40)).astype(np.float32)
        out = product(a, b, accumulate=True, out=start.copy())
        np.testing.assert_allclose(out, start + product(a, b), rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 301, 70), (203, 97, 500)], ids=str)
def test_same_bits_for_any_number_of_threads(shape):
    """Catches a sum whose order depends on how threads divide it."""
    a, b = operands(*shape, trans_b=True)
    alone = product(a, b, trans_b=True, n_threads=1)
    for n_threads in (2, 3, 7):
        np.testing.assert_array_equal(product(a, b, trans_b=True, n_threads=n_threads), alone)


def test_instructions_are_known(instruction_set):
    """Catches a claim of bfloat16 instructions at an instruction set that cannot have them."""
    if instruction_set != "avx512":
        assert not compiled.bfloat16_instructions()
