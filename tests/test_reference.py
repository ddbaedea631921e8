"""The float64 formulas: each gradient against central differences of its forward, and values known by hand."""

import math

import numpy as np
import pytest

from tinygpt import reference

H = 1e-5


@pytest.fixture
def draw():
    """Random float64 arrays, the same for every test."""
    generator = np.random.default_rng(0)
    return lambda *shape: generator.standard_normal(shape)


def numeric(forward, x, dy):
    """Central differences d(sum dy forward(x)) / dx, element by element: (f(x + h) - f(x - h)) / 2h."""
    gradient = np.empty_like(x)
    for index in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[index] += H
        down[index] -= H
        gradient[index] = (dy * (forward(up) - forward(down))).sum() / (2 * H)
    return gradient


def assert_gradient(gradient, forward, x, dy):
    """Compare a gradient with central differences.

    The differences have errors of h^2 f''' / 6 and 2^-53 |f| / h, about 1e-11 each. The tolerance of 1e-7 is far above
    both.
    """
    np.testing.assert_allclose(gradient, numeric(forward, x, dy), rtol=1e-7, atol=1e-7)


def test_matmul_gradients_are_products(draw):
    """Catches a wrong transpose: da = dy op(b)^T and db = op(a)^T dy in each of the four cases."""
    a, b, dy = draw(3, 4), draw(4, 5), draw(3, 5)
    assert_gradient(reference.matmul(dy, b, trans_b=True)[0], lambda x: reference.matmul(x, b)[0], a, dy)
    assert_gradient(reference.matmul(a, dy, trans_a=True)[0], lambda x: reference.matmul(a, x)[0], b, dy)
    np.testing.assert_array_equal(reference.matmul(a.T, b.T, True, True)[0], reference.matmul(a, b)[0])


def test_matmul_of_small_whole_numbers():
    """Catches bias, activation and residual applied in the wrong order."""
    out, pre = reference.matmul([[1, 2]], [[3], [4]], bias=[5], residual=[[100]], activation=0)
    assert (out, pre) == (116, 16)
    out, pre = reference.matmul([[1, 2]], [[3], [4]], bias=[-11], residual=[[100]], activation=1)
    assert (out, pre) == (100, 0)


def test_column_sum_is_the_gradient_of_a_bias(draw):
    """Catches a sum along the wrong axis."""
    x, weight, bias, dy = draw(4, 3), draw(3, 5), draw(5), draw(4, 5)
    forward = lambda b: reference.matmul(x, weight, bias=b)[0]  # noqa: E731 - written like its neighbours
    assert_gradient(reference.column_sum(dy), forward, bias, dy)


def test_softmax_gradient(draw):
    """Catches a gradient without the row's weighted mean."""
    x, dy = draw(3, 5), draw(3, 5)
    assert_gradient(reference.softmax_backward(dy, reference.softmax(x)), reference.softmax, x, dy)


def test_softmax_by_hand():
    """Catches a softmax over columns, and one that overflows: e^0 : e^ln 3 is 1 : 3, with any shift."""
    np.testing.assert_allclose(reference.softmax([[0, math.log(3)], [900, 900 + math.log(3)]]), [[0.25, 0.75]] * 2)
    np.testing.assert_array_equal(reference.softmax([[-np.inf, 5]]), [[0, 1]])


@pytest.mark.parametrize("residual", [False, True])
def test_layernorm_gradients(draw, residual):
    """Catches a gradient that treats mean or rstd as constants, and dtotal scaled by mistake."""
    x, other, weight, bias = draw(3, 6), draw(3, 6) if residual else None, draw(6), draw(6)
    dy, dtotal = draw(3, 6), draw(3, 6)
    _, total, mean, rstd = reference.layernorm(x, other, weight, bias, 0.1)
    dx, dweight, dbias = reference.layernorm_backward(dy, total, weight, mean, rstd, dtotal)

    def both(z):
        """The two results that depend on x, stacked: out and total."""
        return np.stack(reference.layernorm(z, other, weight, bias, 0.1)[:2])

    assert_gradient(dx, both, x, np.stack([dy, dtotal]))
    assert_gradient(dweight, lambda w: reference.layernorm(x, other, w, bias, 0.1)[0], weight, dy)
    assert_gradient(dbias, lambda b: reference.layernorm(x, other, weight, b, 0.1)[0], bias, dy)


def test_layernorm_by_hand():
    """Catches a variance with n - 1, and eps outside the root: 1 and 3 have mean 2 and variance 1."""
    out, total, mean, rstd = reference.layernorm([[1, 3]], None, [1, 10], [0, 5], 3.0)
    np.testing.assert_allclose(out, [[-0.5, 10]])
    assert (total.tolist(), mean, rstd) == ([[1, 3]], 2, 0.5)


@pytest.mark.parametrize("residual", [False, True])
def test_rmsnorm_gradients(draw, residual):
    """Catches a gradient that treats rstd as a constant, and dtotal scaled by mistake."""
    x, other, weight = draw(3, 6), draw(3, 6) if residual else None, draw(6)
    dy, dtotal = draw(3, 6), draw(3, 6)
    _, total, rstd = reference.rmsnorm(x, other, weight, 0.1)
    dx, dweight = reference.rmsnorm_backward(dy, total, weight, rstd, dtotal)

    def both(z):
        return np.stack(reference.rmsnorm(z, other, weight, 0.1)[:2])

    assert_gradient(dx, both, x, np.stack([dy, dtotal]))
    assert_gradient(dweight, lambda w: reference.rmsnorm(x, other, w, 0.1)[0], weight, dy)


def test_rmsnorm_by_hand():
    """Catches a sum instead of a mean: 1 and 7 have a mean square of 25."""
    out, _, rstd = reference.rmsnorm([[1, 7]], None, [1, 2], 0.0)
    np.testing.assert_allclose(out, [[0.2, 2.8]])
    assert rstd == pytest.approx(0.2)


def test_gelu_gradient(draw):
    """Catches a derivative without its second term."""
    x, dy = 2 * draw(40), draw(40)
    assert_gradient(reference.gelu_backward(dy, x), reference.gelu, x, dy)


def test_gelu_is_close_to_its_definition():
    """Catches a wrong constant: the tanh form is within 5e-4 of x Phi(x) everywhere, and exact at 0."""
    x = np.linspace(-6, 6, 241)
    exact = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x]
    np.testing.assert_allclose(reference.gelu(x), exact, atol=5e-4)
    assert reference.gelu(0.0) == 0


def test_swiglu_gradient(draw):
    """Catches gate and up exchanged in only one direction."""
    x, dy = 2 * draw(3, 8), draw(3, 4)
    assert_gradient(reference.swiglu_backward(dy, x), reference.swiglu, x, dy)


def test_swiglu_by_hand():
    """Catches the wrong half as gate: sigmoid(ln 3) is 3/4, and sigmoid(-1000) does not overflow."""
    gate = math.log(3)
    np.testing.assert_allclose(reference.swiglu([[gate, -1000, 8, 5]]), [[gate * 0.75 * 8, 0]])


def test_add(draw):
    """Catches a difference."""
    a, b = draw(5), draw(5)
    np.testing.assert_array_equal(reference.add(a, b), a + b)


def test_generator_is_splitmix64():
    """Catches a wrong constant or shift: the first three numbers of SplitMix64 from 0, as published."""
    from tinygpt.reference.activation import _draw

    numbers = _draw(np.zeros(3, np.uint64), np.arange(3, dtype=np.uint64))
    assert [f"{n:016x}" for n in numbers.tolist()] == ["e220a8397b1dcdaf", "6e789e6aa1b965f4", "06c45d188009454f"]


def test_dropout_mask(draw):
    """Catches a mask that is off its rate by 5 standard deviations, or equal in two rows or columns."""
    keep = reference.dropout_mask((300, 200), 0.3, key=2**63, site=1, sequence=5, T=7)
    assert abs(keep.sum() - 60_000 * 0.7) <= 5 * math.sqrt(60_000 * 0.3 * 0.7)
    assert len(np.unique(keep, axis=0)) == 300
    assert len(np.unique(keep, axis=1).T) == 200
    np.testing.assert_array_equal(
        reference.dropout_mask((7, 200), 0.3, key=2**63, site=1, sequence=8, T=7), keep[21:28]
    )


def test_dropout_is_its_own_gradient(draw):
    """Catches a scale or a mask that forward and backward do not share."""
    x, residual, dy = draw(4, 6), draw(4, 6), draw(4, 6)
    scalars = {"rate": 0.4, "key": 3, "site": 1, "sequence": 0, "T": 2}
    gradient = reference.dropout(dy, None, **scalars)
    assert_gradient(gradient, lambda z: reference.dropout(z, residual, **scalars), x, dy)
    kept = gradient != 0
    np.testing.assert_allclose(gradient[kept], dy[kept] / 0.6)


@pytest.mark.parametrize("shape", [(2, 3, 2, 4, 3, 2), (1, 3, 4, 2, 5, 2), (1, 1, 2, 3, 4, 1)], ids=str)
def test_attention_gradients(draw, shape):
    """Catches a mask, a scale or a group of heads that differs between forward and backward."""
    B, T, heads, D, S, G = shape
    q, k, v, dout = draw(B, T, heads, D), draw(B, S, G, D), draw(B, S, G, D), draw(B, T, heads, D)
    out, lse, _ = reference.attention(q, k, v, 0.7)
    dq, dk, dv = reference.attention_backward(dout, q, k, v, out, lse, 0.7)
    assert_gradient(dq, lambda x: reference.attention(x, k, v, 0.7)[0], q, dout)
    assert_gradient(dk, lambda x: reference.attention(q, x, v, 0.7)[0], k, dout)
    assert_gradient(dv, lambda x: reference.attention(q, k, x, 0.7)[0], v, dout)


def test_attention_of_one_query_at_a_time(draw):
    """Catches a mask that counts queries from the first key: each query alone must give the same result."""
    q, k, v = draw(2, 5, 4, 3), draw(2, 5, 2, 3), draw(2, 5, 2, 3)
    out, lse, weights = reference.attention(q, k, v, 0.5)
    for t in range(5):
        alone = reference.attention(q[:, t : t + 1], k[:, : t + 1], v[:, : t + 1], 0.5)
        np.testing.assert_allclose(alone[0][:, 0], out[:, t])
        np.testing.assert_allclose(alone[1][:, :, 0], lse[:, :, t])
        np.testing.assert_allclose(alone[2][:, :, 0], weights[:, :, t, : t + 1])
        np.testing.assert_array_equal(weights[:, :, t, t + 1 :], 0)


def test_attention_reads_the_head_of_its_group(draw):
    """Catches h % G for h // (H // G): with a single key, a query head returns its group's value."""
    v = draw(1, 1, 2, 3)
    out, lse, weights = reference.attention(np.zeros((1, 1, 4, 3)), np.zeros((1, 1, 2, 3)), v, 1.0)
    np.testing.assert_array_equal(out[0, 0], v[0, 0, [0, 0, 1, 1]])
    np.testing.assert_array_equal(lse, 0)
    np.testing.assert_array_equal(weights, 1)


def test_cross_entropy_gradient(draw):
    """Catches a gradient in ignored rows, and one without the scale."""
    logits, targets = draw(4, 5), np.array([0, 4, -1, 2])
    _, lse = reference.cross_entropy(logits, targets)
    gradient = reference.cross_entropy_backward(logits, targets, lse, 0.25)
    assert_gradient(gradient, lambda x: reference.cross_entropy(x, targets)[0], logits, np.full(4, 0.25))


def test_cross_entropy_by_hand():
    """Catches log2, and a loss for an ignored row: with odds 1 : 3, the second class costs ln 4/3."""
    losses, lse = reference.cross_entropy([[0, math.log(3)]] * 2 + [[0, 0]], [1, -5, 0])
    np.testing.assert_allclose(losses, [math.log(4 / 3), 0, math.log(2)])
    np.testing.assert_allclose(lse, [math.log(4), math.log(4), math.log(2)])


@pytest.mark.parametrize("start", [0, 2])
def test_embedding_gradients(draw, start):
    """Catches a token whose second use replaces its first, and positions summed along the wrong axis."""
    tokens, table, positions = np.array([[0, 3, 3], [1, 0, 3]]), draw(5, 4), draw(6, 4)
    dy = draw(6, 4)
    dtable, dpositions = reference.embedding_backward(dy, tokens, V=5, P=6, start=start)
    assert_gradient(dtable, lambda x: reference.embedding(tokens, x, positions, start), table, dy)
    assert_gradient(dpositions, lambda x: reference.embedding(tokens, table, x, start), positions, dy)


def test_embedding_by_hand():
    """Catches rows in the order of positions instead of tokens."""
    out = reference.embedding([[1, 0], [1, 1]], [[1], [2]], [[10], [20], [30]], start=1)
    assert out.ravel().tolist() == [22, 31, 22, 32]


def test_rope_gradient_is_the_inverse(draw):
    """Catches an inverse that does not rotate back; it is also the gradient."""
    x, dy, angles = draw(2, 3, 2, 8), draw(2, 3, 2, 8), draw(3, 4)
    cos, sin = np.cos(angles), np.sin(angles)
    assert_gradient(reference.rope(dy, cos, sin, inverse=True), lambda z: reference.rope(z, cos, sin), x, dy)
    np.testing.assert_allclose(reference.rope(reference.rope(x, cos, sin), cos, sin, inverse=True), x)


def test_rope_by_hand():
    """Catches pairs (2j, 2j + 1): a quarter turn takes (a, b, c, d) to (-c, -d, a, b)."""
    out = reference.rope(np.array([1, 2, 3, 4.0]).reshape(1, 1, 1, 4), np.zeros((1, 2)), np.ones((1, 2)))
    assert out.ravel().tolist() == [-3, -4, 1, 2]


def test_rope_scores_depend_on_the_distance_alone(draw):
    """Catches an angle that is not proportional to the position."""
    angles = np.arange(6)[:, None] * np.array([1.0, 0.1, 0.01])
    q = reference.rope(np.broadcast_to(draw(6), (1, 6, 1, 6)), np.cos(angles), np.sin(angles))[0, :, 0]
    k = reference.rope(np.broadcast_to(draw(6), (1, 6, 1, 6)), np.cos(angles), np.sin(angles))[0, :, 0]
    for distance in range(6):
        np.testing.assert_allclose(np.diff(np.diagonal(q @ k.T, -distance)), 0, atol=1e-12)


def test_squared_norm():
    """Catches a square root, and a sum that loses small squares beside a large one."""
    assert reference.squared_norm([3, 4]) == 25
    assert reference.squared_norm([1e8] + [1.0] * 1000) == 1e16 + 1000


def test_adamw_first_step_by_hand():
    """Catches a missing or wrong bias correction: from zero moments, m' = g and sqrt(v') = |g|."""
    param, m, v = reference.adamw([10.0], [-4.0], [0.0], [0.0], 0.5, 0.9, 0.99, 0.0, 0.1, 1, grad_scale=0.5)
    np.testing.assert_allclose([param[0], m[0], v[0]], [10 - 0.5 * 0.1 * 10 + 0.5, -0.2, 0.04])


def test_adamw_with_a_constant_gradient():
    """Catches bias corrections with the wrong decay: a constant gradient moves by lr at every step."""
    param, m, v = np.array([0.0]), np.array([0.0]), np.array([0.0])
    for step in range(1, 20):
        param, m, v = reference.adamw(param, [3.0], m, v, 0.1, 0.9, 0.95, 0.0, 0.0, step)
        np.testing.assert_allclose(param, -0.1 * step)
