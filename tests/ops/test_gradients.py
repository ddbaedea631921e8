"""Every op against central differences of its formula in float64 (`tinygpt.reference`).

The objective is sum(seed * out) for a random seed, so that every element of every gradient is tested.
"""

import numpy as np
import pytest

from tinygpt import ops, reference
from tinygpt.ops.attention import rotation_tables
from tinygpt.ops.elementwise import DropoutKey
from tinygpt.tensor import Tensor, no_grad

STEP = 1e-5  # error of a difference: STEP^2 f''' / 6 + 2^-53 f / STEP, about 1e-10 for values of order 1
U = 2.0**-24


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def differences(f, inputs, name):
    """The gradient of the scalar f(inputs) with respect to inputs[name], element by element."""
    inputs = {key: np.array(value, np.float64) for key, value in inputs.items()}
    x = inputs[name]
    grad = np.empty_like(x)
    for index in np.ndindex(x.shape):
        held = x[index]
        x[index] = held + STEP
        up = f(**inputs)
        x[index] = held - STEP
        grad[index] = (up - f(**inputs)) / (2 * STEP)
        x[index] = held
    return grad


def close(got, want, terms):
    """Assert equality up to the rounding of chains of `terms` operations.

    Every operation has a relative error of u. Terms and gradients are of order 1, so the largest element, or 1 if that
    is larger, stands for the size of the summed terms. The factor 8 covers exp and tanh (4 units each).
    """
    assert got is not None
    assert got.dtype == np.float32
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=8 * U * (terms + 4) * max(1.0, abs(want).max(initial=0)))


def check(op, formula, inputs, terms, wanted=None):
    """Compare value and gradients of op(**tensors) with formula(**arrays)."""
    wanted = list(inputs) if wanted is None else wanted
    tensors = {name: Tensor(value, requires_grad=name in wanted) for name, value in inputs.items()}
    out = op(**tensors)
    value = np.asarray(formula(**{name: x.astype(np.float64) for name, x in inputs.items()}))
    close(out.data, value, terms)
    seed = draw(*value.shape, seed=99)

    def objective(**arrays):
        return float((np.asarray(formula(**arrays)) * seed).sum())

    out.backward(seed)
    for name, tensor in tensors.items():
        if name in wanted:
            close(tensor.grad, differences(objective, inputs, name), terms)
        else:
            assert tensor.grad is None


@pytest.mark.parametrize("activation", ["none", "gelu"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_linear(activation, bias, residual):
    """Catches a gradient without the activation, a wrong transpose, and a missing bias or residual."""
    inputs = {"x": draw(2, 3, 5), "weight": draw(4, 5)}
    inputs |= {"bias": draw(4)} if bias else {}
    inputs |= {"residual": draw(2, 3, 4)} if residual else {}

    def formula(x, weight, bias=0.0, residual=0.0):
        z = x @ weight.T + bias
        return (reference.gelu(z) if activation == "gelu" else z) + residual

    check(lambda **t: ops.linear(**t, activation=activation), formula, inputs, 6)


@pytest.mark.parametrize("wanted", [["x"], ["weight"], ["bias"], ["residual"]], ids=str)
def test_linear_with_one_wanted_gradient(wanted):
    """Catches a gradient that is computed only together with another one."""
    inputs = {"x": draw(3, 5), "weight": draw(4, 5), "bias": draw(4), "residual": draw(3, 4)}
    check(ops.linear, lambda x, weight, bias, residual: x @ weight.T + bias + residual, inputs, 6, wanted)


def test_linear_used_twice():
    """Catches a second use of a weight that overwrites the gradient of the first."""
    inputs = {"x": draw(3, 4), "weight": draw(4, 4), "bias": draw(4)}

    def op(x, weight, bias):
        return ops.linear(ops.linear(x, weight, bias), weight, bias)

    check(op, lambda x, weight, bias: (x @ weight.T + bias) @ weight.T + bias, inputs, 12)


def layernorm(x, weight, bias=0.0, eps=1e-5):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * weight + bias


def rmsnorm(x, weight, eps=1e-5):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


NORMS = {
    "layernorm": (ops.layernorm, layernorm, ("weight", "bias")),
    "layernorm without bias": (ops.layernorm, layernorm, ("weight",)),
    "rmsnorm": (ops.rmsnorm, rmsnorm, ("weight",)),
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_norms(name, eps):
    """Catches a missing mean in dx, a dweight without the row's scale, and an eps ignored in backward."""
    op, formula, parameters = NORMS[name]
    inputs = {"x": draw(2, 3, 7)} | {p: draw(7, seed=i) for i, p in enumerate(parameters)}
    check(lambda **t: op(**t, eps=eps), lambda **a: formula(**a, eps=eps), inputs, 28)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("order", ["norm last", "norm first", "two norms"])
def test_norm_of_a_tensor_used_twice(name, order):
    """Catches a gradient of x, accumulated before the norm's backward, that is lost or counted twice."""
    op, formula, parameters = NORMS[name]
    inputs = {"x": draw(3, 7)} | {p: draw(7, seed=i) for i, p in enumerate(parameters)}

    def both(f, gelu):
        def function(x, **p):
            if order == "two norms":
                return f(x, **p) + f(x, **p)
            if order == "norm first":
                first = f(x, **p)
                return first + gelu(x)
            other = gelu(x)
            return other + f(x, **p)

        return function

    check(both(op, ops.gelu), both(formula, reference.gelu), inputs, 40)


@pytest.mark.parametrize("frozen", ["weight", "bias", "both"])
@pytest.mark.parametrize("uses", [1, 2])
def test_layernorm_with_frozen_parameters(frozen, uses):
    """Catches one accumulate flag for two sums: a stale dbias that is added to, or a dweight that is overwritten."""
    inputs = {"x": draw(3, 7), "weight": draw(7), "bias": draw(7, seed=1)}
    wanted = [name for name in inputs if name not in (frozen, *(("weight", "bias") if frozen == "both" else ()))]

    def many(f):
        def function(x, weight, bias):
            for _ in range(uses):
                x = f(x, weight, bias)
            return x

        return function

    check(many(ops.layernorm), many(layernorm), inputs, 60, wanted)


@pytest.mark.parametrize("fresh", ["weight", "bias"])
def test_layernorm_adds_to_one_gradient_only(fresh):
    """Catches a kernel that accumulates into a stale buffer because the other sum must be accumulated."""
    tensors = {"x": draw(3, 7), "weight": draw(7), "bias": draw(7, seed=1)}
    tensors = {name: Tensor(value, requires_grad=True) for name, value in tensors.items()}
    tensors[fresh].receive(np.full(7, 100, np.float32))
    plain = {name: Tensor(t.data, requires_grad=True) for name, t in tensors.items()}
    seed = draw(3, 7, seed=99)
    ops.layernorm(**tensors).backward(seed)
    ops.layernorm(**plain).backward(seed)
    for name in ("weight", "bias"):
        offset = 100 if name == fresh else 0
        np.testing.assert_allclose(tensors[name].grad, plain[name].grad + offset, atol=200 * U)


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)], ids=str)
def test_gelu(shape):
    """Catches the derivative of a different form of GELU."""
    check(ops.gelu, lambda x: reference.gelu(x), {"x": 2 * draw(*shape)}, 8)


@pytest.mark.parametrize("shape", [(6,), (2, 3, 8)], ids=str)
def test_swiglu(shape):
    """Catches gate and up exchanged, in the value or in the gradient."""

    def formula(x):
        gate, up = np.split(x, 2, axis=-1)
        return gate / (1 + np.exp(-gate)) * up

    check(ops.swiglu, formula, {"x": 2 * draw(*shape)}, 8)


def test_softmax():
    """Catches a gradient without the sum over the row."""

    def formula(x):
        e = np.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    check(ops.softmax, formula, {"x": 2 * draw(2, 3, 7)}, 14)


def test_add():
    """Catches a gradient that reaches one side only."""
    check(ops.add, lambda a, b: a + b, {"a": draw(2, 3), "b": draw(2, 3, seed=1)}, 1)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("key", [DropoutKey(1, 2), DropoutKey(2**32 - 1, 7, 5)], ids=str)
def test_dropout(residual, key):
    """Catches a backward mask that is drawn again, for another site or another sequence."""
    rate, site, (B, T, C) = 0.4, 3, (2, 3, 5)
    mask = reference.dropout_mask((B * T, C), rate, key.bits, site, key.sequence, T).reshape(B, T, C)
    assert 0 < mask.sum() < mask.size
    inputs = {"x": draw(B, T, C)} | ({"residual": draw(B, T, C, seed=1)} if residual else {})
    check(
        lambda **t: ops.dropout(**t, rate=rate, key=key, site=site),
        lambda x, residual=0.0: np.where(mask, x / (1 - rate), 0) + residual,
        inputs,
        4,
    )


def test_dropout_keys_differ():
    """Catches a part of the key that is ignored: every seed, step, sequence and site has its own mask."""
    x = Tensor(np.ones((1, 1, 512), np.float32))
    keys = [(DropoutKey(0, 0), 0), (DropoutKey(1, 0), 0), (DropoutKey(0, 1), 0), (DropoutKey(0, 0, 1), 0)]
    masks = [ops.dropout(x, 0.5, key, site).data.tobytes() for key, site in [*keys, (DropoutKey(0, 0), 1)]]
    assert len(set(masks)) == len(masks)


TOKENS = np.array([[1, 4, 1], [0, 4, 4]], np.int32)


@pytest.mark.parametrize("wanted", [["table", "positions"], ["table"], ["positions"]], ids=str)
@pytest.mark.parametrize("start", [0, 2])
def test_embedding_with_positions(wanted, start):
    """Catches a repeated token counted once, rows off by `start`, and a gradient that needs the other one."""
    inputs = {"table": draw(6, 4), "positions": draw(5, 4)}
    check(
        lambda table, positions: ops.embedding(TOKENS, table, positions, start),
        lambda table, positions: table[TOKENS] + positions[start : start + 3],
        inputs,
        4,
        wanted,
    )


def test_embedding_without_positions():
    """Catches uninitialised gradient rows of tokens that do not occur."""
    check(lambda table: ops.embedding(TOKENS, table), lambda table: table[TOKENS], {"table": draw(6, 4)}, 3)


def test_embedding_added_to_the_gradient_of_the_head():
    """Catches a tied table whose gradient from the head is overwritten by that from the tokens."""
    check(
        lambda table: ops.linear(ops.embedding(TOKENS, table), table),
        lambda table: table[TOKENS] @ table.T,
        {"table": draw(6, 4)},
        12,
    )


def attend(qkv, H, G, rotation):
    """The attention formula, starting from the fused projection."""
    B, T, width = qkv.shape
    D = width // (H + 2 * G)
    heads = qkv.reshape(B, T, H + 2 * G, D)
    q, k, v = heads[:, :, :H], heads[:, :, H : H + G], heads[:, :, H + G :]
    if rotation is not None:
        q, k = reference.rope(q, *rotation), reference.rope(k, *rotation)
    return reference.attention(q, k, v, D**-0.5)


@pytest.mark.parametrize(("H", "G"), [(1, 1), (3, 3), (4, 2), (3, 1)])
@pytest.mark.parametrize("rotated", [False, True])
def test_attention(H, G, rotated):
    """Catches swapped parts of qkv, queries that read the wrong key/value head, and dq or dk left rotated."""
    B, T, D = 2, 4, 4
    rotation = rotation_tables(9, D, 100.0) if rotated else None
    rotation = rotation and tuple(table[2 : 2 + T] for table in rotation)
    weights = np.full((B, H, T, T), np.nan, np.float32)
    qkv = draw(B, T, (H + 2 * G) * D)
    check(
        lambda qkv: ops.attention(qkv, H, G, rotation, weights=weights),
        lambda qkv: attend(qkv, H, G, rotation)[0].reshape(B, T, H * D),
        {"qkv": qkv},
        4 * T * D,
    )
    close(weights, attend(qkv, H, G, rotation)[2], 2 * D)


def test_rotation_tables():
    """Catches frequencies in the wrong order or of the wrong base, and angles computed in float32."""
    cos, sin = rotation_tables(3000, 6, 10000.0)
    angle = 2999 * 10000.0 ** (-np.array([0, 2, 4]) / 6)
    np.testing.assert_allclose(cos[-1], np.cos(angle), atol=U)
    np.testing.assert_allclose(sin[-1], np.sin(angle), atol=U)
    assert cos.shape == sin.shape == (3000, 3)


TARGETS = np.array([[0, -1, 4], [2, 2, -100]])


def mean_loss(logits, targets):
    flat, targets = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)
    losses = np.log(np.exp(flat).sum(-1)) - flat[np.arange(len(flat)), np.maximum(targets, 0)]
    return losses[targets >= 0].mean()


def test_cross_entropy():
    """Catches ignored targets that count in the mean, receive a gradient, or index the last class."""
    inputs = {"logits": draw(2, 3, 5)}
    check(lambda logits: ops.cross_entropy(logits, TARGETS), lambda logits: mean_loss(logits, TARGETS), inputs, 16)


@pytest.mark.parametrize("keep_bytes", [2**20, 2 * 5 * 4, 0], ids=["kept", "two rows at a time", "row by row"])
@pytest.mark.parametrize("wanted", [["x", "weight"], ["x"], ["weight"]], ids=str)
def test_head_loss(keep_bytes, wanted):
    """Catches a chunk that is skipped, averaged separately, or overwrites the dweight of the others."""
    check(
        lambda x, weight: ops.head_loss(x, weight, TARGETS, keep_bytes),
        lambda x, weight: mean_loss(x @ weight.T, TARGETS),
        {"x": draw(2, 3, 4), "weight": draw(5, 4)},
        30,
        wanted,
    )


@pytest.mark.parametrize("keep_bytes", [2**20, 3 * 11 * 4])
def test_head_loss_scales_with_its_seed(keep_bytes):
    """Catches a gradient that ignores the incoming gradient of the loss, which gradient accumulation needs."""
    x, weight, targets = draw(7, 4), draw(11, 4), np.arange(7)
    grads = []
    for seed in (1.0, 0.25):
        tensors = Tensor(x, requires_grad=True), Tensor(weight, requires_grad=True)
        ops.head_loss(*tensors, targets, keep_bytes).backward(seed)
        grads.append([tensor.grad / np.float32(seed) for tensor in tensors])
    for one, other in zip(*grads, strict=True):
        np.testing.assert_allclose(one, other, atol=32 * U)


def test_head_loss_kept_and_chunked_agree():
    """Catches chunks whose loss differs from that of all rows, at sizes with edge tiles."""
    x, weight = draw(65, 24, seed=1), draw(131, 24, seed=2)
    targets = np.random.default_rng(3).integers(-20, 131, 65)
    found = []
    for keep_bytes in (2**30, 7 * 131 * 4):
        tensors = Tensor(x, requires_grad=True), Tensor(weight, requires_grad=True)
        loss = ops.head_loss(*tensors, targets, keep_bytes)
        loss.backward()
        found.append((loss.data, *(t.grad for t in tensors)))
        with no_grad():
            assert ops.head_loss(*tensors, targets, keep_bytes).item() == loss.item()
    for kept, chunked in zip(*found, strict=True):
        np.testing.assert_allclose(kept, chunked, rtol=0, atol=8 * U * 131 * max(1, abs(kept).max()))


@pytest.mark.parametrize("keep_bytes", [2**20, 0])
def test_all_targets_ignored(keep_bytes):
    """Catches 0 / 0: a loss of NaN, and a gradient that is not exactly zero."""
    x, weight = Tensor(draw(3, 4), requires_grad=True), Tensor(draw(5, 4), requires_grad=True)
    loss = ops.head_loss(x, weight, np.full(3, -1), keep_bytes)
    loss.backward()
    logits = Tensor(draw(3, 5), requires_grad=True)
    alone = ops.cross_entropy(logits, np.full(3, -7))
    alone.backward()
    assert loss.item() == alone.item() == 0
    for tensor in (x, weight, logits):
        assert not tensor.grad.any()


def test_targets_far_below_zero_are_ignored():
    """Catches a marker such as the smallest int64 that wraps around to a valid 32-bit token."""
    logits = Tensor(draw(2, 5), requires_grad=True)
    far = ops.cross_entropy(logits, np.array([-(2**40), 3]))
    assert far.item() == ops.cross_entropy(logits, np.array([-1, 3])).item()
    with pytest.raises(IndexError, match=r"^\[cross_entropy\] 'targets' must be below 5, got 4294967297$"):
        ops.cross_entropy(logits, np.array([2**32 + 1, 0]))
    unsigned = ops.cross_entropy(logits, np.array([1, 3], np.uint8))
    assert unsigned.item() == ops.cross_entropy(logits, np.array([1, 3])).item()


@pytest.mark.parametrize("shape", [(0, 3), (2, 0, 3)], ids=str)
def test_a_batch_without_rows(shape):
    """Catches a crash, and a weight gradient left uninitialised."""
    x, weight, bias = Tensor(draw(*shape), requires_grad=True), leaf(4, 3), leaf(4)
    scale = leaf(3)
    out = ops.linear(ops.layernorm(x, scale), weight, bias, activation="gelu")
    assert out.shape == (*shape[:-1], 4)
    out.backward(np.empty(out.shape))
    assert x.grad.shape == shape
    for parameter in (weight, bias, scale):
        assert not parameter.grad.any()


def leaf(*shape):
    return Tensor(draw(*shape), requires_grad=True)
