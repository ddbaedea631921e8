"""Short training runs: equal curves on all rungs, equal bits for any number of threads, equal gradient accumulation."""

import math

import numpy as np
import pytest

import tinygpt
from tinygpt import GPT, GPTConfig, kernels, optim
from tinygpt.kernels import registry, threads

PERIOD = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7])
GPT2 = {"vocab_size": 11, "block_size": 12, "n_layer": 2, "n_head": 2, "n_embd": 24}
LLAMA = {"position": "rope", "norm": "rmsnorm", "activation": "swiglu", "bias": False, "n_kv_head": 1, "ffn_dim": 40}
FAMILIES = {"gpt2": GPT2, "llama": GPT2 | LLAMA | {"tie_embeddings": False}}
RUNGS = sorted({rung for rungs in kernels.available().values() for rung in rungs})
STEPS = 40


@pytest.fixture
def many_threads(monkeypatch):
    """Use threads for the smallest calls, and restore the number afterwards."""
    before = tinygpt.get_num_threads()
    monkeypatch.setattr(threads, "SMALL_WORK", 0)
    yield
    tinygpt.set_num_threads(before)


def windows(step, batch=4, length=12):
    """Tokens and targets: pieces of a periodic text."""
    starts = np.random.default_rng(step).integers(0, len(PERIOD), batch)
    text = np.tile(PERIOD, 3)
    tokens = np.stack([text[start : start + length + 1] for start in starts])
    return tokens[:, :-1], tokens[:, 1:]


def curve(settings):
    """The losses of a short run of AdamW with clipping, on the rungs chosen now."""
    model = GPT(GPTConfig(**settings), seed=2)
    optimizer = optim.AdamW(model.parameters(), 1e-2)
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = model.loss(*windows(step))
        loss.backward()
        optimizer.step(optim.clip_scale(optim.grad_norm(model.parameters()), 1.0))
        losses.append(loss.item())
    return losses


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    """The settings of a family, and its curve on the default rung."""
    with kernels.use(registry.default_rung()):
        return FAMILIES[request.param], curve(FAMILIES[request.param])


def test_it_learns(family):
    """Catches a model that does not train: the loss starts at ln 11 and must fall far below."""
    _, losses = family
    assert losses[0] == pytest.approx(math.log(11), abs=0.1)
    assert np.mean(losses[-5:]) < 0.25 * math.log(11)


@pytest.mark.parametrize("rung", RUNGS)
def test_every_rung_learns_the_same(family, rung):
    """Catches a rung with a wrong gradient, whose curve would leave the others'.

    Rounding starts at about 1e-7 of a loss and grows less than a hundredfold in a run this short. The bound of 1e-4
    leaves room, and a wrong gradient differs by far more.
    """
    settings, losses = family
    with kernels.use(rung):
        np.testing.assert_allclose(curve(settings), losses, rtol=0, atol=1e-4)


def test_a_mixture_of_rungs_learns_the_same(family):
    """Catches values saved by one rung that another one cannot use."""
    settings, losses = family
    ladder = [rung for rung in registry.LADDER if rung in RUNGS] + ["numpy"]
    mixed = {op: ladder[i % len(ladder)] for i, op in enumerate(kernels.available())}
    with kernels.use(**mixed):
        assert set(kernels.selection().values()) == set(ladder)
        np.testing.assert_allclose(curve(settings), losses, rtol=0, atol=1e-4)


def run_of_5_steps(rung, n_threads, settings):
    tinygpt.set_num_threads(n_threads)
    assert threads.for_work(1) == n_threads
    rng = np.random.default_rng(0)
    with kernels.use(rung):
        model = GPT(GPTConfig(**settings), seed=1)
        optimizer = optim.AdamW(model.parameters(), 1e-2)
        losses = []
        for step in range(5):
            tokens = rng.integers(0, settings["vocab_size"], (3, settings["block_size"] + 1))
            optimizer.zero_grad()
            loss = model.loss(tokens[:, :-1], tokens[:, 1:], (7, step))
            loss.backward()
            optim.clip_grad_norm(model.parameters(), 0.5)
            optimizer.step()
            losses.append(loss.data.tobytes())
    return losses, model.parameters()[0].arena.data.tobytes(), optimizer.state["v"].tobytes()


@pytest.mark.parametrize("rung", [rung for rung in registry.LADDER if rung in RUNGS])
@pytest.mark.parametrize("family_name", FAMILIES)
def test_same_bits_for_any_number_of_threads(many_threads, rung, family_name):
    """Catches any sum whose order depends on the threads, in training with dropout and clipping."""
    odd = {"vocab_size": 131, "block_size": 37, "n_head": 3, "n_embd": 60, "dropout": 0.1}
    settings = FAMILIES[family_name] | odd
    one = run_of_5_steps(rung, 1, settings)
    for n in (2, 3):
        assert run_of_5_steps(rung, n, settings) == one, f"{n} threads"


def gradients(model):
    return {name: parameter.grad.astype(float) for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("family_name", FAMILIES)
def test_accumulation_equals_one_batch(family_name):
    """Catches dropout masks that depend on the position in a batch, and gradients that are not accumulated.

    A batch of 4 must equal 2 and 2 as well as 1 and 3, if the second part states the number of its first sequence.
    """
    model = GPT(GPTConfig(**FAMILIES[family_name], dropout=0.3), seed=1)
    tokens, targets = windows(0)
    model.loss(tokens, targets, (1, 2, 10)).backward()
    whole = gradients(model)
    for cut in (1, 2):
        model.zero_grad()
        for part in (slice(0, cut), slice(cut, 4)):
            share = (part.stop - part.start) / 4
            model.loss(tokens[part], targets[part], (1, 2, 10 + part.start)).backward(share)
        for name, grad in gradients(model).items():
            np.testing.assert_allclose(grad, whole[name], rtol=0, atol=1e-5 * abs(whole[name]).max(), err_msg=name)
    model.zero_grad()
    for part in (slice(0, 2), slice(2, 4)):
        model.loss(tokens[part], targets[part], (1, 2, 10)).backward(0.5)
    assert abs(gradients(model)["wte.weight"] - whole["wte.weight"]).max() > 1e-3 * abs(whole["wte.weight"]).max()


def test_frozen_parts_do_not_change():
    """Catches an update of frozen weights, and other weights that do not learn without them."""
    model = GPT(GPTConfig(**GPT2), seed=2)
    frozen = model.blocks[0].parameters()
    for parameter in frozen:
        parameter.requires_grad = False
    before = [parameter.data.copy() for parameter in frozen]
    optimizer = optim.AdamW(model.parameters(), 1e-2)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = model.loss(*windows(step))
        loss.backward()
        optimizer.step()
    assert all((old == parameter.data).all() for old, parameter in zip(before, frozen, strict=True))
    assert loss.item() < 0.5 * math.log(11)
