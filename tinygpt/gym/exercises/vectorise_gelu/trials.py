"""Trials of vectorise-gelu: single values, both tails, and lengths around the width of a vector."""

import numpy as np

from tinygpt.gym.adapters import matmul_with_epilogue
from tinygpt.gym.trials import kernel_trials, variants

SCALE, CUBIC = np.float32(0.7978845608), np.float32(0.044715)


def adapt(function):
    """Give ``gelu(x, out)`` the signature of the op."""
    return lambda x, out, n_threads: function(x, out)


def train_ops(function):
    """Build the product of the MLP, whose activation is the learner's function."""

    def bias_gelu(z, bias, out):
        function((z + bias).reshape(-1), out.reshape(-1))

    return matmul_with_epilogue(bias_gelu)


def trials():
    """Return the cases, smallest first."""
    cases = {
        "0": {"N": 1, "x": [0]},
        "1 and -1": {"N": 2, "x": [1, -1]},
        "2, 3 and -2": {"N": 3, "x": [2, 3, -2]},
        "large values": {"N": 4, "x": [30, -30, 1e4, -1e4]},
        "an empty array": {"N": 0},
        "7 random values": {"N": 7},
        **{f"{n} random values": {"N": n} for n in (15, 16, 17, 33, 1000)},
    }
    return kernel_trials("gelu", adapt, cases)


def _u(x):
    return SCALE * (x + CUBIC * x * x * x)


def without_tail(x, out, width=8):
    """The elements behind the last full vector were not computed.

    Let the compiler split the loop: write one loop over all elements, and it adds the rest itself.
    """
    whole = len(x) // width * width
    out[:whole] = np.float32(0.5) * x[:whole] * (1 + np.tanh(_u(x[:whole])))


def sigmoid_of_u(x, out):
    """The argument of the exponential lacks the factor 2.

    (1 + tanh(u)) / 2 = 1 / (1 + exp(-2 u)).
    """
    out[...] = x / (1 + np.exp(-_u(x)))


def wrong_sign(x, out):
    """The exponential has the wrong sign: the function is large where it must be 0.

    (1 + tanh(u)) / 2 = 1 / (1 + exp(-2 u)), with a minus.
    """
    out[...] = x / (1 + np.exp(2 * _u(x)))


def without_x(x, out):
    """The factor x in front is missing.

    GELU is x times a number between 0 and 1.
    """
    out[...] = np.float32(0.5) * (1 + np.tanh(_u(x)))


def without_half(x, out):
    """The factor 1/2 is missing: 1 + tanh(u) goes up to 2.

    Multiply by 0.5, or use 1 / (1 + exp(-2 u)), which has it.
    """
    out[...] = x * (1 + np.tanh(_u(x)))


def quotient_of_exponentials(x, out):
    """tanh was computed as (e^u - e^-u) / (e^u + e^-u), and both exponentials overflow for large u: inf / inf is NaN.

    1 / (1 + exp(-2 u)) is safe: for a large exponential the quotient becomes 0.
    """
    up, down = np.exp(_u(x)), np.exp(-_u(x))
    out[...] = np.float32(0.5) * x * (1 + (up - down) / (up + down))


def square(x, out):
    """The cubic term has x^2 in place of x^3.

    u = 0.797884561 (x + 0.044715 x x x): three factors.
    """
    out[...] = np.float32(0.5) * x * (1 + np.tanh(SCALE * (x + CUBIC * x * x)))


MISTAKES = (
    sigmoid_of_u,
    wrong_sign,
    without_x,
    without_half,
    quotient_of_exponentials,
    square,
    *variants(without_tail, width=(8, 4, 16, 32)),
)
