"""Arguments that ops refuse in one line, because kernels do not check theirs."""

import numpy as np
import pytest

from tinygpt import ops
from tinygpt.kernels import registry, threads
from tinygpt.ops.attention import rotation_tables
from tinygpt.ops.elementwise import DropoutKey
from tinygpt.tensor import Tensor

KEY = DropoutKey(0, 0)


def zeros(*shape):
    return Tensor(np.zeros(shape))


CASES = {
    "[linear] 'weight' must have shape (any, 3), got (4, 5)": lambda: ops.linear(zeros(2, 3), zeros(4, 5)),
    "[linear] 'bias' must have shape (4), got (3,)": lambda: ops.linear(zeros(2, 3), zeros(4, 3), zeros(3)),
    "[linear] 'residual' must have shape (2, 4), got (2, 3)": lambda: ops.linear(
        zeros(2, 3), zeros(4, 3), residual=zeros(2, 3)
    ),
    "[linear] 'x' must have at least one axis, got a scalar": lambda: ops.linear(zeros(), zeros(4, 3)),
    "[linear] 'activation' must be one of none, gelu, got 'relu'": lambda: ops.linear(
        zeros(2, 3), zeros(4, 3), activation="relu"
    ),
    "[layernorm] 'weight' must have shape (3), got (4,)": lambda: ops.layernorm(zeros(2, 3), zeros(4)),
    "[layernorm] 'bias' must have shape (3), got (4,)": lambda: ops.layernorm(zeros(2, 3), zeros(3), zeros(4)),
    "[rmsnorm] 'weight' must have shape (3), got (3, 1)": lambda: ops.rmsnorm(zeros(2, 3), zeros(3, 1)),
    "[swiglu] 'x' must have an even width, got 5": lambda: ops.swiglu(zeros(2, 5)),
    "[softmax] 'x' must have at least one axis, got a scalar": lambda: ops.softmax(zeros()),
    "[add] 'b' must have the shape of 'a' (2, 3), got (3,)": lambda: ops.add(zeros(2, 3), zeros(3)),
    "[dropout] 'x' must have shape (any, any, any), got (2, 3)": lambda: ops.dropout(zeros(2, 3), 0.1, KEY, 0),
    "[dropout] 'residual' must have shape (1, 2, 3), got (2, 1, 3)": lambda: ops.dropout(
        zeros(1, 2, 3), 0.1, KEY, 0, residual=zeros(2, 1, 3)
    ),
    "[dropout] 'rate' must be at least 0 and less than 1, got 1": lambda: ops.dropout(zeros(1, 1, 1), 1, KEY, 0),
    "[dropout] 'rate' must be at least 0 and less than 1, got -0.1": lambda: ops.dropout(zeros(1, 1, 1), -0.1, KEY, 0),
    "[embedding] 'tokens' must have shape (B, T), got (3,)": lambda: ops.embedding(np.zeros(3, int), zeros(6, 4)),
    "[embedding] 'positions' must have shape (any, 4), got (5, 3)": lambda: ops.embedding(
        np.zeros((1, 2), np.int32), zeros(6, 4), zeros(5, 3)
    ),
    "[embedding] 'start' + T must be at most 5, got 4 + 2": lambda: ops.embedding(
        np.zeros((1, 2), np.int32), zeros(6, 4), zeros(5, 4), start=4
    ),
    "[embedding] 'start' + T must be at most 5, got -1 + 2": lambda: ops.embedding(
        np.zeros((1, 2), np.int32), zeros(6, 4), zeros(5, 4), start=-1
    ),
    "[attention] 'qkv' must have shape (any, any, any), got (3, 12)": lambda: ops.attention(zeros(3, 12), 1, 1),
    "[attention] 'qkv' must have a width of (3 + 2 x 2) heads, H divisible by G, got 12": lambda: ops.attention(
        zeros(1, 3, 12), 3, 2
    ),
    "[attention] 'qkv' must have a width of (2 + 2 x 1) heads, H divisible by G, got 13": lambda: ops.attention(
        zeros(1, 3, 13), 2, 1
    ),
    "[attention] 'weights' must have shape (1, 1, 3, 3), got (1, 1, 3, 2)": lambda: ops.attention(
        zeros(1, 3, 12), 1, 1, weights=np.empty((1, 1, 3, 2), np.float32)
    ),
    "[attention] 'rotation' must have shape (3, 2), got (2, 2)": lambda: ops.attention(
        zeros(1, 3, 12), 1, 1, rotation_tables(2, 4, 10.0)
    ),
    "[attention] 'qkv' must have heads of even width with a rotation, got 3": lambda: ops.attention(
        zeros(1, 3, 9), 1, 1, rotation_tables(3, 2, 10.0)
    ),
    "[cross_entropy] 'targets' must have 2 elements, got shape (3,)": lambda: ops.cross_entropy(
        zeros(2, 5), np.zeros(3, int)
    ),
    "[head_loss] 'weight' must have shape (any, 3), got (5, 4)": lambda: ops.head_loss(
        zeros(2, 3), zeros(5, 4), np.zeros(2, int)
    ),
}


@pytest.mark.parametrize("message", CASES)
def test_shapes_and_ranges(message):
    """Catches inconsistent arguments that reach a kernel, which would access memory outside its arrays."""
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message is compared
        CASES[message]()
    assert str(error.value) == message


def test_targets_of_another_type():
    """Catches floats truncated to class numbers."""
    with pytest.raises(TypeError, match=r"^\[cross_entropy\] 'targets' must be integers, got float64$"):
        ops.cross_entropy(zeros(2, 5), np.zeros(2))


@pytest.mark.parametrize("target", [5, 2**32 + 1, 2**40])
def test_targets_past_the_classes(target):
    """Catches a class that does not exist, also one that wraps around to a valid class in 32 bits."""
    with pytest.raises(IndexError, match=rf"^\[head_loss\] 'targets' must be below 5, got {target}$"):
        ops.head_loss(zeros(2, 3), zeros(5, 3), np.array([target, 0]))


def test_tokens_of_any_integer_type():
    """Catches int64, NumPy's default, failing in the kernel, forward or backward."""
    table = Tensor(np.arange(15.0).reshape(5, 3), requires_grad=True)
    tokens = np.array([[4, 0], [4, 2]])
    for given in (tokens, tokens.astype(np.uint8), np.asfortranarray(tokens), tokens.tolist()):
        out = ops.embedding(given, table)
        np.testing.assert_array_equal(out.data, table.data[tokens])
        table.zero_grad()
        out.backward(np.ones(out.shape))
        np.testing.assert_array_equal(table.grad[:, 0], [1, 0, 1, 0, 2])
    with pytest.raises(IndexError, match=r"^\[embedding\] 'tokens' must be in 0..4, got 0..4294967296$"):
        ops.embedding(np.array([[2**32, 0]]), table)
    with pytest.raises(TypeError, match=r"^\[embedding\] 'tokens' must be integers, got float64$"):
        ops.embedding(np.zeros((1, 2)), table)


def test_targets_in_a_list():
    """Catches a list that fails at an array attribute."""
    logits, x, weight = zeros(2, 5), zeros(2, 3), zeros(5, 3)
    assert ops.cross_entropy(logits, [1, 4]).item() == ops.cross_entropy(logits, np.array([1, 4])).item()
    assert ops.head_loss(x, weight, [1, 4]).item() == ops.head_loss(x, weight, np.array([1, 4])).item()


@pytest.mark.parametrize("name", ["cross_entropy", "dropout"])
def test_backward_chooses_threads_again(monkeypatch, name):
    """Catches a number of threads kept from the forward pass: a fork in between would hang."""
    before, seen = threads.get_num_threads(), []
    x = Tensor(np.zeros((1, 40, 1000)), requires_grad=True)
    op = {"cross_entropy": "cross_entropy_backward"}.get(name, name)
    kernel = getattr(registry.active, op)
    try:
        threads.set_num_threads(2)
        out = ops.dropout(x, 0.5, KEY, 0) if name == "dropout" else ops.cross_entropy(x, [1] * 40)
        threads.set_num_threads(1)
        monkeypatch.setattr(registry.active, op, lambda *args: (seen.append(args[-1]), kernel(*args)))
        out.backward(np.ones(out.shape))
    finally:
        threads.set_num_threads(before)
    assert seen == [1]
