"""Gradients on plain arrays: each equals its formula in float64, and every op can be called by name."""

import numpy as np
import pytest

from tinygpt import kernels, reference
from tinygpt.kernels.spec import OPS


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape, dtype=np.float32)


def close(got, wanted):
    np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-6)


def test_every_op_is_callable():
    """Catches an op of the registry without a function for plain arrays."""
    assert {op for op in OPS if not callable(getattr(kernels, op, None))} == set()


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_norms(norm):
    """Catches statistics that differ from the forward pass, and gradients returned in the wrong order."""
    dy, x, weight = draw(2, 3, 8), draw(2, 3, 8, seed=1), draw(8)
    got = getattr(kernels, f"{norm}_backward")(dy, x, weight, 1e-3)

    def slope(i):  # of sum(dy y) along one element of x, in float64
        moved = {}
        for sign in (1, -1):
            z = x.astype(np.float64)
            z.reshape(-1)[i] += sign * 1e-4
            centred = z - z.mean(-1, keepdims=True) if norm == "layernorm" else z
            y = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-3) * weight
            moved[sign] = (dy * y).sum()
        return (moved[1] - moved[-1]) / 2e-4

    close(got[0].reshape(-1)[[0, 11, 47]], [slope(i) for i in (0, 11, 47)])
    xhat = x - x.mean(-1, keepdims=True) if norm == "layernorm" else x
    xhat = xhat / np.sqrt((xhat**2).mean(-1, keepdims=True) + 1e-3)
    close(got[1], (dy * xhat).sum((0, 1)))
    if norm == "layernorm":
        close(got[2], dy.sum((0, 1)))


def test_swiglu():
    """Catches gate and up exchanged."""
    dy, x = draw(2, 3, 4), draw(2, 3, 8)
    close(kernels.swiglu_backward(dy, x).reshape(6, 8), reference.swiglu_backward(dy.reshape(6, 4), x.reshape(6, 8)))


def test_attention():
    """Catches an lse or output that differs from the forward pass, with key/value heads shared by queries."""
    q, k, v, dout = draw(2, 5, 4, 6), draw(2, 7, 2, 6), draw(2, 7, 2, 6, seed=1), draw(2, 5, 4, 6, seed=2)
    scale = 1 / np.sqrt(6)
    out, lse, *_ = reference.attention(q, k, v, scale)
    wanted = reference.attention_backward(dout, q, k, v, out, lse, scale)
    for got, one in zip(kernels.attention_backward(dout, q, k, v), wanted, strict=True):
        close(got, one)


def test_cross_entropy():
    """Catches an ignored scale, and a gradient in rows that should be ignored."""
    logits, targets = draw(3, 5), np.array([4, -1, 0], np.int32)
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(-1, keepdims=True)
    wanted = 0.5 * (p - np.eye(5)[targets]) * (targets >= 0)[:, None]
    close(kernels.cross_entropy_backward(logits, targets, 0.5), wanted)
    with pytest.raises(IndexError, match=r"\[cross_entropy_backward\] 'targets' must be below 5, got 5"):
        kernels.cross_entropy_backward(logits, np.array([0, 5, 1], np.int32))


def test_embedding():
    """Catches rows overwritten instead of accumulated, and ids outside the table."""
    dy, tokens = draw(2, 3, 4), np.array([[1, 1, 0], [4, 1, 0]], np.int32)
    wanted = np.zeros((6, 4))
    np.add.at(wanted, tokens.reshape(-1), dy.reshape(6, 4))
    close(kernels.embedding_backward(dy, tokens, 6), wanted)
    with pytest.raises(IndexError, match=r"\[embedding_backward\] 'tokens' must be in 0..3, got 0..4"):
        kernels.embedding_backward(dy, tokens, 4)


def test_adamw_and_squared_norm():
    """Catches an update that is not in place, and arrays that cannot be updated."""
    param, grad, m, v = draw(3, 4), draw(3, 4, seed=1), np.zeros((3, 4), np.float32), np.zeros((3, 4), np.float32)
    before = param.copy()
    out = kernels.adamw(param, grad, m, v, step=1, lr=0.01, weight_decay=0.5)
    assert out is param
    close(param, before - 0.01 * (np.sign(grad) + 0.5 * before))  # the first step of Adam has size lr
    assert kernels.squared_norm(grad) == pytest.approx(np.square(grad, dtype=np.float64).sum())
    with pytest.raises(ValueError, match=r"\[adamw\] 'm' must be C-contiguous and writable"):
        kernels.adamw(param, grad, np.zeros((4, 3), np.float32).T, v, step=1)
    with pytest.raises(ValueError, match=r"\[adamw\] 'step' must be at least 1, got 0"):
        kernels.adamw(param, grad, m, v, step=0)
