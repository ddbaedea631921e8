"""LoRA adapters: their gradients, frozen weights, memory, and merging."""

import copy

import numpy as np
import pytest
from adapted_models import FAMILIES, TOKENS, U, adapted, base, draw, logits, step

from tinygpt import kernels, lora, ops, optim
from tinygpt.tensor import Tensor

# The operation


def formula(x, weight, a, b, bias=0.0, residual=0.0, scale=0.7):
    return x @ weight.T + bias + residual + scale * (x @ a.T) @ b.T


@pytest.mark.parametrize("wanted", [("a", "b"), ("x", "a", "b"), ("x", "weight", "a", "b", "bias", "residual"), ("x",)])
@pytest.mark.parametrize("rung", ["naive", "blocked", "simd", "numpy"])
def test_gradients(rung, wanted):
    """Catches a missing scale in a gradient, a wrong transpose, and a gradient of a frozen matrix."""
    shapes = {"x": (2, 3, 5), "weight": (4, 5), "a": (2, 5), "b": (4, 2), "bias": (4,), "residual": (2, 3, 4)}
    inputs = {name: draw(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    tensors = {name: Tensor(value, requires_grad=name in wanted) for name, value in inputs.items()}
    exact = {name: value.astype(float) for name, value in inputs.items()}
    seed = draw(2, 3, 4, seed=9)
    with kernels.use(rung):
        out = ops.low_rank(scale=0.7, **tensors)
        out.backward(seed)
    # Chains of at most eleven roundings in sums of terms of order 1, with a factor of 8 for their size.
    np.testing.assert_allclose(out.data, formula(**exact), rtol=0, atol=8 * 11 * U)
    for name, tensor in tensors.items():
        if name not in wanted:
            assert tensor.grad is None
            continue
        want = np.empty(tensor.shape)
        for index in np.ndindex(tensor.shape):
            ends = []
            for change in (1e-5, -1e-5):
                moved = exact[name].copy()
                moved[index] += change
                ends.append((formula(**exact | {name: moved}) * seed).sum())
            want[index] = (ends[0] - ends[1]) / 2e-5
        np.testing.assert_allclose(tensor.grad, want, rtol=0, atol=8 * 11 * U * max(1, abs(want).max()), err_msg=name)


@pytest.mark.parametrize(("name", "shape"), [("a", (2, 4)), ("b", (3, 2)), ("weight", (5, 4)), ("bias", (5,))])
def test_shapes_are_checked(name, shape):
    """Catches a kernel that reads past the end of a matrix of the wrong shape."""
    shapes = {"x": (6, 5), "weight": (4, 5), "a": (2, 5), "b": (4, 2), "bias": (4,)}
    tensors = {key: Tensor(draw(*value)) for key, value in (shapes | {name: shape}).items()}
    with pytest.raises(ValueError, match=r"^\[low_rank\] '\w+' must have shape"):
        ops.low_rank(scale=1.0, **tensors)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_of_the_adapters_are_those_through_the_merged_weight(family, recompute):
    """Catches a gradient that does not reach an early layer's adapter, or takes the wrong path.

    With W' = W + s B A, dA = s B^T dW' and dB = s dW' A^T, where W' is the weight of an ordinary model.
    """
    model = adapted(**FAMILIES[family])
    model.recompute = recompute
    plain = copy.deepcopy(model)
    lora.merge(plain)
    for one in (model, plain):
        one.loss(TOKENS[:, :-1], TOKENS[:, 1:]).backward()
    merged = dict(plain.named_parameters())
    for name, layer in lora.layers(model):
        dW = merged[f"{name}.weight"].grad.astype(float)
        a, b = layer.lora_A.data, layer.lora_B.data
        for got, want in ((layer.lora_A.grad, b.T @ dW), (layer.lora_B.grad, dW @ a.T)):
            want = want * 5.0 / 3
            assert abs(want).max() > 1e-5
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * abs(want).max(), err_msg=name)


# The model


@pytest.mark.parametrize("family", FAMILIES)
def test_new_adapters_change_nothing_and_merging_keeps_the_logits(family):
    """Catches B not initialised to 0, a layer without an adapter, and a wrong scale in merging."""
    model = base(**FAMILIES[family])
    before = logits(model)
    lora.add(model, 3)
    np.testing.assert_array_equal(logits(model), before)
    model = adapted(**FAMILIES[family])
    learnt = logits(model)
    assert abs(learnt - before).max() > 0.1
    lora.merge(model)
    assert lora.of(model) is None
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert [name for name, _ in model.named_parameters()] == [n for n, _ in base(**FAMILIES[family]).named_parameters()]
    np.testing.assert_allclose(logits(model), learnt, rtol=0, atol=1e-5 * abs(learnt).max())


@pytest.mark.parametrize("target", lora.TARGETS)
def test_every_target_is_a_layer_of_its_own(target):
    """Catches a target name for the wrong layer, or for none."""
    one = adapted(targets=[target])
    place = {"qkv": "attn.qkv", "out": "attn.out", "up": "mlp.up", "down": "mlp.down"}[target]
    assert [name for name, _ in lora.layers(one)] == [f"blocks.{i}.{place}" for i in range(2)]
    assert abs(logits(one) - logits(base())).max() > 1e-2


def test_a_is_drawn_and_b_is_zero():
    """Catches A initialised to 0, with which nothing is learned, equal layers, and an ignored seed."""
    made = {}
    for seed in (0, 0, 1):
        model = base()
        lora.add(model, 2, seed=seed)
        made.setdefault(seed, []).append([layer.lora_A.data.copy() for _, layer in lora.layers(model)])
        assert not any(layer.lora_B.data.any() for _, layer in lora.layers(model))
        assert lora.of(model) == lora.Adapters(2, 4.0, lora.TARGETS)
    first, again, other = *made[0], made[1][0]
    assert all((x == y).all() and (x != z).any() for x, y, z in zip(first, again, other, strict=True))
    assert (first[0] != first[4]).any()
    values = np.concatenate([x.ravel() * np.sqrt(3 * x.shape[1]) for x in first])
    assert abs(values.std() - 1) < 5 / np.sqrt(2 * values.size)


def test_training_changes_the_adapters_alone_and_saves_memory():
    """Catches a frozen weight that changes, or that has a gradient or moments in memory."""
    model = base()
    parameters = lora.add(model, 2)
    frozen = {name: p for name, p in model.named_parameters() if "lora" not in name}
    before = {name: p.data.tobytes() for name, p in frozen.items()}
    optimizer = optim.AdamW(parameters, lr=1e-2)
    losses = [step(model, optimizer) for _ in range(30)]
    assert losses[-1] < losses[0] - 0.3
    assert {name: p.data.tobytes() for name, p in frozen.items()} == before
    assert all(p.grad is None and not p.requires_grad for p in frozen.values())
    (arena,) = {id(p.arena): p.arena for p in frozen.values()}.values()
    assert arena._grad is None  # never allocated
    assert optimizer.arena is not arena
    lines = sum(-(-p.data.size // 16) * 16 for p in parameters)
    assert {len(x) for x in (optimizer.arena.grad, *optimizer.state.values())} == {lines}


def test_no_gradient_is_computed_for_a_frozen_weight(monkeypatch):
    """Catches a gradient that is computed and discarded, a third of the work of a step."""
    model = base()
    lora.add(model, 2)
    seen = []
    real = kernels.registry.active.matmul

    def counting(a, b, out, *rest):
        seen.append(out.shape)
        return real(a, b, out, *rest)

    monkeypatch.setattr(kernels.registry.active, "matmul", counting)
    model.loss(TOKENS[:2, 1:-1], TOKENS[:2, 2:]).backward()  # 14 rows, which no weight has
    shapes = {p.shape for name, p in model.named_parameters() if "lora" not in name and len(p.shape) == 2}
    assert (2, 24) in seen
    assert not shapes & set(seen)


def test_a_copy_has_adapters_of_its_own():
    """Catches a copy with shared adapters, or layers that are not views of one arena."""
    model = adapted()
    twin = copy.deepcopy(model)
    np.testing.assert_array_equal(logits(twin), logits(model))
    before = logits(model)
    step(twin, optim.AdamW(lora.parameters(twin), lr=0.1))
    np.testing.assert_array_equal(logits(model), before)
    assert abs(logits(twin) - before).max() > 1e-3
    lora.merge(twin)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "'rank' must be a positive integer, got 0"),
        ({"rank": 2.0}, "'rank' must be a positive integer, got 2.0"),
        ({"rank": 2, "alpha": 0}, "'alpha' must be positive and finite in float32, got 0.0"),
        ({"rank": 2, "alpha": 1e39}, r"'alpha' must be positive and finite in float32, got 1e\+39"),
        ({"rank": 2, "targets": ["q"]}, "'targets' must be among qkv, out, up, down, got q"),
        ({"rank": 2, "targets": []}, "'targets' must be among qkv, out, up, down, got none"),
        ({"rank": 2, "seed": -1}, "'seed' must be 0 or more, got -1"),
    ],
)
def test_invalid_adapters_are_refused(arguments, message):
    """Catches a model that is partly changed when the error is raised."""
    model = base()
    with pytest.raises(ValueError, match=rf"^\[lora\] {message}$"):
        lora.add(model, **arguments)
    assert lora.of(model) is None
    assert all(p.requires_grad for p in model.parameters())
    lora.add(model, 1)
    with pytest.raises(ValueError, match="must have no adapters yet"):
        lora.add(model, 1)
