"""The arena of parameters and gradients: its layout, stale gradients, copies, and initial weights."""

import copy
import dataclasses
import itertools
import math
import pickle

import numpy as np
import pytest

from tinygpt import GPT, GPTConfig, nn, ops, optim
from tinygpt.tensor import Tensor

ODD = GPTConfig(vocab_size=37, block_size=5, n_layer=3, n_head=3, n_embd=15, n_kv_head=1, ffn_dim=7)
LINE = 64  # bytes in a cache line


def address(array):
    return array.__array_interface__["data"][0]


def place(parameter):
    return parameter.start, parameter.start + math.prod(parameter.shape)


def test_every_parameter_has_lines_of_its_own():
    """Catches parameters or gradients that overlap, share a cache line, or are not views of the arena."""
    model = GPT(ODD)
    parameters = sorted(model.parameters(), key=lambda p: p.start)
    arena = parameters[0].arena
    for parameter in parameters:
        parameter.zero_grad()
        slot, add = parameter.grad_buffer()
        start, _ = place(parameter)
        assert add is False
        assert parameter.arena is arena
        assert parameter.data.shape == slot.shape == parameter.shape
        for view, whole in ((parameter.data, arena.data), (slot, arena.grad)):
            assert address(view) % LINE == 0
            assert address(view) == address(whole) + 4 * start
            assert view.dtype == np.float32
            assert view.flags.c_contiguous
            assert np.shares_memory(view, whole)
    for before, after in itertools.pairwise(parameters):
        assert place(before)[1] <= after.start
        assert before.start // nn.ALIGN < after.start // nn.ALIGN
    assert place(parameters[-1])[1] <= len(arena.data)


def test_decayed_parameters_come_first():
    """Catches a mixed order, with which weight decay would not be one range of the arena."""
    model = GPT(ODD)
    decays = [p.decay for p in sorted(model.parameters(), key=lambda p: p.start)]
    assert decays == sorted(decays, reverse=True)
    assert {name for name, p in model.named_parameters() if not p.decay} == {
        name for name, p in model.named_parameters() if len(p.shape) == 1
    }
    assert {True, False} == set(decays)


def test_gaps_stay_zero():
    """Catches writes between parameters: optimizers update neighbours and the gap between them as one array."""
    model = GPT(ODD, seed=1)
    model.loss(np.ones((2, 4), int), np.ones((2, 4), int)).backward()
    arena = model.parameters()[0].arena
    gap = np.ones(len(arena.data), bool)
    for parameter in model.parameters():
        gap[slice(*place(parameter))] = False
    assert gap.any()
    assert not arena.data[gap].any()
    assert not arena.grad[gap].any()


def test_assigning_data_copies_in():
    """Catches an assignment that replaces the view, so that the optimizer would keep the old values."""
    linear = nn.Linear(3, 2).initialise()
    view, value = linear.weight.data, np.arange(6.0).reshape(2, 3)
    linear.weight.data = value
    assert linear.weight.data is view
    np.testing.assert_array_equal(linear.weight.arena.data[slice(*place(linear.weight))], np.arange(6))
    value[:] = 9
    assert view[0, 0] == 0
    for wrong in (np.zeros((3, 2)), np.zeros(6), 1.0):
        with pytest.raises(ValueError, match=r"^\[Parameter\] 'data' must have shape \(2, 3\), got"):
            linear.weight.data = wrong


def test_stale_gradients():
    """Catches a stale gradient that is visible or accumulated, and a fresh one that is overwritten."""
    linear = nn.Linear(3, 2).initialise()
    x = Tensor(np.ones((1, 3)))
    assert linear.weight.grad is None
    linear(x).backward(np.ones((1, 2)))
    slot = linear.weight.grad
    np.testing.assert_array_equal(slot, np.ones((2, 3)))
    linear(x).backward(np.ones((1, 2)))
    np.testing.assert_array_equal(slot, np.full((2, 3), 2))
    linear.zero_grad()
    assert linear.weight.grad is None
    assert linear.bias.grad is None
    np.testing.assert_array_equal(slot, np.full((2, 3), 2))  # zero_grad() writes nothing
    linear(x).backward(np.ones((1, 2)))
    np.testing.assert_array_equal(linear.weight.grad, np.ones((2, 3)))
    np.testing.assert_array_equal(linear.bias.grad, np.ones(2))


def test_receive():
    """Catches a parameter that keeps a reference to the caller's array instead of copying it."""
    bias = nn.Linear(3, 2).initialise().bias
    given = np.array([1, 2], np.float32)
    bias.receive(given)
    bias.receive(given)
    np.testing.assert_array_equal(bias.grad, [2, 4])
    np.testing.assert_array_equal(given, [1, 2])
    bias.requires_grad = False
    bias.receive(given)
    np.testing.assert_array_equal(bias.grad, [2, 4])


def test_frozen_parameter_gets_nothing():
    """Catches a gradient computed for a frozen parameter, or its buffer marked as fresh."""
    model = GPT(ODD)
    frozen = model.wte.weight, model.blocks[0].norm1.weight, model.blocks[1].mlp.up.bias
    for parameter in frozen:
        parameter.requires_grad = False
    model.loss(np.ones((2, 4), int), np.ones((2, 4), int)).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (parameter in frozen), name


def test_tied_weight_is_one_tensor():
    """Catches a head with its own weights, a tied weight counted twice, and the gradient of one use only."""
    tied, untied = GPT(ODD, seed=3), GPT(GPTConfig(**{**vars(ODD), "tie_embeddings": False}), seed=3)
    assert tied.head.weight is tied.wte.weight
    assert untied.head.weight is not untied.wte.weight
    assert untied.num_parameters() == tied.num_parameters() + 37 * 15
    values = dict(tied.named_parameters())
    for name, parameter in untied.named_parameters():
        parameter.data = values.get(name, tied.wte.weight).data
    tokens = np.array([[1, 2, 2, 36], [0, 5, 1, 1]])
    for model in (tied, untied):
        model.loss(tokens, np.roll(tokens, 1, 1)).backward()
    both = untied.wte.weight.grad.astype(float) + untied.head.weight.grad
    assert abs(untied.wte.weight.grad).max() > 1e-4
    assert abs(untied.head.weight.grad).max() > 1e-4
    np.testing.assert_allclose(tied.wte.weight.grad, both, atol=1e-6 * abs(both).max())


def test_names():
    """Catches changed parameter names, which checkpoints and converters depend on."""
    names = [name for name, _ in GPT(ODD).named_parameters()]
    assert names[:2] == ["wte.weight", "wpe.weight"]
    assert names[-2:] == ["norm.weight", "norm.bias"]
    block = [name.removeprefix("blocks.1.") for name in names if name.startswith("blocks.1.")]
    parts = ["norm1", "attn.qkv", "attn.out", "norm2", "mlp.up", "mlp.down"]
    assert block == [f"{part}.{kind}" for part in parts for kind in ("weight", "bias")]
    assert len(set(names)) == len(names) == 2 + 3 * 12 + 2


def test_initial_statistics():
    """Catches a wrong scale, residual projections that are not scaled down, and random biases or norms."""
    config = GPTConfig(vocab_size=211, block_size=64, n_layer=4, n_head=2, n_embd=64)
    for name, parameter in GPT(config, seed=5).named_parameters():
        values = parameter.data.astype(float)
        if len(parameter.shape) == 1:
            assert (values == float("norm" in name and name.endswith("weight"))).all(), name
            continue
        std = 0.02 / math.sqrt(2 * 4) if name.endswith(("out.weight", "down.weight")) else 0.02
        # Allow 5 standard errors, which are std / sqrt(n) for the mean and std / sqrt(2 n) for the standard deviation.
        assert abs(values.mean()) < 5 * std / math.sqrt(values.size), name
        assert abs(values.std() - std) < 5 * std / math.sqrt(2 * values.size), name


def test_initial_values_depend_on_the_seed_and_the_parameter():
    """Catches equal layers, and an ignored seed."""
    one, same, other = GPT(ODD, seed=1), GPT(ODD, seed=1), GPT(ODD, seed=2)
    for a, b, c in zip(one.parameters(), same.parameters(), other.parameters(), strict=True):
        assert (a.data == b.data).all()
        assert (a.data != c.data).any() == bool(a.std)
    assert (one.blocks[0].attn.qkv.weight.data != one.blocks[1].attn.qkv.weight.data).all()


def test_a_module_on_its_own():
    """Catches modules that work only inside a GPT."""
    linear, norm, rms = (
        nn.Linear(4, 3, bias=False).initialise(1),
        nn.LayerNorm(3).initialise(),
        nn.RMSNorm(3).initialise(),
    )
    x = Tensor(np.random.default_rng(0).standard_normal((2, 4)), requires_grad=True)
    rms(norm(linear(x, activation="gelu"))).backward(np.ones((2, 3)))
    assert linear.bias is None
    for module in (linear, norm, rms):
        assert all(p.grad.shape == p.shape for p in module.parameters())
    table = nn.Embedding(5, 3).initialise()
    ops.embedding(np.array([[4, 4]], np.int32), table.weight).backward(np.ones((1, 2, 3)))
    np.testing.assert_array_equal(table.weight.grad, [[0] * 3] * 4 + [[2] * 3])


def test_modules_in_lists_and_shared_modules():
    """Catches a parameter of a list that is not found, and one that is found twice."""

    class Twins(nn.Module):
        def __init__(self):
            self.parts = [nn.Linear(2, 2), nn.Linear(2, 2, bias=False)]
            self.again = self.parts[0]
            self.own = nn.Parameter((3,), mean=2.0)

    twins = Twins().initialise()
    names = [name for name, _ in twins.named_parameters()]
    assert names == ["parts.0.weight", "parts.0.bias", "parts.1.weight", "own"]
    assert twins.num_parameters() == 4 + 2 + 4 + 3
    np.testing.assert_array_equal(twins.own.data, [2, 2, 2])


def test_before_initialise():
    """Catches a module that computes with uninitialised values."""
    linear = nn.Linear(3, 2)
    assert linear.num_parameters() == 8
    uses = [
        lambda: linear(Tensor(np.zeros((1, 3)))),
        lambda: linear.weight.grad_buffer(),
        lambda: setattr(linear.weight, "data", np.zeros((2, 3))),
    ]
    for use in uses:
        with pytest.raises(RuntimeError, match=r"^\[Parameter\] call initialise\(\) on the module first, "):
            use()
    assert linear.weight.grad is None


def test_initialise_again():
    """Catches gradients of the old arena that count as fresh in the new one."""
    linear = nn.Linear(3, 2).initialise(0)
    linear(Tensor(np.ones((1, 3)))).backward(np.ones((1, 2)))
    old = linear.weight.data.copy()
    linear.initialise(1)
    assert linear.weight.grad is None
    assert (linear.weight.data != old).any()
    assert (linear.initialise(0).weight.data == old).all()
    with pytest.raises(ValueError, match=r"^\[initialise\] 'seed' must be 0 or more, got -1$"):
        linear.initialise(-1)


def copies():
    return {"deepcopy": copy.deepcopy, "pickle": lambda model: pickle.loads(pickle.dumps(model))}


@pytest.mark.parametrize("how", copies())
@pytest.mark.parametrize("tied", [True, False])
def test_copies_train_by_themselves(how, tied):
    """Catches a copy whose parameters are not views of its arena: it would not learn, or change the original."""
    model = GPT(dataclasses.replace(ODD, tie_embeddings=tied), seed=1)
    tokens = np.arange(10).reshape(2, 5)
    model.loss(tokens, tokens).backward()
    twin = copies()[how](model)
    before = [p.data.copy() for p in model.parameters()]
    grads = [p.grad.copy() for p in model.parameters()]
    arena = twin.parameters()[0].arena
    assert arena is not model.parameters()[0].arena
    assert (twin.head.weight is twin.wte.weight) is tied
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        np.testing.assert_array_equal(ours.data, theirs.data)
        assert (ours.start, ours.std, ours.decay, ours.requires_grad) == (
            theirs.start,
            theirs.std,
            theirs.decay,
            theirs.requires_grad,
        )
        assert theirs.grad is None
        assert theirs.arena is arena
        assert np.shares_memory(theirs.data, arena.data)
        assert address(theirs.data) % LINE == 0
    loss = twin.loss(tokens, tokens)
    loss.backward()
    optim.AdamW(twin.parameters(), lr=1e-2).step()
    assert twin.loss(tokens, tokens).item() < loss.item()
    for parameter, values, grad in zip(model.parameters(), before, grads, strict=True):
        np.testing.assert_array_equal(parameter.data, values)
        np.testing.assert_array_equal(parameter.grad, grad)


@pytest.mark.parametrize("how", copies())
def test_copies_before_initialise(how):
    """Catches an uninitialised module that cannot be copied, or whose copy is initialised differently."""
    twin = copies()[how](nn.Linear(3, 2))
    twin.weight.requires_grad = False
    twin = copies()[how](twin).initialise(5)
    assert not twin.weight.requires_grad
    np.testing.assert_array_equal(twin.weight.data, nn.Linear(3, 2).initialise(5).weight.data)
