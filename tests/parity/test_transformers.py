"""Model directories against transformers: the same logits, whichever side has written the directory.

Tolerance: both sides compute in float32, with rounding errors of 2^-24 relative to the terms of each sum. A logit
depends on about ten such sums per layer, each with an error of about sqrt(length) roundings. For the widths and depths
here that is about 100 roundings relative to the largest logit: 100 x 2^-24 = 6e-6. A single tensor mapped wrongly
changes the first digit of the logits.
"""

import os

import numpy as np
import pytest

import tinygpt
from tinygpt import GPT, GPTConfig
from tinygpt.files.hf import WEIGHTS
from tinygpt.files.weights import TensorFile

from .conftest import require

os.environ["HF_HUB_OFFLINE"] = "1"  # before the import of transformers: no test needs the network
torch = require("torch")
transformers = require("transformers")
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

# transformers and torch raise deprecation warnings. In all other tests warnings are errors.
pytestmark = pytest.mark.filterwarnings("default")

GPT2 = {"vocab_size": 37, "block_size": 23, "n_layer": 3, "n_head": 3, "n_embd": 33}
LLAMA = {
    **{"vocab_size": 41, "block_size": 29, "n_layer": 2, "n_head": 6, "n_embd": 36, "bias": False},
    **{"position": "rope", "norm": "rmsnorm", "activation": "swiglu"},
}
OURS = {
    "gpt2": GPT2,
    "gpt2 untied": {**GPT2, "tie_embeddings": False},
    "gpt2 no bias": {**GPT2, "bias": False},
    "gpt2 odd mlp, eps, dropout": {**GPT2, "ffn_dim": 51, "norm_eps": 0.03, "dropout": 0.2},
    "gpt2 one head, one layer": {**GPT2, "n_head": 1, "n_layer": 1, "n_embd": 7},
    "llama": LLAMA,
    "llama tied": {**LLAMA, "tie_embeddings": True},
    "llama untied": {**LLAMA, "tie_embeddings": False},
    "llama grouped": {**LLAMA, "n_kv_head": 2},
    "llama multi-query, untied": {**LLAMA, "n_kv_head": 1, "tie_embeddings": False},
    "llama odd mlp, base, eps, dropout": {**LLAMA, "ffn_dim": 53, "rope_theta": 77.0, "norm_eps": 0.03, "dropout": 0.2},
    "llama head of 2": {**LLAMA, "n_head": 5, "n_embd": 10},
}
TOLERANCE = 1e-5


def filled(config):
    """A model with all parameters distinct, because fresh biases are all 0 and norms all 1 and would hide a swap."""
    model, rng = GPT(config), np.random.default_rng(7)
    for name, parameter in model.named_parameters():
        values = rng.standard_normal(parameter.shape, np.float32)
        parameter.data = 1 + values / 4 if ".norm" in f".{name}" and "weight" in name else values / 4
    return model


def tokens(config, batch=2):
    return np.random.default_rng(3).integers(0, config.vocab_size, (batch, config.block_size))


def their_logits(model, ids):
    with torch.no_grad():
        return model.eval()(torch.from_numpy(ids)).logits.float().numpy()


def assert_equal(ours, theirs):
    assert np.abs(theirs).max() > 0.5  # otherwise any difference would be within the bound
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE * np.abs(theirs).max())


def our_logits(model, ids):
    with tinygpt.no_grad():
        return model(ids).data


def randomise(model):
    """Fill a model of transformers with random weights, as `filled` does."""
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.25)
            if parameter.ndim == 1 and "bias" not in name:
                parameter.add_(1)
    return model


@pytest.mark.parametrize("options", OURS.values(), ids=OURS)
def test_transformers_reads_what_is_written_here(tmp_path, options):
    """Catches a swapped or untransposed tensor, fused parts in the wrong order, and an ignored config field."""
    model = filled(GPTConfig(**options))
    tinygpt.save(tmp_path, model)
    kind = transformers.GPT2LMHeadModel if model.config.position == "learned" else transformers.LlamaForCausalLM
    theirs, report = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report  # no missing and no unexpected tensor
    assert theirs.config.bos_token_id is None
    assert theirs.config.eos_token_id is None
    assert theirs.dtype == torch.float32
    ids = tokens(model.config)
    assert_equal(our_logits(model, ids), their_logits(theirs, ids))


def gpt2_config(**options):
    ids = {"bos_token_id": 1, "eos_token_id": 1}
    return transformers.GPT2Config(vocab_size=31, n_positions=19, n_embd=28, n_layer=2, n_head=4, **ids, **options)


def llama_config(**options):
    sizes = {"vocab_size": 31, "hidden_size": 24, "intermediate_size": 45, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 6, "max_position_embeddings": 19}
    return transformers.LlamaConfig(**sizes, **heads, **options)


THEIRS = {
    "gpt2": lambda: transformers.GPT2LMHeadModel(gpt2_config()),
    "gpt2 odd mlp, eps": lambda: transformers.GPT2LMHeadModel(gpt2_config(n_inner=51, layer_norm_epsilon=0.03)),
    "gpt2 untied": lambda: transformers.GPT2LMHeadModel(gpt2_config(tie_word_embeddings=False)),
    "llama": lambda: transformers.LlamaForCausalLM(llama_config()),
    "llama grouped, tied": lambda: transformers.LlamaForCausalLM(
        llama_config(num_key_value_heads=2, tie_word_embeddings=True)
    ),
    "llama base, eps": lambda: transformers.LlamaForCausalLM(
        llama_config(rms_norm_eps=0.03, rope_parameters={"rope_type": "default", "rope_theta": 77.0})
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("make", THEIRS.values(), ids=THEIRS)
def test_what_transformers_writes_is_read_here(tmp_path, make, dtype):
    """Catches an unknown tensor name, a different default, and a wrong conversion of 16-bit floats."""
    theirs = randomise(make())
    theirs.to(getattr(torch, dtype)).save_pretrained(tmp_path)
    # Load again instead of converting to float32 in place, which would leave rotary frequencies rounded to 16 bits.
    theirs = type(theirs).from_pretrained(tmp_path, dtype=torch.float32)
    ours, tokenizer = tinygpt.load(tmp_path)
    assert tokenizer is None
    ids = tokens(ours.config)
    assert_equal(our_logits(ours, ids), their_logits(theirs, ids))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_bare_model_is_read(tmp_path, family, dtype):
    """Catches tensor names accepted only with the prefix "transformer." or "model.", which some files lack."""
    whole = randomise(THEIRS["gpt2" if family == "gpt2" else "llama grouped, tied"]()).to(getattr(torch, dtype))
    bare = whole.transformer if family == "gpt2" else whole.model
    bare.save_pretrained(tmp_path)
    assert not any(name.startswith(("transformer.", "model.")) for name in TensorFile(tmp_path / WEIGHTS).entries)
    ours, _ = tinygpt.load(tmp_path)
    ids = tokens(ours.config)
    again = type(whole).from_pretrained(tmp_path, dtype=torch.float32)
    assert_equal(our_logits(ours, ids), their_logits(again, ids))


def test_other_rotary_embeddings_are_refused(tmp_path):
    """Catches a scaled rotary embedding that is ignored, which would silently change the logits."""
    scaled = {"rope_type": "linear", "rope_theta": 77.0, "factor": 2.0}
    transformers.LlamaForCausalLM(llama_config(rope_parameters=scaled)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"config\.json: 'rope_parameters\.rope_type' must be 'default', .*'linear'"):
        tinygpt.load(tmp_path)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_auto_tokenizer_gives_the_same_ids(tmp_path, family):
    """Catches a directory read with GPT-2's or Llama's tokenizer, which drop spaces or add tokens."""
    from tinygpt.tokenizers import CharTokenizer

    text = "def f(x):\n\treturn  x   # \u00e9\u65e5\u672c \U0001f600 <|endoftext|> \r\n  two  \n\n "
    tokenizer = CharTokenizer.train("def f(x):\n\treturn x  # \u00e9 <|endoftext|>")
    options = OURS[family] | {"vocab_size": tokenizer.vocab_size}
    tinygpt.save(tmp_path, GPT(GPTConfig(**options)), tokenizer)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.model_max_length == options["block_size"]
    assert not theirs.all_special_ids
    for piece in (text, " a", "  ", "\n", "<|endoftext|>"):
        ids = theirs(piece, verbose=False)["input_ids"]
        assert ids == tokenizer.encode(piece).tolist()
        assert tokenizer.eot_id not in ids
        assert theirs.decode(ids) == piece


def test_a_saved_model_generates_there(tmp_path):
    """Catches a directory whose token ids or context length break generate() of transformers."""
    from tinygpt.tokenizers import CharTokenizer

    tokenizer = CharTokenizer.train("some text")
    model = filled(GPTConfig(vocab_size=tokenizer.vocab_size, block_size=16, n_embd=16))
    tinygpt.save(tmp_path, model, tokenizer)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
    assert theirs.config.eos_token_id == theirs.config.bos_token_id == tokenizer.eot_id
    prompt = np.asarray([tokenizer.encode("some")], np.int64)
    given = {"attention_mask": torch.ones(prompt.shape), "pad_token_id": tokenizer.eot_id}
    out = theirs.generate(torch.from_numpy(prompt), max_new_tokens=8, do_sample=False, **given).numpy()[0]
    ours = model.generate(prompt[0], max_new_tokens=8, temperature=0)
    assert np.array_equal(ours[: len(out)], out)
