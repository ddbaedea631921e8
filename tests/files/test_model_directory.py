"""Model directories: they restore the exact model, and a kill or a damaged file leaves what was there."""

import json
import shutil

import numpy as np
import pytest
from saved_models import OPTIMIZERS, SMALL, TOKENIZER, bits, filled, killed, listing, not_finite, train

import tinygpt
from tinygpt import GPT, GPTConfig
from tinygpt.files import model_directory
from tinygpt.io import atomic
from tinygpt.tokenizers import CharTokenizer


def test_model_and_tokenizer_come_back(tmp_path):
    """Catches a tokenizer that is not saved, and logits that differ by one bit."""
    model = filled()
    tinygpt.save(tmp_path / "new" / "tiny", model, TOKENIZER)
    found, tokenizer = tinygpt.load(tmp_path / "new" / "tiny")
    assert bits(found) == bits(model)
    assert tokenizer.characters == TOKENIZER.characters
    assert listing(tmp_path / "new" / "tiny") == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert json.loads((tmp_path / "new/tiny/config.json").read_text())["eos_token_id"] == TOKENIZER.eot_id
    tokens = np.array([[1, 2, 3]])
    with tinygpt.no_grad():
        assert np.array_equal(found(tokens).data, model(tokens).data)


def test_values_at_the_edges_of_float32_come_back(tmp_path):
    """Catches a lost sign of zero, and a lost subnormal."""
    model = filled()
    tiny = np.finfo(np.float32).smallest_subnormal
    model.wte.weight.data[:5, 0] = [-0.0, tiny, -tiny, np.finfo(np.float32).max, np.finfo(np.float32).min]
    tinygpt.save(tmp_path, model)
    assert bits(tinygpt.load(tmp_path)[0]) == bits(model)


def test_a_loaded_model_does_not_need_its_file(tmp_path):
    """Catches parameters that are views of the file: read-only, or lost with it."""
    model = filled()
    tinygpt.save(tmp_path, model)
    found, _ = tinygpt.load(tmp_path)
    shutil.rmtree(tmp_path)
    assert bits(found) == bits(model)
    optimizer = OPTIMIZERS["AdamW"](found)
    train(found, optimizer, 1)
    assert all(name in ("wte.weight", "wpe.weight") or bits(found)[name] != bits(model)[name] for name in bits(found))


def test_other_files_stay(tmp_path):
    """Catches a run directory that loses its metrics and checkpoints when a better model is saved."""
    (tmp_path / "metrics.jsonl").write_text("{}")
    (tmp_path / "checkpoints").mkdir()
    tinygpt.save(tmp_path, filled(1), TOKENIZER)
    tinygpt.save(tmp_path, filled(2), TOKENIZER)
    assert bits(tinygpt.load(tmp_path)[0]) == bits(filled(2))
    assert listing(tmp_path) == [
        "checkpoints",
        "config.json",
        "metrics.jsonl",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_a_model_with_nan_is_not_saved(tmp_path):
    """Catches the last good model replaced by one with NaN."""
    tinygpt.save(tmp_path, filled(1), TOKENIZER)
    broken = filled(2)
    broken.norm.weight.data[3] = np.nan
    with pytest.raises(ValueError, match=r"\[save\] 'transformer.ln_f.weight' must be finite, got NaN or infinity$"):
        tinygpt.save(tmp_path, broken, TOKENIZER)
    assert bits(tinygpt.load(tmp_path)[0]) == bits(filled(1))
    assert listing(tmp_path) == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


def test_a_tokenizer_must_fit_the_model(tmp_path):
    """Catches a tokenizer with more tokens than the model, and an old tokenizer loaded with a new model."""
    with pytest.raises(ValueError, match=r"\[save\] 'tokenizer' must have at most the model's 260 tokens, got 261"):
        tinygpt.save(tmp_path / "more", filled(), CharTokenizer.train("abcd"))
    assert not (tmp_path / "more").exists()
    tinygpt.save(tmp_path, filled(1), TOKENIZER)
    with pytest.raises(ValueError, match=r"tokenizer\.json: belongs to an earlier save"):
        tinygpt.save(tmp_path, filled(2))
    assert bits(tinygpt.load(tmp_path)[0]) == bits(filled(1))


def test_a_kill_leaves_the_old_model_or_the_new_one(tmp_path):
    """Catches a file written in place, and a rename before all files are complete."""
    old, new = GPT(GPTConfig(**SMALL), seed=1), GPT(GPTConfig(**SMALL), seed=2)
    tinygpt.save(tmp_path, old, TOKENIZER)
    calls, seen = 0, []
    while killed("model", tmp_path, calls):
        found, tokenizer = tinygpt.load(tmp_path)
        seen.append(bits(found) == bits(new))
        assert seen[-1] or bits(found) == bits(old)
        assert tokenizer.characters == TOKENIZER.characters
        calls += 1
        if seen[-1]:
            tinygpt.save(tmp_path, old, TOKENIZER)
    assert not seen[0]
    assert seen[-1]
    assert len(listing(tmp_path)) > 4  # the killed processes have left temporary files
    atomic.remove_leftovers(tmp_path, model_directory.TEMPORARY)
    assert listing(tmp_path) == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


def test_weights_are_loaded_into_an_existing_model(tmp_path):
    """Catches a second model, weights changed before all checks passed, and a different shape accepted."""
    tinygpt.save(tmp_path / "one", filled(1))
    model = filled(2)
    parameters = model.parameters()
    model_directory.load_weights(tmp_path / "one", model)
    assert bits(model) == bits(filled(1))
    assert model.parameters() == parameters
    tinygpt.save(tmp_path / "other", filled(3, n_layer=2))
    with pytest.raises(ValueError, match=r"config\.json: belongs to another model: n_layer is 2, this one has 1"):
        model_directory.load_weights(tmp_path / "other", model)
    not_finite(tmp_path / "one" / "model.safetensors", "transformer.ln_f.bias")
    before = bits(model)
    with pytest.raises(ValueError, match="NaN or infinite"):
        model_directory.load_weights(tmp_path / "one", model)
    assert bits(model) == before


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_a_flipped_bit_of_a_weight_is_detected(tmp_path, dtype, weights):
    """Catches a weight or its stated checksum changed on disk, which no other check can detect."""
    tinygpt.save(tmp_path, filled(), TOKENIZER, dtype)
    file = tmp_path / "model.safetensors"
    whole = file.read_bytes()
    stated = whole.index(b'"sha256":"') + 10
    for place in (len(whole) - 4, len(whole) // 2, stated):
        data = bytearray(whole)
        data[place] ^= 1
        file.write_bytes(data)
        with pytest.raises(ValueError, match=r"model\.safetensors: (is damaged: its content does not match|tensor)"):
            tinygpt.load(tmp_path, weights)
    file.write_bytes(whole)
    tinygpt.load(tmp_path, weights)
