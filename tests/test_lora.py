"""Adapters: their gradients, what is frozen and costs nothing, what merging leaves, and their files."""

import copy
import json

import numpy as np
import pytest
import safetensors.numpy as peer
from safetensors import safe_open

import tinygpt
from tinygpt import GPT, GPTConfig, kernels, lora, ops, optim
from tinygpt.files import adapters
from tinygpt.runs import checkpoint, layout
from tinygpt.tensor import Tensor, no_grad

U = 2.0**-24
SMALL = {"vocab_size": 41, "block_size": 9, "n_layer": 2, "n_head": 4, "n_embd": 24}
LLAMA = {"position": "rope", "norm": "rmsnorm", "activation": "swiglu", "bias": False, "n_kv_head": 2, "ffn_dim": 20}
FAMILIES = {"gpt2": {}, "llama": LLAMA, "mixed": {"position": "rope", "activation": "swiglu"}}
TOKENS = np.random.default_rng(5).integers(0, 41, (3, 9))


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def base(seed=1, **options):
    """A model whose every value matters."""
    model = GPT(GPTConfig(**SMALL | options), seed)
    for parameter in model.parameters():
        parameter.data = parameter.data + 0.1 * draw(*parameter.shape, seed=parameter.start)
    return model


def adapted(rank=3, targets=None, **options):
    """The same with adapters that have learnt something."""
    model = base(**options)
    lora.add(model, rank, 5.0, targets, seed=2)
    for i, parameter in enumerate(lora.parameters(model)):
        parameter.data = 0.2 * draw(*parameter.shape, seed=i + 1)
    return model


def logits(model):
    with no_grad():
        return model(TOKENS).data


def step(model, optimizer):
    optimizer.zero_grad()
    loss = model.loss(TOKENS[:, :-1], TOKENS[:, 1:])
    loss.backward()
    optimizer.step()
    return loss.item()


# The operation


def formula(x, weight, a, b, bias=0.0, residual=0.0, scale=0.7):
    return x @ weight.T + bias + residual + scale * (x @ a.T) @ b.T


@pytest.mark.parametrize("wanted", [("a", "b"), ("x", "a", "b"), ("x", "weight", "a", "b", "bias", "residual"), ("x",)])
@pytest.mark.parametrize("rung", ["naive", "blocked", "simd", "numpy"])
def test_gradients(rung, wanted):
    """Catches a scale that is left out of one gradient, a transposed product, and a frozen matrix that gets one."""
    shapes = {"x": (2, 3, 5), "weight": (4, 5), "a": (2, 5), "b": (4, 2), "bias": (4,), "residual": (2, 3, 4)}
    inputs = {name: draw(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    tensors = {name: Tensor(value, requires_grad=name in wanted) for name, value in inputs.items()}
    exact = {name: value.astype(float) for name, value in inputs.items()}
    seed = draw(2, 3, 4, seed=9)
    with kernels.use(rung):
        out = ops.low_rank(scale=0.7, **tensors)
        out.backward(seed)
    # Chains of at most eleven roundings, of sums of terms of order 1; a factor 8 for their size.
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
    """Catches a kernel that reads beyond a matrix which does not fit the others."""
    shapes = {"x": (6, 5), "weight": (4, 5), "a": (2, 5), "b": (4, 2), "bias": (4,)}
    tensors = {key: Tensor(draw(*value)) for key, value in (shapes | {name: shape}).items()}
    with pytest.raises(ValueError, match=r"^\[low_rank\] '\w+' must have shape"):
        ops.low_rank(scale=1.0, **tensors)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_of_the_adapters_are_those_through_the_merged_weight(family, recompute):
    """Catches a gradient that does not reach an adapter of an early layer, or reaches it through the wrong branch.

    With W' = W + s B A, dA = s B^T dW' and dB = s dW' A^T, and W' is the weight of an ordinary model.
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
def test_new_adapters_change_nothing_and_merged_ones_stay(family):
    """Catches B that does not begin at zero, a layer without its adapter, and a merge in other proportions."""
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
    """Catches a name that leads to another layer, or to none."""
    one = adapted(targets=[target])
    place = {"qkv": "attn.qkv", "out": "attn.out", "up": "mlp.up", "down": "mlp.down"}[target]
    assert [name for name, _ in lora.layers(one)] == [f"blocks.{i}.{place}" for i in range(2)]
    assert abs(logits(one) - logits(base())).max() > 1e-2


def test_a_is_drawn_and_b_is_zero():
    """Catches A at zero too, from where nothing is learnt, equal layers, and a seed without effect."""
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


def test_training_moves_the_adapters_alone_and_costs_as_little():
    """Catches a frozen weight that moves, or that has a gradient or a moment: the memory that adapters are to save."""
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
    assert arena._grad is None  # never made
    assert optimizer.arena is not arena
    lines = sum(-(-p.data.size // 16) * 16 for p in parameters)
    assert {len(x) for x in (optimizer.arena.grad, *optimizer.state.values())} == {lines}


def test_no_product_for_a_frozen_weight(monkeypatch):
    """Catches a gradient that is computed and thrown away: a third of the work of a step."""
    model = base()
    lora.add(model, 2)
    seen = []
    real = kernels.registry.active.matmul

    def counting(a, b, out, *rest):
        seen.append(out.shape)
        return real(a, b, out, *rest)

    monkeypatch.setattr(kernels.registry.active, "matmul", counting)
    model.loss(TOKENS[:2, 1:-1], TOKENS[:2, 2:]).backward()  # 14 rows: no weight has as many
    shapes = {p.shape for name, p in model.named_parameters() if "lora" not in name and len(p.shape) == 2}
    assert (2, 24) in seen
    assert not shapes & set(seen)


def test_a_copy_has_adapters_of_its_own():
    """Catches a copy that shares them, or whose layers are no views of one arena."""
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
        ({"rank": 2, "alpha": 0}, "'alpha' must be positive, got 0.0"),
        ({"rank": 2, "targets": ["q"]}, "'targets' must be among qkv, out, up, down, got q"),
        ({"rank": 2, "targets": []}, "'targets' must be among qkv, out, up, down, got none"),
        ({"rank": 2, "seed": -1}, "'seed' must be 0 or more, got -1"),
    ],
)
def test_what_cannot_be_added_is_refused(arguments, message):
    """Catches a model that is half changed by the time of the error."""
    model = base()
    with pytest.raises(ValueError, match=rf"^\[lora\] {message}$"):
        lora.add(model, **arguments)
    assert lora.of(model) is None
    assert all(p.requires_grad for p in model.parameters())
    lora.add(model, 1)
    with pytest.raises(ValueError, match="must have no adapters yet"):
        lora.add(model, 1)


# Files


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("targets", [None, ["down", "qkv"]])
def test_adapters_come_back(tmp_path, family, targets):
    """Catches a part of a fused layer that is lost, and rank, alpha or targets that a reader must guess."""
    model = adapted(targets=targets, **FAMILIES[family])
    adapters.save(tmp_path / "adapter", model)
    again = base(**FAMILIES[family])
    parameters = adapters.load(tmp_path / "adapter", again)
    assert lora.of(again) == lora.of(model)
    assert [p.data.tobytes() for p in parameters] == [p.data.tobytes() for p in lora.parameters(model)]
    np.testing.assert_array_equal(logits(again), logits(model))
    size = sum(path.stat().st_size for path in (tmp_path / "adapter").iterdir())
    assert size < 8 * sum(p.data.size for p in parameters) + 8000


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_file_means_what_it_means_to_peft(tmp_path, family):
    """Catches names, rows or a factor with which another library would make another model of the file.

    Its rule: the weight of module M is that of the base plus lora_alpha / r times lora_B lora_A, transposed where
    fan_in_fan_out says that the base is; M is adapted if its name ends in a name of target_modules.
    """
    model = adapted(**FAMILIES[family])
    tinygpt.save(tmp_path / "base", base(**FAMILIES[family]))
    tinygpt.save(tmp_path / "merged", model)
    config = json.loads((tmp_path / "merged/adapter/adapter_config.json").read_text())
    held = peer.load_file(tmp_path / "merged/adapter/adapter_model.safetensors")
    factor = config["lora_alpha"] / config["r"]
    want = peer.load_file(tmp_path / "base/model.safetensors")
    modules = 0
    for name in want:
        module = name.removesuffix(".weight")
        if any(module.endswith(f".{target}") for target in config["target_modules"]):
            b, a = (held.pop(f"base_model.model.{module}.lora_{which}.weight") for which in "BA")
            change = factor * b.astype(float) @ a
            want[name] = want[name] + (change.T if config["fan_in_fan_out"] else change)
            modules += 1
    assert not held
    assert modules == 2 * (4 if family == "gpt2" else 7)
    for name, values in peer.load_file(tmp_path / "merged/model.safetensors").items():
        np.testing.assert_allclose(values, want[name], rtol=0, atol=8 * U * abs(want[name]).max(), err_msg=name)


def test_saving_leaves_the_model_as_it_is(tmp_path):
    """Catches merged weights that stay in memory, where the adapters would count twice, also after a failure."""
    model = adapted()
    before, weight = logits(model), model.blocks[0].attn.qkv.weight.data.tobytes()
    tinygpt.save(tmp_path, model)
    np.testing.assert_allclose(logits(tinygpt.load(tmp_path)[0]), before, rtol=0, atol=1e-5 * abs(before).max())
    model.blocks[1].mlp.down.lora_B.data[0, 0] = np.nan
    with pytest.raises(ValueError, match="must be finite"):
        tinygpt.save(tmp_path, model)
    assert model.blocks[0].attn.qkv.weight.data.tobytes() == weight


def changed(folder, **changes):
    """Change tensors of an adapter file; None removes one."""
    path = folder / adapters.WEIGHTS
    with safe_open(path, "numpy") as file:
        held, metadata = {name: file.get_tensor(name) for name in file.offset_keys()}, file.metadata()
    metadata |= changes.pop("metadata", {})
    for name, change in changes.items():
        full = next(key for key in held if key.endswith(name.replace("__", ".")))
        held[full] = change(held[full])
    held = {name: value for name, value in held.items() if value is not None}
    peer.save_file(held, path, metadata)


def config(folder, **changes):
    path = folder / adapters.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


BREAKS = {
    "no config": (lambda d: (d / adapters.CONFIG).unlink(), "adapter_config.json: no such file"),
    "no tensors": (lambda d: (d / adapters.WEIGHTS).unlink(), "adapter_model.safetensors: no such file"),
    "kind": (lambda d: config(d, peft_type="IA3"), "adapter_config.json: 'peft_type' must be 'LORA'"),
    "rank": (lambda d: config(d, r=-1), "adapter_config.json: 'r' must be"),
    "alpha": (lambda d: config(d, lora_alpha=0), "adapter_config.json: 'lora_alpha' must be positive"),
    "dora": (lambda d: config(d, use_dora=True), "adapter_config.json: 'use_dora' must be false"),
    "other rank": (lambda d: config(d, r=4), "adapter_model.safetensors: tensor '.*' has shape"),
    "missing": (
        lambda d: changed(d, **{"1__self_attn__v_proj__lora_B__weight": lambda _: None}),
        "adapter_model.safetensors: has no tensor '.*layers.1.self_attn.v_proj.lora_B.weight'",
    ),
    "own A": (
        lambda d: changed(d, **{"1__self_attn__v_proj__lora_A__weight": lambda x: x + 1}),
        "adapter_model.safetensors: tensor '.*1.self_attn.v_proj.lora_A.weight' must be that of the layer's other",
    ),
    "NaN": (
        lambda d: changed(d, **{"1__mlp__up_proj__lora_B__weight": lambda x: x * np.nan}),
        "adapter_model.safetensors: tensor '.*' holds values that are NaN",
    ),
    "base": (
        lambda d: changed(d, metadata={"base": "0123"}),
        r"adapter_model.safetensors: belongs to a base with other weights than this model has",
    ),
    "empty": (lambda d: peer.save_file({}, d / adapters.WEIGHTS), "adapter_model.safetensors: has no tensor"),
}


@pytest.mark.parametrize(("damage", "message"), BREAKS.values(), ids=BREAKS)
def test_bad_files_leave_the_model_as_it_was(tmp_path, damage, message):
    """Catches adapters that are half read, and an error that does not name the file."""
    adapters.save(tmp_path / "adapter", adapted(**LLAMA))
    damage(tmp_path / "adapter")
    model = base(**LLAMA)
    before = logits(model)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        adapters.load(tmp_path / "adapter", model)
    assert str(error.value).startswith(str(tmp_path / "adapter"))
    assert "\n" not in str(error.value)
    assert lora.of(model) is None
    assert all(p.requires_grad for p in model.parameters())
    np.testing.assert_array_equal(logits(model), before)


def test_another_base_is_refused(tmp_path):
    """Catches adapters on weights that they were not trained with: the result would be noise."""
    adapters.save(tmp_path / "adapter", adapted())
    other = base()
    other.wte.weight.data[0, 0] += 1e-3
    with pytest.raises(ValueError, match="belongs to a base with other weights"):
        adapters.load(tmp_path / "adapter", other)


def test_a_directory_of_something_else_is_left_alone(tmp_path):
    """Catches a replaced directory that held more than adapters."""
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else than adapters"):
        adapters.save(tmp_path, adapted())
    with pytest.raises(ValueError, match="must have adapters to be saved"):
        adapters.save(tmp_path / "new", base())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis.txt"]


def test_a_checkpoint_holds_the_adapters_alone_and_brings_them_back(tmp_path):
    """Catches a checkpoint as large as the model, and a moment or a weight that does not come back to the bit."""
    model = adapted()
    optimizer = optim.AdamW(lora.parameters(model), lr=1e-2)
    step(model, optimizer)
    checkpoint.save_checkpoint(tmp_path / "step-1", model, None, optimizer, {"step": 1})
    found = {str(path.relative_to(tmp_path / "step-1")) for path in (tmp_path / "step-1").rglob("*") if path.is_file()}
    assert found == {f"adapter/{adapters.CONFIG}", f"adapter/{adapters.WEIGHTS}", layout.OPTIMIZER, layout.STATE}
    other = base()
    again = optim.AdamW(lora.add(other, 3, 5.0), lr=1e-2)
    assert checkpoint.load_checkpoint(tmp_path / "step-1", other, again) == {"step": 1}
    assert [step(other, again) for _ in range(3)] == [step(model, optimizer) for _ in range(3)]
    plain = base()
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        checkpoint.load_checkpoint(tmp_path / "step-1", plain, optim.AdamW(plain.parameters()))
    wrong = base()
    with pytest.raises(ValueError, match="has adapters of rank 3 and alpha 5, the model has rank 2 and alpha 4"):
        checkpoint.load_checkpoint(tmp_path / "step-1", wrong, optim.AdamW(lora.add(wrong, 2)))
