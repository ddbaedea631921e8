"""The tape: what is recorded, in which order gradients arrive, and what is freed."""

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
    """Catches a recursive walk, a crash when a long graph is freed, and a gradient lost on the way."""
    done = subprocess.run([sys.executable, "-c", CHAIN.format(then=then)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_path_of_a_diamond_arrives_once():
    """Catches a node that runs before all its gradients are there, runs twice, or forgets one of two parents."""
    x = leaf(4)
    left = x + x  # 2 x
    right = left + x  # 3 x
    top = left + right  # 5 x
    (top + left).backward(np.array([1, 10, 100, 1000], np.float32))  # 7 x
    np.testing.assert_array_equal(x.grad, [7, 70, 700, 7000])


def test_order_follows_creation_not_use():
    """Catches a walk in the order of discovery, which runs `early` before the gradient from `late` has reached it."""
    x = leaf(5)
    early = ops.gelu(x)
    late = ops.gelu(early)
    (late + early).backward(np.ones(5))
    copy = Tensor(x.data, requires_grad=True)
    (ops.gelu(ops.gelu(copy)) + ops.gelu(copy)).backward(np.ones(5))
    np.testing.assert_allclose(x.grad, copy.grad, rtol=1e-6)


def test_shared_gradient_is_not_added_to():
    """Catches an in-place sum into an array that both parents of `x + f(x)` were given."""
    x, y = leaf(6), leaf(6, seed=1)
    (x + y).backward(np.ones(6))
    assert x.grad is y.grad  # kept by reference
    x.receive(np.ones(6, np.float32))
    np.testing.assert_array_equal(x.grad, np.full(6, 2))
    np.testing.assert_array_equal(y.grad, np.ones(6))


def test_third_arrival_adds_where_it_is():
    """Catches a new array for every arrival, and one that loses the second when the third comes."""
    x = leaf(6)
    x.receive(np.full(6, 1, np.float32))
    x.receive(np.full(6, 2, np.float32))
    held = x.grad
    x.receive(np.full(6, 4, np.float32))
    assert x.grad is held
    np.testing.assert_array_equal(held, np.full(6, 7))


def test_product_does_not_add_into_a_shared_gradient():
    """Catches grad_buffer handing out, for adding, an array that belongs to another tensor as well."""
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
    """Catches a seed kept by reference: the caller's array would change, or change the gradient."""
    seed = np.ones(3, np.float32)
    x = leaf(3)
    (x + Tensor(np.zeros(3))).backward(seed)
    seed[:] = 9
    np.testing.assert_array_equal(x.grad, np.ones(3))


def test_gradients_of_two_backwards_add_up():
    """Catches a leaf whose gradient is overwritten by the next graph."""
    x = leaf(3)
    (x + x).backward(np.ones(3))
    (x + x).backward(np.full(3, 10))
    np.testing.assert_array_equal(x.grad, [22, 22, 22])


def test_activations_die_during_backward():
    """Catches a cycle or a reference that keeps activations: garbage collection is off, only counts may free them."""
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
    """Catches a walk that frees the graph only when it is over: memory would peak at all activations and gradients."""
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


def test_half_freed_graph_touches_nothing():
    """Catches gradients that are added before the walk notices that a part of the graph is gone."""
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
    """Catches a tape that goes on recording, or that stays off after the block, also after an exception."""
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
    """Catches closures that are built and kept while nothing is recorded."""
    x = leaf(3)
    with no_grad():
        middle = ops.gelu(x)
        held = weakref.ref(middle.data)
        top = ops.gelu(middle)
        del middle
    assert held() is None
    assert top.data.shape == (3,)


def test_constants_get_no_gradient():
    """Catches work for, and gradients on, tensors that want none."""
    x, constant = leaf(3), Tensor(values(3))
    (x + constant).backward(np.ones(3))
    assert constant.grad is None
    assert not (constant + constant).requires_grad


def test_gradient_of_a_scalar_is_one():
    """Catches a seed other than 1, and one of the wrong shape, for a tensor with one element."""
    logits = leaf(1, 5)
    loss = ops.cross_entropy(logits, np.array([2]))
    assert loss.shape == ()
    loss.backward()
    twice = Tensor(logits.data, requires_grad=True)
    ops.cross_entropy(twice, np.array([2])).backward(2.0)
    np.testing.assert_allclose(twice.grad, 2 * logits.grad, rtol=1e-6)
    assert loss.item() == float(loss.data)


def test_seeds_that_do_not_fit():
    """Catches a seed that is broadcast to, or cut to, another shape without a word."""
    y = leaf(2, 3) + leaf(2, 3)
    with pytest.raises(ValueError, match=r"\[backward\] 'grad' must be given for a tensor of shape \(2, 3\)"):
        y.backward()
    with pytest.raises(ValueError, match=r"\[backward\] 'grad' must have shape \(2, 3\), got \(3,\)"):
        y.backward(np.ones(3))
    y.backward(0.5)  # a number stands for all elements


@pytest.mark.parametrize("data", [3, [1, 2], np.arange(3), np.array([True]), np.array(["a"]), np.array([1j])], ids=str)
def test_only_floating_point(data):
    """Catches token ids or complex numbers that become float32 by accident."""
    with pytest.raises(TypeError, match=r"^\[Tensor\] 'data' must be floating-point, got \S+$"):
        Tensor(data)


@pytest.mark.parametrize("dtype", ["f2", "f8", ">f4", "f4"])
def test_other_floats_become_float32(dtype):
    """Catches data that reaches a kernel in another format or byte order, or not C-contiguous."""
    x = Tensor(np.asfortranarray(np.array([[1, 2], [3, 4]], dtype)))
    assert x.data.dtype == np.float32
    assert x.data.dtype.isnative
    assert x.data.flags.c_contiguous
    np.testing.assert_array_equal(x.data, [[1, 2], [3, 4]])


def test_sum_with_something_else():
    """Catches a number or an array that slips into the tape, and a broadcast that no gradient undoes."""
    x = leaf(2, 3)
    with pytest.raises(TypeError, match="unsupported operand"):
        x + 1.0
    with pytest.raises(TypeError, match="unsupported operand"):
        x + x.data
    with pytest.raises(ValueError, match=r"\[add\] 'b' must have the shape of 'a' \(2, 3\), got \(3,\)"):
        x + leaf(3)


def test_no_grad_holds_for_its_thread():
    """Catches a flag of the process: overlapping blocks of two threads would leave recording off."""
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
def test_an_error_on_the_way_leaves_no_gradient(error):
    """Catches a half-written gradient that looks whole: the next step would use it, or add to it."""
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
