"""Trials of fuse-bias-gelu: calls of the product with bias and GELU, whose second factor is the identity."""

from dataclasses import replace

import numpy as np

from tinygpt import reference, testing
from tinygpt.gym.adapters import matmul_with_epilogue
from tinygpt.gym.trials import KernelTrial
from tinygpt.kernels import registry
from tinygpt.testing import bounds

SCALE, CUBIC = np.float32(0.7978845608), np.float32(0.044715)
train_ops = matmul_with_epilogue


class Trial(KernelTrial):
    """A call of ``bias_gelu``: the case is a product with the identity, so that z is its first factor."""

    @property
    def inputs(self):
        """The inputs under the learner's names."""
        return {"z": self.case.inputs["a"], "bias": self.case.inputs["bias"]}


def adapt(function):
    """Call the learner's function on the first factor of a product with the identity."""

    def matmul(a, b, out, trans_a, trans_b, accumulate, bias, residual, activation, pre, n_threads):
        function(a, bias, out)

    return matmul


def trials():
    """Return the cases, smallest first."""
    z = np.array([[0, 1, -1], [2, -2, 3]], np.float32)
    titles = {"one element": (1, 1), "one row": (1, 5), "one column": (5, 1), "no rows": (0, 3), "17 x 33": (17, 33)}
    cases = {title: testing.matmul_case(m, n, n, bias=True, activation=1) for title, (m, n) in titles.items()}
    small = testing.matmul_case(2, 3, 3, bias=True, activation=1)
    cases = {"2 x 3, bias 0": _with(small, z, np.zeros(3)), "2 x 3, bias 10, 20, 30": _with(small, z, [10, 20, 30])} | {
        title: _with(case, case.inputs["a"], case.inputs["bias"]) for title, case in cases.items()
    }
    return [Trial(title, case, adapt) for title, case in cases.items()]


def _with(case, z, bias):
    """Return the case with these inputs, and the identity as second factor."""
    eye, bias = np.eye(case.inputs["b"].shape[0], dtype=np.float32), np.array(bias, np.float32)
    inputs = {**case.inputs, "a": z, "b": eye, "bias": bias}
    given = {name: x for name, x in inputs.items() if name != "accumulate"}
    wanted, error = reference.matmul(**given)[0], bounds.matmul(**given, start=None)[0].error
    return replace(case, inputs=inputs, wanted={"out": np.asarray(wanted)}, bounds={"out": np.asarray(error)})


def contest(function):
    """Return two passes with the GELU of each rung, and the learner's single pass."""
    draw = np.random.default_rng(0)
    z, bias = draw.standard_normal((256, 1024), np.float32), draw.standard_normal(1024, np.float32)
    out, between = np.empty_like(z), np.empty_like(z)

    def two_passes(gelu):
        def call():
            np.add(z, bias, out=between)
            gelu(between.reshape(-1), out.reshape(-1), 1)

        return call

    rungs = {rung: two_passes(registry.function("gelu", rung)) for rung in ("naive", "simd", "numpy")}
    return rungs | {"yours": lambda: function(z, bias, out)}


def _gelu(x):
    return np.float32(0.5) * x * (1 + np.tanh(SCALE * (x + CUBIC * x * x * x)))


def without_bias(z, bias, out):
    """The bias was not added.

    x = z[r, c] + bias[c] comes before the GELU.
    """
    out[...] = _gelu(z)


def bias_afterwards(z, bias, out):
    """The bias was added after the GELU, and it must be added before.

    gelu(z + bias) is not gelu(z) + bias.
    """
    out[...] = _gelu(z) + bias


def bias_by_row(z, bias, out):
    """The bias was taken by row; it has one element per column.

    bias[c], with the index of the inner loop.
    """
    out[...] = _gelu(z + np.resize(bias, len(z))[:, None])


def without_gelu(z, bias, out):
    """The bias was added, and the GELU is missing.

    Compute u from the sum, then x / (1 + exp(-2 u)).
    """
    out[...] = z + bias


def factor_without_bias(z, bias, out):
    """Only the inner part of the GELU has the bias: the factor in front is z instead of z + bias.

    Put the sum into a variable x once, and use it in both places.
    """
    x = z + bias
    out[...] = np.float32(0.5) * z * (1 + np.tanh(SCALE * (x + CUBIC * x * x * x)))


def first_row_only(z, bias, out):
    """Only the first row was written.

    The outer loop runs over all rows: pointers must be set again in each of them.
    """
    out[:1] = _gelu(z[:1] + bias)


MISTAKES = (without_bias, bias_afterwards, bias_by_row, without_gelu, factor_without_bias, first_row_only)
