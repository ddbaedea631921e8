"""The tape: recorded operations, the order of gradients, and freed memory."""

import gc
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest

from tinygpt import nn, ops
from tinygpt.tensor import Tensor, is_recording, no_grad


def values(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def leaf(*shape, seed=0):
    return Tensor(values(*shape, seed=seed), requires_grad=True)


CHAIN = """
import numpy as np
from tinygpt.tensor import Tensor

x = Tensor(np.ones(3, np.float32), requires_grad=True)
one = Tensor(np.zeros(3, np.float32))
y = x
for _ in range(20_000):
    y = y + one
{then}
"""


@pytest.mark.parametrize(
    "then", ["y.backward(np.full(3, 2)); assert (x.grad == 2).all()", "del y"], ids=["backward", "dropped"]
)
def test_chain_of_20000(then):
    """Catches a recursive walk, a crash when a long graph is freed, and a lost gradient."""
    done = subprocess.run([sys.executable, "-c", CHAIN.format(then=then)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_path_of_a_diamond_counts_once():
    """Catches a node that runs before all its gradients have arrived, runs twice, or ignores a parent."""
    x = leaf(4)
    left = x + x  # 2 x
    right = left + x  # 3 x
    top = left + right  # 5 x
    (top + left).backward(np.array([1, 10, 100, 1000], np.float32))  # 7 x
    np.testing.assert_array_equal(x.grad, [7, 70, 700, 7000])


def test_order_follows_creation_not_use():
    """Catches a walk in order of discovery, which runs `early` before the gradient from `late` has arrived."""
    x = leaf(5)
    early = ops.gelu(x)
    late = ops.gelu(early)
    (late + early).backward(np.ones(5))
    copy = Tensor(x.data, requires_grad=True)
    (ops.gelu(ops.gelu(copy)) + ops.gelu(copy)).backward(np.ones(5))
    np.testing.assert_allclose(x.grad, copy.grad, rtol=1e-6)


def test_shared_gradient_is_not_added_to():
    """Catches an in-place sum into an array that both parents of `x + f(x)` received."""
    x, y = leaf(6), leaf(6, seed=1)
    (x + y).backward(np.ones(6))
    assert x.grad is y.grad  # kept by reference
    x.receive(np.ones(6, np.float32))
    np.testing.assert_array_equal(x.grad, np.full(6, 2))
    np.testing.assert_array_equal(y.grad, np.ones(6))


def test_a_third_gradient_is_added_in_place():
    """Catches a new array for every gradient, and a second gradient lost when the third arrives."""
    x = leaf(6)
    x.receive(np.full(6, 1, np.float32))
    x.receive(np.full(6, 2, np.float32))
    held = x.grad
    x.receive(np.full(6, 4, np.float32))
    assert x.grad is held
    np.testing.assert_array_equal(held, np.full(6, 7))


def test_matmul_does_not_accumulate_into_a_shared_gradient():
    """Catches grad_buffer returning, for accumulation, an array shared with another tensor."""
    weight, other = leaf(3, 3), leaf(3, 3, seed=1)
    x = Tensor(values(2, 3, seed=2))
    y = ops.linear(x, weight)  # made first, so its gradient comes second
    z = weight + other
    ops.linear(ops.linear(y, Tensor(np.eye(3))), z).backward(np.ones((2, 3)))
    alone = Tensor(other.data, requires_grad=True)
    total = Tensor(weight.data) + alone
    ops.linear(ops.linear(x, Tensor(weight.data)), total).backward(np.ones((2, 3)))
    np.testing.assert_allclose(other.grad, alone.grad, rtol=1e-6)


def test_seed_is_copied():
    """Catches a seed kept by reference, so that the caller's array would change, or change the gradient."""
    seed = np.ones(3, np.float32)
    x = leaf(3)
    (x + Tensor(np.zeros(3))).backward(seed)
    seed[:] = 9
    np.testing.assert_array_equal(x.grad, np.ones(3))


def test_gradients_of_two_backward_passes_accumulate():
    """Catches a leaf whose gradient is overwritten by the next graph."""
    x = leaf(3)
    (x + x).backward(np.ones(3))
    (x + x).backward(np.full(3, 10))
    np.testing.assert_array_equal(x.grad, [22, 22, 22])


def test_activations_are_freed_during_backward():
    """Catches references that keep activations. Garbage collection is off, so only reference counts free them."""
    x, weight = leaf(2, 3), leaf(4, 3, seed=1)
    gc.disable()
    try:
        middle = ops.linear(x, weight, activation="gelu")
        top = ops.softmax(middle)
        alive = [weakref.ref(middle), weakref.ref(middle.data), weakref.ref(top.data)]
        del middle
        assert all(ref() is not None for ref in alive)
        top.backward(np.ones((2, 4)))
        assert [ref() is None for ref in alive] == [True, True, False]  # the caller still holds the top
        del top
        assert alive[2]() is None
    finally:
        gc.enable()


def test_backward_frees_while_it_walks():
    """Catches a graph freed only at the end, which would keep all activations and gradients at once."""
    x = leaf(3)
    lower = x + x
    seen = []

    def backward(dy):
        seen.append(upper() is None)
        lower.receive(dy)

    node = Tensor.from_op(lower.data.copy(), (lower,), backward)
    top = ops.gelu(ops.gelu(node))
    upper = weakref.ref(top._parents[0])
    top.backward(np.ones(3))
    assert seen == [True]


def test_second_backward_is_an_error():
    """Catches a second walk that silently gives zero, or half of the gradient."""
    x = leaf(3)
    y = x + x
    y.backward(np.ones(3))
    with pytest.raises(RuntimeError, match=r"^\[backward\] the graph was already freed by an earlier backward"):
        y.backward(np.ones(3))
    np.testing.assert_array_equal(x.grad, [2, 2, 2])


def test_a_partly_freed_graph_changes_no_gradient():
    """Catches gradients accumulated before the walk finds that part of the graph was freed."""
    x, weight = leaf(2, 3), leaf(3, 3, seed=1)
    shared = ops.gelu(x)
    one, two = ops.gelu(shared), ops.linear(shared, weight)
    one.backward(np.ones((2, 3)))
    before = x.grad.copy()
    with pytest.raises(RuntimeError, match="freed"):
        two.backward(np.ones((2, 3)))
    np.testing.assert_array_equal(x.grad, before)
    assert weight.grad is None


def test_no_grad_records_nothing():
    """Catches recording under no_grad, and recording that stays off after the block or an exception."""
    x = leaf(3)
    with no_grad():
        assert not is_recording()
        inside = x + x
        with no_grad():
            pass
        assert not is_recording()
    assert is_recording()
    assert not inside.requires_grad
    with pytest.raises(RuntimeError, match="no tensor of this graph has requires_grad"):
        inside.backward(np.ones(3))
    with pytest.raises(KeyError), no_grad():
        raise KeyError
    assert (x + x).requires_grad


def test_no_grad_keeps_no_activation():
    """Catches closures that are built and kept although nothing is recorded."""
    x = leaf(3)
    with no_grad():
        middle = ops.gelu(x)
        held = weakref.ref(middle.data)
        top = ops.gelu(middle)
        del middle
    assert held() is None
    assert top.data.shape == (3,)


def test_constants_get_no_gradient():
    """Catches gradients computed for tensors that do not require them."""
    x, constant = leaf(3), Tensor(values(3))
    (x + constant).backward(np.ones(3))
    assert constant.grad is None
    assert not (constant + constant).requires_grad


def test_gradient_of_a_scalar_is_one():
    """Catches a default seed other than 1, or of the wrong shape, for a tensor with one element."""
    logits = leaf(1, 5)
    loss = ops.cross_entropy(logits, np.array([2]))
    assert loss.shape == ()
    loss.backward()
    twice = Tensor(logits.data, requires_grad=True)
    ops.cross_entropy(twice, np.array([2])).backward(2.0)
    np.testing.assert_allclose(twice.grad, 2 * logits.grad, rtol=1e-6)
    assert loss.item() == float(loss.data)


def test_invalid_seeds():
    """Catches a seed that is silently broadcast or truncated to another shape."""
    y = leaf(2, 3) + leaf(2, 3)
    with pytest.raises(ValueError, match=r"\[backward\] 'grad' must be given for a tensor of shape \(2, 3\)"):
        y.backward()
    with pytest.raises(ValueError, match=r"\[backward\] 'grad' must have shape \(2, 3\), got \(3,\)"):
        y.backward(np.ones(3))
    y.backward(0.5)  # a number applies to all elements


@pytest.mark.parametrize("data", [3, [1, 2], np.arange(3), np.array([True]), np.array(["a"]), np.array([1j])], ids=str)
def test_only_floating_point(data):
    """Catches token ids or complex numbers converted to float32 by accident."""
    with pytest.raises(TypeError, match=r"^\[Tensor\] 'data' must be floating-point, got \S+$"):
        Tensor(data)


@pytest.mark.parametrize("dtype", ["f2", "f8", ">f4", "f4"])
def test_other_floats_become_float32(dtype):
    """Catches data of another format, byte order or memory layout that reaches a kernel."""
    x = Tensor(np.asfortranarray(np.array([[1, 2], [3, 4]], dtype)))
    assert x.data.dtype == np.float32
    assert x.data.dtype.isnative
    assert x.data.flags.c_contiguous
    np.testing.assert_array_equal(x.data, [[1, 2], [3, 4]])


def test_only_tensors_can_be_added():
    """Catches a number or an array added to a tensor, and a broadcast without a gradient."""
    x = leaf(2, 3)
    with pytest.raises(TypeError, match="unsupported operand"):
        x + 1.0
    with pytest.raises(TypeError, match="unsupported operand"):
        x + x.data
    with pytest.raises(ValueError, match=r"\[add\] 'b' must have the shape of 'a' \(2, 3\), got \(3,\)"):
        x + leaf(3)


def test_no_grad_holds_for_its_thread():
    """Catches a flag shared by all threads: overlapping blocks of two threads would leave recording off."""
    inside, leave, seen = threading.Event(), threading.Event(), []

    def other():
        with no_grad():
            inside.set()
            leave.wait(30)
            seen.append(is_recording())
        seen.append(is_recording())

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(30)
    assert is_recording()
    with no_grad():
        leave.set()
        thread.join(30)
        assert not is_recording()
    assert is_recording()
    assert seen == [False, True]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_error_in_backward_leaves_no_gradient(error):
    """Catches a partial gradient that looks complete, which the next step would use or add to."""
    linear = nn.Linear(3, 3).initialise()
    x, other = leaf(2, 3), leaf(2, 3)
    (x + other).backward(np.ones((2, 3)))  # an earlier gradient, which would be added to
    shared = ops.linear(x, linear.weight)

    def fail(dy):
        raise error

    wrong = Tensor.from_op(shared.data, (shared,), fail)
    after = ops.linear(wrong + shared, linear.weight, linear.bias)
    with pytest.raises(error):
        after.backward(np.ones((2, 3)))
    assert linear.weight.grad is None
    assert linear.bias.grad is None
    assert x.grad is None
    assert shared.grad is None
    np.testing.assert_array_equal(other.grad, np.ones((2, 3)))  # not a part of this graph
    with pytest.raises(RuntimeError, match="freed by an earlier backward"):
        after.backward(np.ones((2, 3)))
    assert x.grad is None
    ops.linear(x, linear.weight, linear.bias).backward(np.ones((2, 3)))
    np.testing.assert_array_equal(linear.bias.grad, [2, 2, 2])


def test_leaves_are_complete_once_and_in_time():
    """Catches a leaf that is reported early, twice or never: its gradient would be sent to other ranks as it was."""
    a, b, c = (leaf(3, seed=seed) for seed in range(3))
    y = a + b
    z = y + b + b  # two uses in different nodes, and one node with the leaf twice below
    z = (z + c) + Tensor(values(3))
    w = z + (c + c)
    found = []
    w.backward(np.ones(3), lambda one: found.append((one, one.grad.copy())))
    assert [one for one, _ in found] == [c, b, a] or [one for one, _ in found] == [c, a, b]
    for one, grad in found:
        np.testing.assert_array_equal(grad, one.grad)
    assert [float(one.grad[0]) for one in (a, b, c)] == [1, 3, 3]
