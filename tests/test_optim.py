"""Optimizers against their float64 formulas, clipping, schedules, and parameters without a gradient."""

import math

import numpy as np
import pytest

from tinygpt import GPT, GPTConfig, kernels, nn, optim
from tinygpt.kernels import registry

U = 2.0**-24


class Two(nn.Module):
    """Two parameters with weight decay and one without; 15, 4 and 5 numbers, so that the arena has gaps."""

    def __init__(self):
        self.weight = nn.Parameter((5, 3), std=1.0)
        self.scale = nn.Parameter((4,), std=1.0)
        self.bias = nn.Parameter((5,), std=1.0, decay=False)


def gradients(module, step, size=1.0):
    """Give every parameter its own random gradient; return them by name, in float64."""
    module.zero_grad()
    given = {}
    for i, (name, parameter) in enumerate(module.named_parameters()):
        grad = size * np.random.default_rng([step, i]).standard_normal(parameter.shape).astype(np.float32)
        parameter.receive(grad)
        given[name] = grad.astype(float)
    return given


def follow(optimizer, module, update, steps=6, scale=1.0):
    """Compare `steps` steps with update(name, p, g, step) -> p; the learning rate changes at every step."""
    values = {name: p.data.astype(float) for name, p in module.named_parameters()}
    for step in range(1, steps + 1):
        optimizer.lr = 0.1 / step
        grads = gradients(module, step)
        optimizer.step(scale)
        for name, parameter in module.named_parameters():
            values[name] = update(name, values[name], scale * grads[name], step)
            # A step has about ten roundings, and its result is of order 1.
            np.testing.assert_allclose(parameter.data, values[name], rtol=0, atol=16 * U * step * 4)


@pytest.mark.parametrize("rung", registry.rungs("adamw"))
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_adamw(rung, scale):
    """Catches missing bias correction, decay of biases or in the moments, eps under the root, an ignored scale."""
    module = Two().initialise(1)
    betas, eps, decay = (0.8, 0.9), 1e-3, 0.3
    state = {name: [0.0, 0.0] for name, _ in module.named_parameters()}

    def update(name, p, g, step):
        m = betas[0] * state[name][0] + (1 - betas[0]) * g
        v = betas[1] * state[name][1] + (1 - betas[1]) * g**2
        state[name] = [m, v]
        lr = 0.1 / step
        shrunk = p if name == "bias" else p * (1 - lr * decay)
        return shrunk - lr * (m / (1 - betas[0] ** step)) / (np.sqrt(v / (1 - betas[1] ** step)) + eps)

    with kernels.use(adamw=rung):
        follow(optim.AdamW(module.parameters(), 1.0, betas, eps, decay), module, update, scale=scale)


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_adam(scale):
    """Catches weight decay, which Adam does not have, and moments that differ from AdamW's."""
    module = Two().initialise(1)
    betas, eps = (0.8, 0.9), 1e-3
    state = {name: [0.0, 0.0] for name, _ in module.named_parameters()}

    def update(name, p, g, step):
        m = betas[0] * state[name][0] + (1 - betas[0]) * g
        v = betas[1] * state[name][1] + (1 - betas[1]) * g**2
        state[name] = [m, v]
        return p - 0.1 / step * (m / (1 - betas[0] ** step)) / (np.sqrt(v / (1 - betas[1] ** step)) + eps)

    follow(optim.Adam(module.parameters(), 1.0, betas, eps), module, update, scale=scale)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_sgd(momentum, scale):
    """Catches momentum that is damped, lost, or multiplied by an old learning rate."""
    module = Two().initialise(1)
    held = dict.fromkeys(["weight", "scale", "bias"], 0.0)

    def update(name, p, g, step):
        held[name] = momentum * held[name] + g
        return p - 0.1 / step * held[name]

    follow(optim.SGD(module.parameters(), 1.0, momentum), module, update, scale=scale)


def make(kind, module):
    return {
        "adamw": lambda: optim.AdamW(module.parameters(), 0.1),
        "adam": lambda: optim.Adam(module.parameters(), 0.1),
        "sgd": lambda: optim.SGD(module.parameters(), 0.1, 0.9),
    }[kind]()


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("skipped", ["weight", "scale", "bias"])
@pytest.mark.parametrize("why", ["stale", "frozen"])
def test_parameters_without_a_gradient_do_not_change(kind, skipped, why):
    """Catches decay, momentum or an old gradient that changes a parameter with a stale or no gradient."""
    module = Two().initialise(1)
    optimizer = make(kind, module)
    gradients(module, 1)
    optimizer.step()
    gradients(module, 2)
    parameter = getattr(module, skipped)
    if why == "stale":
        parameter.zero_grad()
    else:
        parameter.requires_grad = False
    before = {name: p.data.copy() for name, p in module.named_parameters()}
    state = {key: value.copy() for key, value in optimizer.state_of(parameter).items()}
    optimizer.step()
    for name, p in module.named_parameters():
        assert (p.data != before[name]).all() == (name != skipped), name
        assert (p.data == before[name]).all() == (name == skipped), name
    for key, value in optimizer.state_of(parameter).items():
        np.testing.assert_array_equal(value, state[key])


def test_gaps_stay_zero():
    """Catches an update that writes between parameters, where neighbours are updated as one array."""
    model = GPT(GPTConfig(vocab_size=13, block_size=5, n_layer=1, n_head=1, n_embd=7))
    used = np.zeros(len(model.parameters()[0].arena.data), bool)
    for parameter in model.parameters():
        used[parameter.start : parameter.start + parameter.data.size] = True
    for kind in ("adamw", "adam", "sgd"):
        optimizer = make(kind, model)
        for step in range(3):
            gradients(model, step)
            optim.clip_grad_norm(model.parameters(), 0.5)
            optimizer.step()
        for array in (optimizer.arena.data, optimizer.arena.grad, *optimizer.state.values()):
            assert not array[~used].any()


def test_neighbours_are_one_call(monkeypatch):
    """Catches one call per parameter where one per weight decay setting is enough."""
    calls = []
    adamw = registry.active.adamw
    monkeypatch.setattr(registry.active, "adamw", lambda param, *rest: (calls.append(len(param)), adamw(param, *rest)))
    module = Two().initialise()
    gradients(module, 1)
    optim.AdamW(module.parameters()).step()
    assert calls == [16 + 4, 5]  # weight (15), a gap of 1, scale; then bias


def test_state_of():
    """Catches the state of the wrong parameter, or a copy of it, given to a checkpoint."""
    module = Two().initialise()
    optimizer = optim.AdamW(module.parameters(), betas=(0.5, 0.5))
    grads = gradients(module, 1)
    optimizer.step()
    for name, parameter in module.named_parameters():
        state = optimizer.state_of(parameter)
        assert list(state) == ["m", "v"]
        np.testing.assert_allclose(state["m"], 0.5 * grads[name], rtol=4 * U)
        np.testing.assert_allclose(state["v"], 0.5 * grads[name] ** 2, rtol=8 * U)
        state["m"][...] = 7
        assert (optimizer.state_of(parameter)["m"] == 7).all()


def test_grad_norm():
    """Catches a norm over one parameter, over stale or frozen gradients, or without the square root."""
    module = Two().initialise()
    grads = gradients(module, 1)
    want = math.sqrt(sum((g**2).sum() for g in grads.values()))
    assert optim.grad_norm(module.parameters()) == pytest.approx(want, rel=1e-12)
    module.scale.zero_grad()
    module.bias.requires_grad = False
    assert optim.grad_norm(iter(module.parameters())) == pytest.approx(np.sqrt((grads["weight"] ** 2).sum()), rel=1e-12)
    module.zero_grad()
    assert optim.grad_norm(module.parameters()) == 0


@pytest.mark.parametrize("size", [1e-3, 1.0, 100.0])
def test_clipping(size):
    """Catches small gradients scaled up, large ones not clipped, and a returned norm after clipping."""
    module = Two().initialise()
    grads = gradients(module, 1, size)
    before = math.sqrt(sum((g**2).sum() for g in grads.values()))
    assert optim.clip_grad_norm(iter(module.parameters()), 1.0) == pytest.approx(before, rel=1e-12)
    after = optim.grad_norm(module.parameters())
    assert after == pytest.approx(min(before, 1.0), rel=1e-5)
    for name, parameter in module.named_parameters():
        np.testing.assert_allclose(parameter.grad, grads[name] * min(1, 1 / before), rtol=1e-5)
    for wrong in (0, -1.0, math.nan):
        with pytest.raises(ValueError, match=r"^\[clip_grad_norm\] 'max_norm' must be positive, got"):
            optim.clip_grad_norm(module.parameters(), wrong)


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd"])
def test_clipping_equals_a_scaled_step(kind):
    """Catches a step that applies the clipping scale after the moments instead of before."""
    modules = [Two().initialise(1), Two().initialise(1)]
    optimizers = [make(kind, module) for module in modules]
    for step in range(4):
        for module in modules:
            gradients(module, step, 5.0)
        optim.clip_grad_norm(modules[0].parameters(), 1.0)
        optimizers[0].step()
        optimizers[1].step(optim.clip_scale(optim.grad_norm(modules[1].parameters()), 1.0))
        for one, other in zip(*(module.parameters() for module in modules), strict=True):
            np.testing.assert_allclose(one.data, other.data, rtol=0, atol=32 * U * (step + 1))


def test_constant():
    """Catches a constant schedule that changes."""
    schedule = optim.constant(0.3)
    assert {schedule(step) for step in (0, 1, 10**6)} == {0.3}


@pytest.mark.parametrize("wrong", [np.inf, -np.inf, np.nan])
@pytest.mark.filterwarnings("error")
def test_clipping_keeps_infinite_gradients(wrong):
    """Catches a scale of 0 or NaN that spreads one overflow to all gradients."""
    module = Two().initialise()
    gradients(module, 1)
    module.weight.grad[0, 0] = wrong
    before = [p.grad.copy() for p in module.parameters()]
    assert not math.isfinite(optim.clip_grad_norm(module.parameters(), 1e-3))
    for parameter, grad in zip(module.parameters(), before, strict=True):
        np.testing.assert_array_equal(parameter.grad, grad)


@pytest.mark.parametrize("kind", [optim.linear, optim.cosine])
def test_schedules_at_their_corners(kind):
    """Catches a warm-up from zero or past the peak, a jump after it, and an end before or after the last step."""
    schedule = kind(1.0, steps=21, warmup=4, final=0.1)
    np.testing.assert_allclose([schedule(step) for step in range(4)], [0.2, 0.4, 0.6, 0.8])
    assert schedule(4) == pytest.approx(1.0)
    assert schedule(12) == pytest.approx(0.55)  # half-way down, both schedules have the mean of both ends
    assert schedule(20) == pytest.approx(0.1)
    assert schedule(1000) == pytest.approx(0.1)
    falling = [schedule(step) for step in range(4, 21)]
    assert falling == sorted(falling, reverse=True)
    quarter = {optim.linear: 0.775, optim.cosine: 0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2}[kind]
    assert schedule(8) == pytest.approx(quarter)


@pytest.mark.parametrize("kind", [optim.linear, optim.cosine])
def test_schedules_of_short_runs(kind):
    """Catches a division by zero when warm-up takes the whole run, and an end above `final`."""
    assert kind(1.0, steps=1)(0) == 1.0
    assert kind(1.0, steps=1, warmup=1)(0) == 0.5
    for warmup in (4, 5, 9):
        schedule = kind(1.0, steps=5, warmup=warmup, final=0.25)
        assert schedule(3) == pytest.approx(4 / (warmup + 1))
        assert schedule(4) == pytest.approx(0.25)
    assert kind(1.0, steps=2, final=0.5)(1) == pytest.approx(0.5)


def test_invalid_arguments():
    """Catches settings that would silently train nothing, or diverge."""
    module, other = Two().initialise(), Two().initialise()
    parameters = module.parameters()
    cases = [
        (lambda: optim.AdamW([]), "[AdamW] 'parameters' must not be empty"),
        (lambda: optim.SGD(Two().parameters()), "[SGD] 'parameters' must be those of an initialised module"),
        (lambda: optim.SGD([module]), "[SGD] 'parameters' must be those of an initialised module"),
        (lambda: optim.Adam(parameters + other.parameters()), "[Adam] 'parameters' must belong to one module"),
        (lambda: optim.Adam(parameters + parameters[:1]), "[Adam] 'parameters' must name every parameter once"),
        (lambda: optim.AdamW(parameters, -1e-3), "[AdamW] 'lr' must be 0 or more, got -0.001"),
        (lambda: optim.AdamW(parameters, math.nan), "[AdamW] 'lr' must be 0 or more, got nan"),
        (lambda: optim.SGD(parameters, momentum=1), "[SGD] 'momentum' must be at least 0 and less than 1, got 1"),
        (lambda: optim.Adam(parameters, betas=(0.9, 1.0)), "[Adam] 'betas' must be two numbers, at least 0 and less"),
        (lambda: optim.Adam(parameters, betas=(0.9,)), "[Adam] 'betas' must be two numbers, at least 0 and less"),
        (lambda: optim.AdamW(parameters, eps=0), "[AdamW] 'eps' must be positive in float32, got 0"),
        (lambda: optim.AdamW(parameters, eps=1e-46), "[AdamW] 'eps' must be positive in float32, got 1e-46"),
        (lambda: optim.Adam(parameters, eps=1e-46), "[Adam] 'eps' must be positive in float32, got 1e-46"),
        (lambda: optim.AdamW(parameters, weight_decay=-1), "[AdamW] 'weight_decay' must be 0 or more, got -1"),
    ]
    for call, text in cases:
        with pytest.raises(ValueError) as error:  # noqa: PT011 - the text is compared
            call()
        assert str(error.value).startswith(text)
        assert "\n" not in str(error.value)


def test_module_that_was_initialised_again():
    """Catches steps that update the old arena, which no module reads any more."""
    module = Two().initialise(1)
    optimizer = optim.AdamW(module.parameters())
    module.initialise(2)
    gradients(module, 1)
    with pytest.raises(RuntimeError, match=r"^\[AdamW\] the module was initialised again: make a new optimizer$"):
        optimizer.step()


def test_the_base_class_cannot_step():
    """Catches a base class that silently does nothing."""
    module = Two().initialise()
    gradients(module, 1)
    with pytest.raises(TypeError, match=r"^\[Optimizer\] is a base class; use SGD, Adam or AdamW$"):
        optim.Optimizer(module.parameters(), 0.1).step()


def test_wsd_stays_at_its_peak_and_falls_at_the_end():
    """Catches a rate that falls all the way, a fall that ends too early, and one that is not 1 - sqrt."""
    schedule = optim.wsd(1.0, steps=101, warmup=10, final=0.1, decay=0.2)
    assert [schedule(step) for step in (0, 9)] == [pytest.approx(1 / 11), pytest.approx(10 / 11)]
    assert {schedule(step) for step in range(10, 81)} == {1.0}
    assert schedule(85) == pytest.approx(0.1 + 0.9 * (1 - 0.5))  # a quarter of the way, whose root is a half
    assert schedule(100) == pytest.approx(0.1)
    assert optim.wsd(1.0, steps=1)(0) == 1.0
    rates = [optim.wsd(1.0, steps=50, warmup=5, decay=1.0)(step) for step in range(5, 50)]
    assert rates == sorted(rates, reverse=True)
