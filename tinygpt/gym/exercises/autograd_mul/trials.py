"""Trials of autograd-mul: equal shapes, then every kind of broadcasting; gradients by differences in float64."""

import numpy as np

from tinygpt.gym.trials import ValueTrial

STEP = 1e-4  # a product is linear in each factor, so central differences have no error but rounding


def through(function, a, b, dout):
    """Call the learner's function and its backward."""
    out, backward = function(a, b)
    da, db = backward(dout)
    return {"out": out, "da": da, "db": db}


def _slope(a, b, dout, wanted):
    """Differentiate sum(dout * a * b) with respect to the array `wanted`, one element at a time."""
    slope = np.zeros(wanted.shape)
    for index in np.ndindex(wanted.shape):
        kept, ends = wanted[index], []
        for step in (STEP, -STEP):
            wanted[index] = kept + step
            ends.append((dout * (a * b)).sum())
        wanted[index] = kept
        slope[index] = (ends[0] - ends[1]) / (2 * STEP)
    return slope


def _trial(title, a, b, dout=None):
    a, b = np.array(a, float), np.array(b, float)
    out = a * b
    dout = np.array(dout, float) if dout is not None else np.arange(1.0, out.size + 1).reshape(out.shape)
    result = {"out": out, "da": _slope(a, b, dout, a), "db": _slope(a, b, dout, b)}
    return ValueTrial(title, {"a": a, "b": b, "dout": dout}, result, 1e-6, through)


def trials():
    """Return the cases, simplest first."""
    draw = np.random.default_rng(0).standard_normal
    return [
        _trial("one element each", [2], [5], [1]),
        _trial("two elements, dout is 1 and 10", [2, 3], [5, 7], [1, 10]),
        _trial("zeros in a", [0, 3], [5, 0], [1, 10]),
        _trial("a matrix times a row: b is broadcast", [[1, 2, 3], [4, 5, 6]], [7, 8, 9]),
        _trial("a row times a matrix: a is broadcast", [7, 8, 9], [[1, 2, 3], [4, 5, 6]]),
        _trial("a matrix times a column of shape (2, 1)", [[1, 2, 3], [4, 5, 6]], [[7], [8]]),
        _trial("a column times a row: both are broadcast", [[1], [2]], [[3, 4, 5]]),
        _trial("a matrix times a number: b has no axes", [[1, 2], [3, 4]], 5),
        _trial("three axes", draw((2, 1, 3)), draw((4, 1))),
    ]


def _sized(gradient, shape):
    while gradient.ndim > len(shape):
        gradient = gradient.sum(axis=0)
    for axis, length in enumerate(shape):
        if length == 1:
            gradient = gradient.sum(axis=axis, keepdims=True)
    return np.asarray(gradient)


def exchanged(a, b):
    """The two gradients are exchanged.

    The effect of a small change of a is multiplied by b. So da = dout * b, and db = dout * a.
    """
    return a * b, lambda dout: (_sized(dout * a, a.shape), _sized(dout * b, b.shape))


def without_dout(a, b):
    """The gradient that arrives, dout, was not used: da and db are the other factor alone.

    backward continues a chain: each local slope is multiplied by the gradient of the result.
    """

    def backward(dout):
        ones = np.ones_like(dout)
        return _sized(ones * b, a.shape), _sized(ones * a, b.shape)

    return a * b, backward


def only_dout(a, b):
    """dout was passed on as it is; that is the gradient of a sum, a + b.

    In a product, each factor decides how strongly the other one counts: multiply dout by it.
    """
    return a * b, lambda dout: (_sized(dout, a.shape), _sized(dout, b.shape))


def not_summed(a, b):
    """The gradients are right element by element, and they have the shape of the result instead of that of their input.

    Where broadcasting used an element several times, its gradient is the sum over all these places.
    """
    return a * b, lambda dout: (np.asarray(dout * b), np.asarray(dout * a))


def axes_of_length_1(a, b):
    """Axes in front were summed, and axes where an input has length 1 were not.

    A shape (2, 1) is broadcast to (2, 3) as well: sum over this axis with keepdims=True.
    """

    def sized(gradient, shape):
        while gradient.ndim > len(shape):
            gradient = gradient.sum(axis=0)
        return np.asarray(gradient)

    return a * b, lambda dout: (sized(dout * b, a.shape), sized(dout * a, b.shape))


def mean_instead(a, b):
    """The gradient of a broadcast element is the mean over its places, and it must be the sum.

    Each place adds its own effect on the loss, so effects add up.
    """

    def sized(gradient, shape):
        while gradient.ndim > len(shape):
            gradient = gradient.mean(axis=0)
        for axis, length in enumerate(shape):
            if length == 1:
                gradient = gradient.mean(axis=axis, keepdims=True)
        return np.asarray(gradient)

    return a * b, lambda dout: (sized(dout * b, a.shape), sized(dout * a, b.shape))


MISTAKES = (exchanged, without_dout, only_dout, not_summed, axes_of_length_1, mean_instead)
