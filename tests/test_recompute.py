"""Recomputed blocks in backward: the same gradients with less memory."""

import copy
import pickle

import numpy as np
import pytest
from gpt_reference import BASE, CONFIGS, LLAMA, TARGETS, TOKENS, spread

from tinygpt import GPT, GPTConfig, kernels, memory, no_grad
from tinygpt.kernels import registry
from tinygpt.model import Block
from tinygpt.tensor import is_recording

KEYS = ((7, 3, 0), (7, 3, 2))  # dropout keys of two forward passes of one step


def gradients(model, recompute, passes=1, key=KEYS):
    """Losses of some forward passes, and the bits of every accumulated gradient."""
    model.recompute = recompute
    model.zero_grad()
    losses = []
    for i in range(passes):
        loss = model.loss(TOKENS, np.roll(TARGETS, i, axis=0), key[i] if key else None)
        loss.backward(1 / passes)
        losses.append(loss.item())
    return losses, {name: parameter.grad.tobytes() for name, parameter in model.named_parameters()}


@pytest.fixture
def blocks(monkeypatch):
    """A list with an entry for every block that runs: its number, and whether it was recorded."""
    ran = []
    call = Block.__call__

    def watched(self, *args, **kwargs):
        ran.append((self.mlp.site // 2 - 1, is_recording()))
        return call(self, *args, **kwargs)

    monkeypatch.setattr(Block, "__call__", watched)
    return ran


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("rung", [registry.default_rung(), "naive"])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_same_bits(name, rung, passes):
    """Catches a gradient that is lost, doubled, overwritten by the second pass, or summed in another order."""
    model = spread(name)
    with kernels.use(rung):
        assert gradients(model, True, passes, None) == gradients(model, False, passes, None)


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("family", [BASE, LLAMA], ids=["gpt2", "llama"])
def test_the_same_bits_with_dropout(family, passes):
    """Catches masks drawn again differently, or with another pass's key, when a block is recomputed."""
    model = GPT(GPTConfig(**family | {"n_layer": 3, "dropout": 0.3}), seed=1)
    plain = gradients(model, False, passes)
    assert gradients(model, True, passes) == plain
    assert gradients(model, True, passes, KEYS[::-1]) != plain


def test_blocks_run_again_from_the_last_to_the_first(blocks):
    """Catches a test without effect: blocks recorded in forward, or never recomputed."""
    model = GPT(GPTConfig(**BASE | {"n_layer": 3}))
    model.recompute = True
    loss = model.loss(TOKENS, TARGETS)
    assert blocks == [(0, False), (1, False), (2, False)]
    loss.backward()
    assert blocks[3:] == [(2, True), (1, True), (0, True)]


def test_only_gradients_make_blocks_run_again(blocks):
    """Catches recomputation where no gradient needs it, and a cache or weights filled twice or never."""
    model = GPT(GPTConfig(**BASE))
    want = model(TOKENS).data
    given = [np.full((2, 2, 7, 7), np.nan, np.float32) for _ in range(2)]
    model.recompute = True
    blocks.clear()
    with no_grad():
        cache = model.new_cache(2)
        np.testing.assert_array_equal(model(TOKENS, cache).data, want)
    assert cache.length == 7
    model.hidden(TOKENS, weights=given)
    assert all(np.isfinite(weights).all() for weights in given)
    assert blocks == [(0, False), (1, False), (0, True), (1, True)]
    with pytest.raises(RuntimeError, match=r"^\[attention\] 'cache' must be used under no_grad\(\)"):
        model(TOKENS[:, :1], cache)


def test_backward_under_no_grad():
    """Catches a recomputed block that is not recorded because its caller does not record."""
    model = spread("gpt2")
    want = gradients(model, False)[1]
    model.recompute = True
    model.zero_grad()
    loss = model.loss(TOKENS, TARGETS)
    with no_grad():
        loss.backward()
        assert not is_recording()
    assert is_recording()
    assert {name: parameter.grad.tobytes() for name, parameter in model.named_parameters()} == want


@pytest.mark.parametrize("frozen", ["below", "inside"])
def test_frozen_parameters(frozen):
    """Catches blocks without gradients because those below are frozen, and gradients of frozen parameters."""
    both = []
    for recompute in (False, True):
        model = spread("gpt2")
        model.recompute = recompute
        off = [model.wte, model.wpe, model.blocks[0]] if frozen == "below" else [model.blocks[1].attn]
        for parameter in (parameter for module in off for parameter in module.parameters()):
            parameter.requires_grad = False
        model.loss(TOKENS, TARGETS).backward()
        both.append({n: None if p.grad is None else p.grad.tobytes() for n, p in model.named_parameters()})
    assert both[0] == both[1]
    assert None in both[1].values()
    assert both[1]["blocks.1.mlp.up.weight"] is not None


@pytest.mark.parametrize("op", ["attention", "attention_backward"])
def test_an_error_in_a_block_that_runs_again_leaves_no_gradient(monkeypatch, op):
    """Catches partial gradients that look complete after Ctrl-C or a MemoryError."""
    model = spread("gpt2")
    want = gradients(model, False)
    model.recompute = True  # the gradients of the first pass still exist, and would be added to
    loss = model.loss(TOKENS, TARGETS)
    calls, plain = [], getattr(registry.active, op)

    def failing(*args):
        calls.append(op)
        if len(calls) == 2:  # block 1 has its gradients, block 0 is being recomputed
            raise KeyboardInterrupt
        plain(*args)

    monkeypatch.setattr(registry.active, op, failing)
    with pytest.raises(KeyboardInterrupt):
        loss.backward()
    assert len(calls) == 2
    assert is_recording()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is not None] == []
    with pytest.raises(RuntimeError, match="freed by an earlier backward"):
        loss.backward()
    monkeypatch.undo()
    assert gradients(model, True) == want


def peak(model, tokens):
    """Peak bytes of activations during a training step, without the arena of parameters and gradients."""
    model.zero_grad()
    memory.clear()
    before = memory._live
    model.loss(tokens, tokens).backward()
    return memory._peak - before


def test_memory():
    """Catches activations of a block kept until backward, or kept after its recomputation.

    The unit is one activation (B, T, C), just large enough to be counted. A block keeps 16 units: the two norms, qkv
    (3), attention, its sum with x, the MLP before and after GELU (4 each), and its result. With recomputing, each block
    keeps 1 unit, and one block at a time has its 16 and its gradients: at most 4 units of incoming gradients, 4 of
    outgoing ones, dy and a copy of it.
    """
    layers, unit = 8, memory.SMALLEST
    B, T, C = 4, 64, 128
    assert 4 * B * T * C == unit == memory.bucket(unit)
    model = GPT(GPTConfig(vocab_size=11, block_size=T, n_layer=layers, n_head=2, n_embd=C))
    tokens = np.arange(B * T).reshape(B, T) % 11
    plain = peak(model, tokens)
    model.recompute = True
    again = peak(model, tokens)
    memory.clear()
    assert plain >= 16 * layers * unit
    assert again <= (layers + 16 + 4 + 4 + 2 + 2) * unit  # 2 for the embedding and the final norm
    assert plain > 3 * again


def test_the_setting_is_not_part_of_the_config():
    """Catches a config, and so a saved file, that contains the setting, and a copy that loses it."""
    model = GPT(GPTConfig(**BASE))
    assert model.recompute is False
    model.recompute = True
    assert "recompute" not in GPTConfig.__dataclass_fields__
    assert copy.deepcopy(model).recompute is True
    assert pickle.loads(pickle.dumps(model)).recompute is True
    assert GPT(GPTConfig(**BASE)).recompute is False
