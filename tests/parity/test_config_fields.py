"""The table of config.json fields against transformers: the fields it writes, and their effect on logits."""

import json
import os

import numpy as np
import pytest

import tinygpt
from tinygpt.files import config_tables

from .conftest import require

os.environ["HF_HUB_OFFLINE"] = "1"  # before the import of transformers: no test needs the network
torch = require("torch")
transformers = require("transformers")
transformers.utils.logging.set_verbosity_error()

pytestmark = pytest.mark.filterwarnings("default")

IDS = np.arange(15)[None] * 7 % 101
TABLES = {"gpt2": config_tables.GPT2, "llama": config_tables.LLAMA}


def made(kind, folder):
    """Save a model of transformers with random weights."""
    torch.manual_seed(5)
    if kind == "gpt2":
        sizes = {"vocab_size": 101, "n_positions": 19, "n_embd": 28, "n_layer": 2, "n_head": 4}
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=1, eos_token_id=1))
    else:
        sizes = {"vocab_size": 101, "hidden_size": 24, "intermediate_size": 45, "num_hidden_layers": 2}
        heads = {"num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 19}
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.25)
    model.save_pretrained(folder)
    return folder


def change(folder, **fields):
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **fields}))


def theirs(folder):
    with torch.no_grad():
        return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()(torch.from_numpy(IDS)).logits[0].numpy()


def ours(folder):
    return tinygpt.load(folder)[0](IDS).data[0]


def alike(found, wanted):
    return abs(found - wanted).max() < 1e-5 * abs(wanted).max()


@pytest.mark.parametrize("kind", TABLES)
def test_every_field_that_transformers_writes_is_in_the_table(kind, tmp_path):
    """Catches a field of a newer transformers that is missing from the table, and therefore refused."""
    config = {"gpt2": transformers.GPT2Config, "llama": transformers.LlamaConfig}[kind]()
    assert set(config.to_dict()) <= TABLES[kind].names()
    assert set(json.loads((made(kind, tmp_path) / "config.json").read_text())) <= TABLES[kind].names()


@pytest.mark.parametrize("kind", TABLES)
def test_fields_without_effect_have_none(kind, tmp_path):
    """Catches a field that tinygpt ignores although it changes the logits of transformers."""
    folder = made(kind, tmp_path)
    wanted = theirs(folder)
    content = json.loads((folder / "config.json").read_text())
    others = {bool: lambda value: not value, int: lambda value: value + 1, float: lambda value: value + 0.25}
    changes = {
        name: others[type(value)](value)
        for name, value in content.items()
        if name in TABLES[kind].without_effect and type(value) in others
    }
    assert len(changes) > 5
    change(folder, **changes)
    assert alike(theirs(folder), wanted)
    assert alike(ours(folder), wanted)


HARMLESS = [
    (
        "gpt2",
        {"scale_attn_weights": True, "pruned_heads": {}, "add_cross_attention": False},
    ),
    ("gpt2", {"activation_function": "gelu_pytorch_tanh"}),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 1.0}}),
    ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 1.0, "rope_theta": 10000.0}}),
    ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
    ("llama", {"hidden_act": "swish", "attention_bias": False, "mlp_bias": False}),
]


@pytest.mark.parametrize(("kind", "fields"), HARMLESS)
def test_harmless_values_of_refused_fields(kind, fields, tmp_path):
    """Catches a model refused for field values that change nothing."""
    change(made(kind, tmp_path), **fields)
    assert alike(ours(tmp_path), theirs(tmp_path))


REFUSED = [
    ("gpt2", {"activation_function": "gelu"}),
    ("gpt2", {"scale_attn_weights": False}),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    ("llama", {"hidden_act": "gelu"}),
    ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}}),
]


@pytest.mark.parametrize(("kind", "fields"), REFUSED)
def test_refused_fields_change_the_logits(kind, fields, tmp_path):
    """Catches a value refused although it changes nothing, and one that should be refused but is not."""
    wanted = theirs(made(kind, tmp_path))
    change(tmp_path, **fields)
    assert not alike(theirs(tmp_path), wanted)
    with pytest.raises(ValueError, match=r"config\.json: '"):
        tinygpt.load(tmp_path)
