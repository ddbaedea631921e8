"""Tests that no bit of a result depends on the number of threads, on shapes larger than every chunk and tile."""

import numpy as np
import pytest

from tinygpt.kernels import isa, registry
from tinygpt.kernels.spec import OPS
from tinygpt.testing import make, run

from .conftest import every

# More rows, columns and elements than one chunk or tile of any rung, and multiples of none. Where a sum is cut into
# partial sums (over rows, over elements), there are more of them than threads.
SIZES = {
    "matmul": {"M": 203, "N": 521, "K": 523, "trans_b": True, "bias": True, "residual": True, "activation": 1},
    "matmul_bfloat16": {"M": 19, "N": 521, "K": 523, "bias": True, "residual": True, "activation": 1},
    "matmul_int8": {"M": 3, "N": 1021, "K": 523, "bias": True, "residual": True, "activation": 1},
    "column_sum": {"R": 301, "C": 131},
    "softmax": {"R": 23, "C": 4099},
    "softmax_backward": {"R": 23, "C": 4099},
    "layernorm": {"R": 131, "C": 77, "residual": True},
    "layernorm_backward": {"R": 301, "C": 77, "dtotal": True, "accumulate": True},
    "rmsnorm": {"R": 131, "C": 77, "residual": True},
    "rmsnorm_backward": {"R": 301, "C": 77, "dtotal": True, "accumulate": True},
    "gelu": {"N": 40_009},
    "gelu_backward": {"N": 40_009},
    "swiglu": {"R": 131, "F": 77},
    "swiglu_backward": {"R": 131, "F": 77},
    "add": {"N": 40_009},
    "dropout": {"R": 131, "C": 77, "T": 32, "residual": True},
    "attention": {"B": 2, "T": 131, "H": 6, "D": 17, "G": 3, "weights": True, "layout": "fused"},
    "attention_backward": {"B": 2, "T": 131, "H": 6, "D": 17, "G": 3, "layout": "fused"},
    "cross_entropy": {"R": 23, "V": 8209, "ignored": True},
    "cross_entropy_backward": {"R": 23, "V": 8209, "ignored": True, "in_place": True},
    "embedding": {"B": 5, "T": 67, "V": 97, "C": 33},
    "embedding_backward": {"B": 5, "T": 67, "V": 97, "C": 33, "accumulate": True},
    "rope": {"B": 3, "T": 67, "H": 5, "E": 9, "fused": True},
    "squared_norm": {"N": 40_009},
    "adamw": {"N": 40_009},
}
# The numpy rung and users' own rungs are exempt.
RUNGS = [(op, rung) for op in OPS for rung in every(op) if rung.partition("-")[0] in registry.LADDER]


@pytest.fixture
def function(op, rung):
    """Return the function of the op at the rung, which may name an instruction set as well."""
    rung, _, name = rung.partition("-")
    before = isa.get()
    isa.use(name or before)
    yield registry.function(op, rung)
    isa.use(before)


def test_every_op_has_sizes():
    """Catches an op without an entry in the table of sizes, which the tests below would skip."""
    assert SIZES.keys() == OPS.keys()


@pytest.mark.parametrize(("op", "rung"), RUNGS)
def test_same_bits_for_any_number_of_threads(op, rung, function):
    """Catches a sum whose order depends on the number of threads, and elements that two threads write."""
    case = make(op, **SIZES[op])
    alone = run(function, case, 1)
    for n_threads in (2, 3, 7):
        together = run(function, case, n_threads)
        for name, wanted in alone.items():
            differing = np.count_nonzero(np.asarray(together[name]) != np.asarray(wanted))
            message = f"{op}_{rung}: {differing} elements of '{name}' differ with {n_threads} threads"
            assert np.asarray(together[name]).tobytes() == np.asarray(wanted).tobytes(), message


@pytest.mark.parametrize(("op", "rung"), [(op, rung) for op, rung in RUNGS if rung != "naive"])
def test_same_bits_again(op, function):
    """Catches a result that depends on which thread is faster: the same call five times, with too many threads."""
    case = make(op, **SIZES[op])
    results = {tuple(np.asarray(x).tobytes() for x in run(function, case, 3).values()) for _ in range(5)}
    assert len(results) == 1
