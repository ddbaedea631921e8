"""Model directories: they read back bit for bit, and variants found in real files are read."""

import itertools
import json
import os
import stat

import numpy as np
import pytest
import safetensors.numpy as peer

import tinygpt
from tinygpt import GPT, GPTConfig
from tinygpt.files import config as config_file
from tinygpt.files import names, weights

CHOICES = {
    "position": ("learned", "rope"),
    "norm": ("layernorm", "rmsnorm"),
    "activation": ("gelu", "swiglu"),
    "n_kv_head": (None, 2),
    "bias": (True, False),
    "tie_embeddings": (True, False),
}
MIXES = [dict(zip(CHOICES, mix, strict=True)) for mix in itertools.product(*CHOICES.values())]
SMALL = {"vocab_size": 11, "block_size": 7, "n_layer": 2, "n_head": 4, "n_embd": 24}
GPT2 = GPTConfig(**SMALL)
LLAMA = GPTConfig(**SMALL, position="rope", norm="rmsnorm", activation="swiglu", bias=False, n_kv_head=2)


def filled(config):
    """A model with all values distinct, because fresh biases are all 0 and norms all 1 and would hide a swap."""
    model, rng = GPT(config), np.random.default_rng(5)
    for parameter in model.parameters():
        parameter.data = rng.standard_normal(parameter.shape, np.float32)
    return model


def assert_same(found, model):
    assert config_file.canonical(found.config) == config_file.canonical(model.config)
    wanted = dict(model.named_parameters())
    assert dict(found.named_parameters()).keys() == wanted.keys()
    for name, parameter in found.named_parameters():
        assert np.array_equal(parameter.data.view(np.uint32), wanted[name].data.view(np.uint32)), name


def logits(model):
    with tinygpt.no_grad():
        return model(np.arange(14).reshape(2, 7) % 11).data


def rewrite(folder, change):
    """Change the tensors of a directory, and write them with the safetensors library."""
    tensors = peer.load_file(folder / "model.safetensors")
    peer.save_file(change(tensors), folder / "model.safetensors")


def set_fields(folder, remove=(), **fields):
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in {**content, **fields}.items() if k not in remove}))


@pytest.mark.parametrize("mix", MIXES, ids=lambda mix: "-".join(map(str, mix.values())))
def test_round_trip(tmp_path, mix):
    """Catches an option missing from config.json, and a parameter lost, swapped or transposed once."""
    model = filled(GPTConfig(**SMALL, **mix, dropout=0.25, norm_eps=3e-4))
    tinygpt.save(tmp_path, model)
    found, tokenizer = tinygpt.load(tmp_path)
    assert tokenizer is None
    assert_same(found, model)
    assert np.array_equal(logits(found), logits(model))


@pytest.mark.parametrize(
    "options",
    [
        {"ffn_dim": 37},
        {"ffn_dim": 37, "activation": "swiglu"},
        {"rope_theta": 77.5, "position": "rope"},
        {**vars(LLAMA), "ffn_dim": 37, "rope_theta": 77.5},
    ],
)
def test_round_trip_of_sizes_and_bases(tmp_path, options):
    """Catches a width or RoPE base replaced by its default."""
    model = filled(GPTConfig(**{**SMALL, **options}))
    tinygpt.save(tmp_path, model)
    assert_same(tinygpt.load(tmp_path)[0], model)


@pytest.mark.parametrize("config", [GPT2, GPTConfig(vocab_size=5), GPTConfig(vocab_size=5, position="rope")])
def test_defaults_come_back_as_defaults(tmp_path, config):
    """Catches None in a GPTConfig read back as a number, which makes equal models have unequal configs."""
    tinygpt.save(tmp_path, GPT(config))
    assert tinygpt.load(tmp_path)[0].config == config


@pytest.mark.parametrize("mix", MIXES, ids=lambda mix: "-".join(map(str, mix.values())))
def test_names_and_shapes_are_those_of_the_model(mix):
    """Catches a parameter missing from the table of shapes, which would be left out of every file."""
    config = GPTConfig(**SMALL, **mix)
    assert list(names.parameters(config)) == [(name, p.shape) for name, p in GPT(config).named_parameters()]


@pytest.mark.parametrize("mix", MIXES, ids=lambda mix: "-".join(map(str, mix.values())))
def test_family(mix):
    """Catches a combination of options saved as a family that would compute something else."""
    config = GPTConfig(**SMALL, **mix)
    kind = tuple(mix[name] for name in ("position", "norm", "activation"))
    gpt2 = kind == ("learned", "layernorm", "gelu") and mix["n_kv_head"] is None
    llama = kind == ("rope", "rmsnorm", "swiglu") and not mix["bias"]
    assert config_file.family(config) == ("gpt2" if gpt2 else "llama" if llama else "tinygpt")


def test_the_safetensors_library_reads_what_is_written(tmp_path):
    """Catches a transposed view written in memory order, and a GPT-2 weight that is not (in, out)."""
    model = filled(GPT2)
    tinygpt.save(tmp_path, model)
    found = peer.load_file(tmp_path / "model.safetensors")
    block = model.blocks[1]
    assert np.array_equal(found["transformer.h.1.attn.c_attn.weight"], block.attn.qkv.weight.data.T)
    assert np.array_equal(found["transformer.h.1.mlp.c_proj.bias"], block.mlp.down.bias.data)
    assert np.array_equal(found["transformer.wte.weight"], model.wte.weight.data)
    assert "lm_head.weight" not in found


def test_a_gpt2_without_biases_has_zero_biases_on_disk(tmp_path):
    """Catches missing biases, which other readers would fill at random, and zeros that become parameters."""
    model = filled(GPTConfig(**SMALL, bias=False))
    tinygpt.save(tmp_path, model)
    biases = {k: v for k, v in peer.load_file(tmp_path / "model.safetensors").items() if k.endswith("bias")}
    assert len(biases) == 6 * 2 + 1  # two norms and four projections per block, and the final norm
    assert not any(bias.any() for bias in biases.values())
    assert json.loads((tmp_path / "config.json").read_text())["tinygpt"] == {"bias": False}


@pytest.mark.parametrize("config", [GPT2, LLAMA, GPTConfig(**SMALL, position="rope")], ids=config_file.family)
def test_token_ids_are_always_written(config):
    """Catches a missing key, for which transformers uses 50256 or 1 whatever the vocabulary."""
    for start_id, end_ids, written in ((None, (), None), (10, [10], 10), (3, {9, 5}, [5, 9])):
        content = json.loads(config_file.to_bytes(config, start_id, end_ids))
        assert (content["bos_token_id"], content["eos_token_id"]) == (start_id, written)


@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=config_file.family)
def test_tensor_names_without_prefix(tmp_path, config):
    """Catches a bare model that is refused, such as the first GPT-2 on the hub."""
    model = filled(config)
    tinygpt.save(tmp_path, model)
    prefix = names.PREFIX[config_file.family(config)]
    rewrite(tmp_path, lambda tensors: {name.removeprefix(prefix): array for name, array in tensors.items()})
    assert_same(tinygpt.load(tmp_path)[0], model)


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_masks_of_gpt2_are_ignored(tmp_path, prefix):
    """Catches real files that are refused, or their mask read as a bias. A mask may have any type."""
    model = filled(GPT2)
    tinygpt.save(tmp_path, model)

    def change(tensors):
        tensors = {prefix + name.removeprefix("transformer."): array for name, array in tensors.items()}
        for i in range(2):
            tensors[f"{prefix}h.{i}.attn.bias"] = np.tri(7, dtype=[np.uint8, bool][i]).reshape(1, 1, 7, 7)
            tensors[f"{prefix}h.{i}.attn.masked_bias"] = np.array(-1e4, np.float32)
        return tensors

    rewrite(tmp_path, change)
    assert_same(tinygpt.load(tmp_path)[0], model)


def test_rotary_frequencies_of_llama_are_ignored(tmp_path):
    """Catches older files that are refused for storing the rotary frequencies, which follow from the base."""
    model = filled(LLAMA)
    tinygpt.save(tmp_path, model)
    extra = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": np.ones(3, np.float32) for i in range(2)}
    rewrite(tmp_path, lambda tensors: {**tensors, **extra})
    assert_same(tinygpt.load(tmp_path)[0], model)


@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=config_file.family)
def test_a_tied_head_may_be_repeated(tmp_path, config):
    """Catches a refused file that has a tied weight under both names, as some writers make it."""
    model = filled(config)
    tinygpt.save(tmp_path, model)
    rewrite(tmp_path, lambda tensors: {**tensors, "lm_head.weight": model.wte.weight.data})
    assert_same(tinygpt.load(tmp_path)[0], model)


@pytest.mark.parametrize(
    ("fields", "base"),
    [
        ({}, 10000.0),
        ({"rope_theta": 77}, 77.0),
        ({"rope_parameters": {"rope_theta": 77.5, "rope_type": "default"}}, 77.5),
        ({"rope_theta": 77.5, "rope_parameters": {"rope_theta": 77.5}}, 77.5),
        ({"rope_theta": 77.5, "rope_parameters": None, "rope_scaling": None}, 77.5),
        ({"rope_theta": 77.5, "rope_scaling": {"type": "default"}}, 77.5),
    ],
)
def test_every_field_for_the_rotary_base(tmp_path, fields, base):
    """Catches an ignored RoPE base, which makes every logit wrong."""
    tinygpt.save(tmp_path, filled(LLAMA))
    set_fields(tmp_path, remove={"rope_theta"} - fields.keys(), **fields)
    assert tinygpt.load(tmp_path)[0].config.rope_theta == base


def test_defaults_of_transformers_for_fields_left_out(tmp_path):
    """Catches our own defaults in place of transformers', such as untied embeddings and 1e-6 in a Llama."""
    tinygpt.save(tmp_path / "llama", filled(GPTConfig(**{**vars(LLAMA), "n_kv_head": None, "tie_embeddings": False})))
    optional = {"head_dim", "hidden_act", "rms_norm_eps", "attention_bias", "mlp_bias", "tie_word_embeddings"}
    set_fields(tmp_path / "llama", remove={*optional, "num_key_value_heads"})
    llama = tinygpt.load(tmp_path / "llama")[0].config
    assert (llama.norm_eps, llama.tie_embeddings, llama.kv_heads) == (1e-6, False, 4)
    tinygpt.save(tmp_path / "gpt2", filled(GPT2))
    optional = {"n_inner", "activation_function", "layer_norm_epsilon", "resid_pdrop", "embd_pdrop"}
    set_fields(tmp_path / "gpt2", remove={*optional, "tie_word_embeddings"})
    gpt2 = tinygpt.load(tmp_path / "gpt2")[0].config
    assert (gpt2.norm_eps, gpt2.dropout, gpt2.tie_embeddings, gpt2.ffn_width) == (1e-5, 0.1, True, 96)


def test_float16_weights(tmp_path):
    """Catches float16 refused or misread. NumPy's own conversion is exact."""
    model = filled(GPT2)
    tinygpt.save(tmp_path, model)
    rewrite(tmp_path, lambda tensors: {name: array.astype(np.float16) for name, array in tensors.items()})
    found = dict(tinygpt.load(tmp_path)[0].named_parameters())
    for name, parameter in model.named_parameters():
        assert np.array_equal(found[name].data, parameter.data.astype(np.float16).astype(np.float32)), name


def test_every_finite_bfloat16(tmp_path):
    """Catches a lost sign, exponent or subnormal: every bit pattern is compared with the definition.

    With sign s, 8-bit exponent e and 7-bit fraction f, the value is (-1)^s 2^(e-127) (1 + f/128), or (-1)^s 2^-126
    f/128 for e = 0.
    """
    bits = np.arange(2**16, dtype=np.uint32)
    sign, exponent, fraction = bits >> 15, (bits >> 7) & 255, bits & 127
    finite = exponent < 255
    value = np.ldexp((exponent > 0) + fraction / 128, np.maximum(exponent, 1).astype(int) - 127)
    wanted = np.where(sign == 1, -value, value)[finite]
    data = bits[finite].astype("<u2").tobytes()
    header = json.dumps({"x": {"dtype": "BF16", "shape": [len(wanted)], "data_offsets": [0, len(data)]}}).encode()
    (tmp_path / "x").write_bytes(len(header).to_bytes(8, "little") + header + data)
    found = weights.TensorFile(tmp_path / "x").read("x")
    assert np.array_equal(found, wanted)
    assert np.array_equal(np.signbit(found), np.signbit(wanted))


def test_data_at_an_unaligned_offset(tmp_path):
    """Catches a reader that needs the header to end at a multiple of four, which the format does not require."""
    values = np.arange(3, dtype="<f4")
    for padding in range(4):
        header = json.dumps({"x": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}).encode() + b" " * padding
        (tmp_path / "x").write_bytes(len(header).to_bytes(8, "little") + header + values.tobytes())
        assert np.array_equal(weights.TensorFile(tmp_path / "x").read("x"), values)


def test_any_strides_are_written(tmp_path):
    """Catches memory written in storage order, ignoring the strides of a view."""
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    views = {"t": base.T, "rows": base[1:3], "columns": base[:, 2:4], "back": base[::-1], "none": base[:0]}
    weights.write(tmp_path / "x", views.items(), {})
    found = peer.load_file(tmp_path / "x")
    assert all(np.array_equal(found[name], view) for name, view in views.items())


def test_weights_have_the_permissions_of_any_new_file(tmp_path):
    """Catches the mode 0600 that the library sets, which makes a model unreadable for others."""
    (tmp_path / "plain").write_text("x")
    weights.write(tmp_path / "x", [("x", np.ones(3, np.float32))], {})
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "x")}
    assert modes["x"] == modes["plain"]


def test_the_final_file_is_synced(tmp_path, monkeypatch):
    """Catches a missing sync, and a sync of a file that the library then replaces."""
    synced = set()
    monkeypatch.setattr(os, "fsync", lambda handle: synced.add(os.fstat(handle).st_ino))
    weights.write(tmp_path / "x", [("x", np.ones(3, np.float32))], {})
    assert (tmp_path / "x").stat().st_ino in synced


def test_weights_that_cannot_be_written(tmp_path):
    """Catches the library's own exception class, which no caller expects, and an error without the file name."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match=r"too large: '\S*x'$") as caught:
            weights.write(tmp_path / "x", [("x", np.ones(1000, np.float32))], {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    with pytest.raises(FileExistsError, match="x"):
        weights.write(tmp_path / "x", [], {})
    with pytest.raises(FileNotFoundError, match="nowhere"):
        weights.write(tmp_path / "nowhere" / "x", [], {})
