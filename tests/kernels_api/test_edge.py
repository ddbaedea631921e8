"""kernels.<op> on plain arrays: results, copies, one-line errors, and unchanged inputs."""

import functools
import math

import numpy as np
import pytest

from tinygpt import kernels, reference
from tinygpt.kernels import edge
from tinygpt.packed import to_bfloat16, to_int8


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def norm(name, x, weight, bias=None, residual=None, eps=1e-5):
    shape = np.shape(x)
    flat, extra = np.reshape(x, (-1, shape[-1])), None if residual is None else np.reshape(residual, (-1, shape[-1]))
    parameters = (weight, bias) if name == "layernorm" else (weight,)
    return getattr(reference, name)(flat, extra, *parameters, eps)[0].reshape(shape)


def dropout(x, residual=None):
    B, T, C = x.shape
    extra = None if residual is None else residual.reshape(B * T, C)
    return reference.dropout(x.reshape(B * T, C), extra, 0.4, 5, 2, 3, T).reshape(x.shape)


TOKENS = np.array([[1, 0, 3], [3, 3, 2]], np.int32)
ROTATION = {"cos": np.cos(draw(3, 2)), "sin": np.sin(draw(3, 2))}
HALVES, BLOCKS = to_bfloat16(draw(4, 5)), to_int8(draw(4, 40))
# Name -> (call on arrays, reference on the same arrays, arrays)
CALLS = {
    "matmul": (kernels.matmul, lambda a, b: reference.matmul(a, b)[0], {"a": draw(3, 5), "b": draw(5, 4)}),
    "matmul with all": (
        functools.partial(kernels.matmul, trans_a=True, trans_b=True, activation="gelu"),
        lambda a, b, bias, residual: reference.matmul(a, b, True, True, bias, residual, 1)[0],
        {"a": draw(5, 3), "b": draw(4, 5), "bias": draw(4), "residual": draw(3, 4)},
    ),
    "matmul_bfloat16": (
        lambda a, bias: kernels.matmul_bfloat16(a, HALVES, bias=bias, activation="gelu"),
        lambda a, bias: reference.matmul_bfloat16(a, HALVES, bias, activation=1),
        {"a": draw(3, 5), "bias": draw(4)},
    ),
    "matmul_int8": (
        lambda a, residual: kernels.matmul_int8(a, *BLOCKS, residual=residual),
        lambda a, residual: reference.matmul_int8(a, *BLOCKS, None, residual),
        {"a": draw(3, 40), "residual": draw(3, 4)},
    ),
    "column_sum": (kernels.column_sum, lambda x: x.astype(float).sum((0, 1)), {"x": draw(2, 3, 5)}),
    "softmax": (kernels.softmax, lambda x: reference.softmax(x.reshape(-1, 5)).reshape(x.shape), {"x": draw(2, 3, 5)}),
    "softmax_backward": (kernels.softmax_backward, reference.softmax_backward, {"dy": draw(3, 5), "y": draw(3, 5)}),
    "layernorm": (
        kernels.layernorm,
        functools.partial(norm, "layernorm"),
        {"x": draw(2, 3, 5), "weight": draw(5), "bias": draw(5, seed=1), "residual": draw(2, 3, 5, seed=1)},
    ),
    "layernorm of x alone": (
        kernels.layernorm,
        functools.partial(norm, "layernorm"),
        {"x": draw(2, 3, 5), "weight": draw(5)},
    ),
    "rmsnorm": (
        functools.partial(kernels.rmsnorm, eps=0.3),
        functools.partial(norm, "rmsnorm", eps=0.3),
        {"x": draw(2, 3, 5), "weight": draw(5), "residual": draw(2, 3, 5, seed=1)},
    ),
    "cross_entropy": (
        lambda logits, targets: kernels.cross_entropy(logits, targets.astype(np.int32)),
        lambda logits, targets: reference.cross_entropy(logits, targets.astype(np.int32))[0],
        {"logits": draw(3, 5), "targets": np.array([4, -1, 0], np.float32)},
    ),
    "gelu": (kernels.gelu, reference.gelu, {"x": draw(2, 3, 5)}),
    "gelu_backward": (kernels.gelu_backward, reference.gelu_backward, {"dy": draw(2, 5), "x": draw(2, 5, seed=1)}),
    "swiglu": (
        kernels.swiglu,
        lambda x: reference.swiglu(x.reshape(-1, 6)).reshape(*x.shape[:-1], 3),
        {"x": draw(2, 3, 6)},
    ),
    "add": (kernels.add, reference.add, {"a": draw(2, 3, 4), "b": draw(2, 3, 4, seed=1)}),
    "dropout": (
        functools.partial(kernels.dropout, rate=0.4, key=5, site=2, sequence=3),
        dropout,
        {"x": draw(2, 3, 4), "residual": draw(2, 3, 4, seed=1)},
    ),
    "attention": (
        kernels.attention,
        lambda q, k, v: reference.attention(q, k, v, 1 / math.sqrt(4))[0],
        {"q": draw(2, 3, 4, 4), "k": draw(2, 5, 2, 4), "v": draw(2, 5, 2, 4, seed=1)},
    ),
    "attention weights": (
        lambda **arrays: kernels.attention(**arrays, return_weights=True)[1],
        lambda q, k, v: reference.attention(q, k, v, 1 / math.sqrt(4))[2],
        {"q": draw(2, 3, 4, 4), "k": draw(2, 5, 2, 4), "v": draw(2, 5, 2, 4, seed=1)},
    ),
    "rope": (kernels.rope, reference.rope, {"x": draw(2, 3, 2, 4), **ROTATION}),
    "rope back": (
        functools.partial(kernels.rope, inverse=True),
        functools.partial(reference.rope, inverse=True),
        {"x": draw(2, 3, 2, 4), **ROTATION},
    ),
    "embedding": (
        functools.partial(kernels.embedding, TOKENS, start=1),
        lambda table, positions: table[TOKENS].astype(float) + positions[1:4],
        {"table": draw(4, 5), "positions": draw(6, 5)},
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_value(name):
    """Catches arguments passed to the kernel in the wrong order, and a result of the wrong shape."""
    call, formula, arrays = CALLS[name]
    got, want = call(**arrays), np.asarray(formula(**arrays))
    assert got.dtype == np.float32
    assert got.shape == want.shape
    # Values are of order 1 to 10, after about ten roundings.
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def strided(x):
    """A copy of x that is not contiguous along any axis."""
    room = np.full([2 * n for n in x.shape], np.nan, x.dtype)
    room[tuple(slice(None, None, 2) for _ in x.shape)] = x
    return room[tuple(slice(None, None, 2) for _ in x.shape)]


def flipped(x):
    """A copy of x with negative strides."""
    return np.flip(np.flip(x).copy())


@pytest.mark.parametrize("view", [strided, np.asfortranarray, flipped])
@pytest.mark.parametrize("name", CALLS)
def test_not_contiguous(name, view):
    """Catches ignored strides: the result must equal that of a contiguous copy, bit for bit."""
    call, _, arrays = CALLS[name]
    want = call(**arrays)
    for one in arrays:
        got = call(**arrays | {one: view(arrays[one])})
        np.testing.assert_array_equal(got, want, err_msg=one)


@pytest.mark.parametrize("name", CALLS)
def test_inputs_are_only_read(name):
    """Catches a kernel that writes into an input, or refuses a read-only one."""
    call, _, arrays = CALLS[name]
    copies = {key: value.copy() for key, value in arrays.items()}
    for value in copies.values():
        value.flags.writeable = False
    got = call(**copies)
    np.testing.assert_array_equal(got, call(**arrays))
    for key, value in copies.items():
        np.testing.assert_array_equal(value, arrays[key])
        assert not np.shares_memory(got, value)


@pytest.mark.parametrize("name", [name for name in CALLS if name != "cross_entropy"])
def test_only_float32_arrays(name):
    """Catches silent conversions, and errors that do not name the op and the argument."""
    call, _, arrays = CALLS[name]
    for one, x in arrays.items():
        wrong = {"float64": x.astype(np.float64), ">f4": x.astype(">f4"), "list": x.tolist(), "int": 3}
        wrong |= {} if one in ("bias", "residual", "positions") else {"NoneType": None}
        for got, value in wrong.items():
            want = "float32" if isinstance(value, np.ndarray) else "a NumPy array"
            text = f"TypeError: [{name.split()[0]}] '{one}' must be {want}, got {got}"
            assert message(lambda value=value, one=one: call(**arrays | {one: value})) == text


@pytest.mark.parametrize("name", [name for name in CALLS if name not in ("cross_entropy", "gelu")])
def test_inconsistent_shapes(name):
    """Catches arrays of inconsistent shapes that are read past their end, flattened or broadcast."""
    call, _, arrays = CALLS[name]
    for one, x in arrays.items():
        wrong = [np.ones((), np.float32)]
        # One column more is valid where no other argument has that axis.
        if (name, one) not in {("column_sum", "x"), ("softmax", "x"), ("matmul", "b")}:
            wrong.append(np.concatenate([x, x[..., :1]], axis=-1))
        for value in wrong:
            got = message(lambda value=value, one=one: call(**arrays | {one: value}))
            assert got.startswith(f"ValueError: [{name.split()[0]}] '"), (one, value.shape)
            assert "\n" not in got


def message(call):
    with pytest.raises((TypeError, ValueError, IndexError)) as error:
        call()
    return f"{error.type.__name__}: {error.value}"


A, B, X, ONE = draw(3, 5), draw(5, 4), draw(2, 3, 4), np.ones((), np.float32)
NO_TOKENS = np.zeros((1, 2), np.int32)
MESSAGES = [
    (lambda: kernels.matmul(A, A), "ValueError: [matmul] 'b' must have shape (K = 5, N), got (3, 5)"),
    (lambda: kernels.matmul(A, B, activation="relu"), "ValueError: [matmul] 'activation' must be one of"),
    (lambda: kernels.matmul(A, B, bias=draw(3)), "ValueError: [matmul] 'bias' must have shape (N = 4), got (3,)"),
    (lambda: kernels.softmax(ONE), "ValueError: [softmax] 'x' must have at least one axis, got a scalar"),
    (lambda: kernels.add([1.0], draw(1)), "TypeError: [add] 'a' must be a NumPy array, got list"),
    (lambda: kernels.add(A, B), "ValueError: [add] 'b' must have the shape of 'a' (3, 5), got (5, 4)"),
    (
        lambda: kernels.layernorm(X, draw(4), residual=draw(3, 2, 4)),
        "ValueError: [layernorm] 'residual' must have the shape of 'x' (2, 3, 4), got (3, 2, 4)",
    ),
    (lambda: kernels.dropout(X, 1.0, 0), "ValueError: [dropout] 'rate' must be at least 0 and less than 1"),
    (lambda: kernels.dropout(A, 0.5, 0), "ValueError: [dropout] 'x' must have 3 axes (B, T, C), got shape (3, 5)"),
    (
        lambda: kernels.cross_entropy(A, np.zeros(3)),
        "TypeError: [cross_entropy] 'targets' must be int32, got float64",
    ),
    (
        lambda: kernels.cross_entropy(A, np.array([0, 5, 0], np.int32)),
        "IndexError: [cross_entropy] 'targets' must be below 5, got 5",
    ),
    (
        lambda: kernels.embedding(NO_TOKENS, A[0]),
        "ValueError: [embedding] 'table' must have 2 axes (V, C), got shape (5,)",
    ),
    (lambda: kernels.embedding(NO_TOKENS.astype(int), B), "TypeError: [embedding] 'tokens' must be int32, got int64"),
    (lambda: kernels.embedding(NO_TOKENS + 5, B), "IndexError: [embedding] 'tokens' must be in 0..4, got 5..5"),
    (lambda: kernels.embedding(NO_TOKENS - 1, B), "IndexError: [embedding] 'tokens' must be in 0..4, got -1..-1"),
    (
        lambda: kernels.embedding(NO_TOKENS, B, B, start=4),
        "ValueError: [embedding] 'start' + T must be at most 5, got 4 + 2",
    ),
    (
        lambda: kernels.embedding(NO_TOKENS, B, B, start=-1),
        "ValueError: [embedding] 'start' + T must be at most 5, got -1 + 2",
    ),
    (
        lambda: kernels.attention(draw(1, 3, 4, 2), draw(1, 3, 3, 2), draw(1, 3, 3, 2)),
        "ValueError: [attention] 'k' must have a number of heads that divides 4, got 3",
    ),
    (
        lambda: kernels.attention(draw(1, 3, 4, 2), draw(1, 2, 4, 2), draw(1, 2, 4, 2)),
        "ValueError: [attention] 'k' must have at least the 3 positions of 'q', got 2",
    ),
    (
        lambda: kernels.attention(draw(1, 3, 4, 0), draw(1, 3, 4, 0), draw(1, 3, 4, 0)),
        "ValueError: [attention] 'q' must have a head width of at least 1, got 0",
    ),
    (lambda: kernels.rope(draw(1, 2, 1, 3), draw(2, 1), draw(2, 1)), "ValueError: [rope] 'x' must have 2*E"),
    (lambda: kernels.column_sum(A, accumulate=True), "ValueError: [column_sum] 'out' must be given"),
]


@pytest.mark.parametrize(("call", "text"), MESSAGES, ids=[text for _, text in MESSAGES])
def test_messages_name_the_cause(call, text):
    """Catches an error that does not name the one argument that caused it."""
    got = message(call)
    assert got.startswith(text)
    assert "\n" not in got


def test_out():
    """Catches a result not written to `out`, and sums that overwrite instead of accumulate."""
    a, b = draw(3, 5), draw(5, 4)
    out = np.full((3, 4), np.nan, np.float32)
    assert kernels.matmul(a, b, out=out) is out
    np.testing.assert_array_equal(out, kernels.matmul(a, b))
    kernels.matmul(a, b, out=out, accumulate=True)
    np.testing.assert_allclose(out, 2 * kernels.matmul(a, b), rtol=1e-6)
    total = np.full(5, np.nan, np.float32)
    assert kernels.column_sum(a, out=total) is total
    kernels.column_sum(a, out=total, accumulate=True)
    np.testing.assert_allclose(total, 2 * a.sum(0), atol=1e-5)


def test_outs_that_cannot_be_written():
    """Catches an `out` that is copied, so that the caller's array does not change, or that is also an input."""
    a, b = draw(4, 4), draw(4, 4, seed=1)
    frozen = np.empty((4, 4), np.float32)
    frozen.flags.writeable = False
    cases = [
        ({"out": np.empty((4, 4))}, "TypeError: [matmul] 'out' must be float32, got float64"),
        (
            {"out": np.empty((4, 5), np.float32)},
            "ValueError: [matmul] 'out' must have shape (M = 4, N = 4), got (4, 5)",
        ),
        (
            {"out": np.empty((4, 8), np.float32)[:, ::2]},
            "ValueError: [matmul] 'out' must be C-contiguous and writable, got strides (32, 8) for shape (4, 4)",
        ),
        (
            {"out": frozen},
            "ValueError: [matmul] 'out' must be C-contiguous and writable, got a read-only array",
        ),
        ({"out": a}, "ValueError: [matmul] 'out' must not share memory with 'a'"),
        ({"out": b[:]}, "ValueError: [matmul] 'out' must not share memory with 'b'"),
        (
            {"out": (held := draw(4, 4)), "residual": held},
            "ValueError: [matmul] 'out' must not share memory with 're",
        ),
        ({"accumulate": True}, "ValueError: [matmul] 'out' must be given with accumulate=True"),
        (
            {"out": np.empty((4, 4), np.float32), "accumulate": True, "bias": draw(4)},
            "ValueError: [matmul] 'accumulate' must be False with bias, residual or activation",
        ),
    ]
    for options, text in cases:
        assert message(lambda options=options: kernels.matmul(a, b, **options)).startswith(text)
    assert "must not share memory with 'x'" in message(lambda: kernels.column_sum(a, out=a[0]))


def test_views_of_heads_are_not_copied(monkeypatch):
    """Catches a copy of the whole KV cache for every generated token."""
    cache, seen = draw(2, 9, 3, 8), []
    attention = edge.registry.active.attention
    monkeypatch.setattr(edge.registry.active, "attention", lambda q, k, v, *r: (seen.append(k), attention(q, k, v, *r)))
    kernels.attention(draw(2, 2, 3, 4), cache[:, :5, :, :4], cache[:, :5, :, 4:])
    assert np.shares_memory(seen[0], cache)


@pytest.mark.parametrize("name", ["softmax", "gelu", "swiglu", "layernorm", "rmsnorm", "column_sum", "matmul", "add"])
def test_empty_arrays(name):
    """Catches a crash on zero rows, and a sum over no rows that is not set to zero."""
    call, _, arrays = CALLS[name]
    rows = {"a", "x", "residual"} | ({"b"} if name == "add" else set())
    empty = {key: value[:0] if key in rows else value for key, value in arrays.items()}
    out = call(**empty)
    if name == "column_sum":
        np.testing.assert_array_equal(out, np.zeros(5))
    else:
        assert out.size == 0
        assert out.shape[0] == 0


def test_dropout_of_numbers_out_of_range():
    """Catches a negative number that fails in a conversion to unsigned, and a refused NumPy integer."""
    x = draw(1, 2, 3)
    text = "ValueError: [dropout] 'site' must be 0 or more, got -1"
    assert message(lambda: kernels.dropout(x, 0.5, 0, site=-1)) == text
    text = "ValueError: [dropout] 'sequence' must be 0 or more, got -2"
    assert message(lambda: kernels.dropout(x, 0.5, 0, sequence=-2)) == text
    np.testing.assert_array_equal(kernels.dropout(x, 0.5, np.int64(5)), kernels.dropout(x, 0.5, 5))
