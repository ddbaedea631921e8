"""Mutated files of a model directory: each is read or refused with a documented error, in bounded memory."""

import json
import random
import tracemalloc

import numpy as np
import pytest

import tinygpt
from tinygpt import GPT, GPTConfig, lora
from tinygpt.files import adapters
from tinygpt.tokenizers import BPETokenizer
from tinygpt.tokenizers.special import Roles

MUTANTS = 60
MOST_MEMORY = 24e6  # bytes; the model and its files together take less than 1 MB
VALUES = [None, True, -1, 0, 1, 2, 3, 10**9, 2**31 - 1, 2**63, 10**100, 0.5, 1e300, "", "x", [], {}, [[[]]], {"a": {}}]
FILES = {
    "config.json": None,
    "generation_config.json": {"eos_token_id": [1, 2], "temperature": 1.0},
    "tokenizer.json": None,
    "tokenizer_config.json": None,
    "special_tokens_map.json": {"eos_token": {"content": "<e>", "lstrip": False}, "additional_special_tokens": ["<x>"]},
    "added_tokens.json": {"<x>": 259, "<e>": 260},
    "adapter/adapter_config.json": None,
    "model.safetensors": None,
    "adapter/adapter_model.safetensors": None,
}
SIZES = {"vocab_size": 270, "block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 8}


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def folder(request, tmp_path_factory):
    llama = {"position": "rope", "norm": "rmsnorm", "activation": "swiglu", "bias": False}
    model = GPT(GPTConfig(**SIZES, **(llama if request.param == "llama" else {})))
    lora.add(model, 2)
    learned = BPETokenizer.train("ab ab", 259, special_tokens=["<s>"])
    parts = learned.parts
    roles = Roles("<s>", "<s>", chat_template="{{ bos_token }}", end_ids=frozenset([5]))
    tokenizer = BPETokenizer(parts.vocab, parts.merges, "gpt2", parts.special_tokens, roles=roles)
    made = tmp_path_factory.mktemp("mutated")
    tinygpt.save(made, model, tokenizer)
    for name, content in FILES.items():
        if content is not None:
            (made / name).write_text(json.dumps(content))
    loaded, known = tinygpt.load(made)
    adapters.load(made / "adapter", loaded)
    assert {"<e>", "<x>"} <= known.special_tokens.keys()
    return made


def changed(value, rng):
    """A JSON value with one random part replaced, renamed or repeated."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        made, key = dict(value), rng.choice(list(value))
        if rng.random() < 0.2:
            made[key + "x"] = made.pop(key)
        else:
            made[key] = changed(value[key], rng)
        return made
    if isinstance(value, list) and value and rng.random() < 0.8:
        made, i = list(value), rng.randrange(len(value))
        if rng.random() < 0.3:
            return made + made[i : i + 1]
        made[i] = changed(made[i], rng)
        return made
    return rng.choice(VALUES)


def mutant(data, name, rng):
    """The bytes of a file with a random fault in its structure or in a few bytes."""
    if name.endswith(".json") and rng.random() < 0.7:
        return json.dumps(changed(json.loads(data), rng)).encode()
    made = bytearray(data)
    end = len(made) if name.endswith(".json") else min(len(made), 600)  # the header of a tensor file
    for _ in range(rng.randint(1, 3)):
        made[rng.randrange(end)] = rng.randrange(256)
    return bytes(made[: rng.randrange(len(made))] if rng.random() < 0.2 else made)


@pytest.mark.parametrize("name", FILES)
def test_a_mutant_is_read_or_refused(folder, name):
    """Catches an undocumented error, and memory allocated by a stated size before the file's length is checked."""
    file, rng, before = folder / name, random.Random(name), (folder / name).read_bytes()
    read, messages = 0, []
    tracemalloc.start()
    try:
        for number in range(MUTANTS):
            file.write_bytes(mutant(before, name, rng))
            tracemalloc.reset_peak()
            try:
                model, tokenizer = tinygpt.load(folder)
                adapters.load(folder / "adapter", model)
                model(np.zeros((1, 1), np.int32))
                tokenizer.encode("ab <s>", special=True)
                read += 1
            except (ValueError, FileNotFoundError) as error:
                messages.append(str(error))
            assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY, (number, file.read_bytes()[:300])
    finally:
        tracemalloc.stop()
        file.write_bytes(before)
    assert not any("\n" in message for message in messages)
    # Tensor files have checksums, so that none of their mutants is read completely.
    assert read > 0 or name.endswith(".safetensors")
    assert read < MUTANTS or name == "generation_config.json"
