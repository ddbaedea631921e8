"""Model directories of other programs: their special tokens and fields are kept, and not mixed with a later save."""

import json
import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tinygpt
from tinygpt import GPT, GPTConfig
from tinygpt.generate import sample_text
from tinygpt.ops.attention import rotation_tables
from tinygpt.tokenizers import BPETokenizer

SIZES = {"block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 8}
FAMILIES = {
    "gpt2": {},
    "llama": {"position": "rope", "norm": "rmsnorm", "activation": "swiglu", "bias": False},
}


@pytest.fixture(params=FAMILIES)
def folder(request, tmp_path):
    tokenizer = BPETokenizer.train("ab ab", 258, special_tokens=["<|im_end|>"])
    tinygpt.save(tmp_path / "m", GPT(GPTConfig(vocab_size=264, **SIZES, **FAMILIES[request.param])), tokenizer)
    return tmp_path / "m"


def logits(folder):
    return tinygpt.load(folder)[0](np.arange(16)[None] % 7).data


def change(folder, **fields):
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **fields}))


def test_several_end_tokens_are_kept(folder, tmp_path):
    """Catches a second end token that is lost when the model is saved again."""
    change(folder, eos_token_id=[97, 98])
    (folder / "generation_config.json").write_text('{"eos_token_id": [97, 99]}')
    model, tokenizer = tinygpt.load(folder)
    assert tokenizer.end_ids == {97, 98, 99, tokenizer.eot_id}
    for target in (tmp_path / "again", folder):
        tinygpt.save(target, model, tokenizer)
        assert tinygpt.load(target)[1].end_ids == tokenizer.end_ids
        assert json.loads((target / "config.json").read_text())["eos_token_id"] == sorted(tokenizer.end_ids)


def test_generation_stops_at_every_end_token(folder):
    """Catches generation that continues past the second of two end tokens."""
    model, tokenizer = tinygpt.load(folder)
    drawn = model.generate(tokenizer.encode("ab"), 3, temperature=0)[2:].tolist()
    end = drawn[-1]
    change(folder, eos_token_id=[96, end])
    text = sample_text(*tinygpt.load(folder), "ab", 3, temperature=0)
    assert text == tokenizer.decode(drawn[: drawn.index(end)])
    change(folder, eos_token_id=96)
    assert len(sample_text(*tinygpt.load(folder), "ab", 3, temperature=0)) > len(text)


def test_a_save_removes_the_tokenizer_files_of_the_old_model(folder):
    """Catches special tokens, a template or end ids of a replaced model read into the new one."""
    (folder / "special_tokens_map.json").write_text('{"bos_token": "<x>"}')
    (folder / "added_tokens.json").write_text('{"<y>": 260}')
    (folder / "chat_template.jinja").write_text("old")
    (folder / "generation_config.json").write_text('{"eos_token_id": 5}')
    config = GPTConfig(vocab_size=300, **SIZES)
    tinygpt.save(folder, GPT(config), BPETokenizer.train("cd cd", 258))
    tokenizer = tinygpt.load(folder)[1]
    assert tokenizer.end_ids == {tokenizer.eot_id}
    assert list(tokenizer.special_tokens) == ["<|endoftext|>"]
    assert tokenizer.chat_template is None


def test_a_tied_model_that_stores_the_head_alone(folder):
    """Catches a tied model refused because its one matrix is stored under the name of the head."""
    wanted = logits(folder)
    tensors = load_file(folder / "model.safetensors")
    (name,) = [name for name in tensors if name.endswith(("wte.weight", "embed_tokens.weight"))]
    tensors["lm_head.weight"] = tensors.pop(name)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    np.testing.assert_array_equal(logits(folder), wanted)
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="has no tensor"):
        logits(folder)


def test_float64_weights(folder):
    """Catches weights refused for their type, and a value that becomes infinite in float32."""
    wanted = logits(folder)
    tensors = {name: values.astype(np.float64) for name, values in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    np.testing.assert_array_equal(logits(folder), wanted)
    next(iter(tensors.values()))[:1] = 1e300
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="holds values that are NaN or infinite"):
        logits(folder)


def test_rows_without_a_token_are_never_sampled(folder):
    """Catches an IndexError within a text when a model has more rows than its tokenizer has tokens."""
    model, tokenizer = tinygpt.load(folder)
    assert model.config.vocab_size > tokenizer.vocab_size
    for seed in range(4):  # at this temperature all rows are almost equally likely
        sample_text(model, tokenizer, "ab", 200, temperature=1e3, seed=seed)


def test_a_long_context_allocates_nothing_until_it_is_used(tmp_path):
    """Catches rotary tables allocated for the whole context that a config of a few kilobytes states."""
    config = GPTConfig(vocab_size=264, **SIZES, **FAMILIES["llama"])
    tinygpt.save(tmp_path, GPT(config), BPETokenizer.train("ab ab", 258))
    wanted = logits(tmp_path)
    change(tmp_path, max_position_embeddings=2**20)
    tracemalloc.start()
    try:
        found = logits(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(found, wanted)


def test_grown_rotary_tables_equal_whole_ones(tmp_path):
    """Catches a table too short for a position, and rows that change when it grows."""
    model = GPT(GPTConfig(vocab_size=264, **{**SIZES, "block_size": 5000}, **FAMILIES["llama"]))
    for start, count in ((0, 3), (2040, 20), (4990, 10)):
        cos, sin = model._rotation(start, count)
        whole = rotation_tables(5000, 4, 10000.0)
        assert np.array_equal(cos, whole[0][start : start + count])
        assert np.array_equal(sin, whole[1][start : start + count])


def test_fields_of_models_on_the_hub(folder):
    """Catches real models refused for fields without effect: GPT-2 medium, DistilGPT-2 and SmolLM2."""
    wanted = logits(folder)
    former = {"_num_labels": 1, "xla_device": None, "eos_token_ids": 0, "torchscript": False, "output_past": True}
    if json.loads((folder / "config.json").read_text())["model_type"] == "gpt2":
        former |= {"n_ctx": 16, "n_special": 0, "predict_special_tokens": True, "summary_type": "cls_index"}
    else:
        former |= {"is_llama_config": True, "rope_interleaved": False, "rope_scaling": None, "pretraining_tp": 1}
        former |= {"transformers.js_config": {"dtype": "q4"}}
    change(folder, **former)
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer |= {"vocab_size": 49152, "clean_up_tokenization_spaces": False, "add_prefix_space": False, "errors": "x"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    np.testing.assert_array_equal(logits(folder), wanted)
