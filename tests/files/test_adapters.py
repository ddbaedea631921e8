"""Adapter files: they read back unchanged, mean the same to `peft`, and damaged ones change nothing."""

import json
import tracemalloc

import numpy as np
import pytest
import safetensors.numpy as peer
from adapted_models import FAMILIES, LLAMA, U, adapted, base, draw, logits
from safetensors import safe_open

import tinygpt
from tinygpt import lora
from tinygpt.files import adapters


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("targets", [None, ["down", "qkv"]])
def test_adapters_come_back(tmp_path, family, targets):
    """Catches a lost part of a fused layer, and rank, alpha or targets that a reader would have to guess."""
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
def test_the_file_means_the_same_to_peft(tmp_path, family):
    """Catches names, row orders or a scale from which peft would build a different model.

    The rule of peft: the weight of module M is the base weight plus lora_alpha / r times lora_B lora_A, transposed
    where fan_in_fan_out says that the base weight is. M is adapted if its name ends in a name of target_modules.
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


def test_saving_does_not_change_the_model(tmp_path):
    """Catches merged weights left in memory, where the adapters would count twice, also after a failure."""
    model = adapted()
    before, weight = logits(model), model.blocks[0].attn.qkv.weight.data.tobytes()
    tinygpt.save(tmp_path, model)
    np.testing.assert_allclose(logits(tinygpt.load(tmp_path)[0]), before, rtol=0, atol=1e-5 * abs(before).max())
    model.blocks[1].mlp.down.lora_B.data[0, 0] = np.nan
    with pytest.raises(ValueError, match="must be finite"):
        tinygpt.save(tmp_path, model)
    assert model.blocks[0].attn.qkv.weight.data.tobytes() == weight


def changed(folder, **changes):
    """Change tensors of an adapter file; a change that returns None removes the tensor."""
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
    "part missing": (
        lambda d: changed(d, **{f"1__self_attn__v_proj__lora_{which}__weight": lambda _: None for which in ("A", "B")}),
        "adapter_model.safetensors: has tensor '.*1.self_attn.q_proj.lora_A.weight' but none for "
        "'model.layers.1.self_attn.v_proj'; here both belong to one layer with one adapter",
    ),
    "unknown": (lambda d: config(d, new_option=1), "adapter_config.json: 'new_option' is not known here"),
    "pissa": (lambda d: config(d, init_lora_weights="pissa"), "'init_lora_weights' must be true or false or 'gau"),
    "alora": (lambda d: config(d, alora_invocation_tokens=[1]), "'alora_invocation_tokens' must be null, got a list"),
    "huge rank": (lambda d: config(d, r=2**31 - 1), "tensor '.*' has shape .*, adapter_config.json asks for"),
    "nothing": (lambda d: peer.save_file({"x": np.zeros(1, np.float32)}, d / adapters.WEIGHTS), "no tensor lora_A"),
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
def test_bad_files_do_not_change_the_model(tmp_path, damage, message):
    """Catches adapters that are partly read, and an error that does not name the file."""
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
    """Catches adapters on weights that they were not trained with, which gives noise."""
    adapters.save(tmp_path / "adapter", adapted())
    other = base()
    other.wte.weight.data[0, 0] += 1e-3
    with pytest.raises(ValueError, match="belongs to a base with other weights"):
        adapters.load(tmp_path / "adapter", other)


def test_a_directory_with_other_files_is_left_alone(tmp_path):
    """Catches a replaced directory that contained more than adapters."""
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else than adapters"):
        adapters.save(tmp_path, adapted())
    with pytest.raises(ValueError, match="must have adapters to be saved"):
        adapters.save(tmp_path / "new", base())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis.txt"]


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_of_some_layers(tmp_path, family):
    """Catches adapters of some blocks only that are refused, or read into all blocks."""
    model = base(**FAMILIES[family])
    names = ["blocks.0.mlp.down", "blocks.1.attn.qkv"]
    for parameter in lora.add(model, 2, 3.0, layers=names):
        parameter.data = draw(*parameter.shape)
    adapters.save(tmp_path / "adapter", model)
    again = base(**FAMILIES[family])
    adapters.load(tmp_path / "adapter", again)
    assert [name for name, _ in lora.layers(again)] == names
    np.testing.assert_array_equal(logits(again), logits(model))
    assert abs(logits(again) - logits(base(**FAMILIES[family]))).max() > 1e-3
    with pytest.raises(ValueError, match="'layers' must be names of layers"):
        lora.add(base(), 2, layers=["blocks.9.mlp.down"])


def test_a_huge_rank_allocates_nothing(tmp_path):
    """Catches matrices allocated by the rank in a file before its tensors are checked."""
    adapters.save(tmp_path / "adapter", adapted())
    config(tmp_path / "adapter", r=10**8)
    model = base()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="has shape"):
            adapters.load(tmp_path / "adapter", model)
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()
