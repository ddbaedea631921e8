"""Adapters written by peft for models of transformers: the same logits, or an error that names the option."""

import json
import os

import numpy as np
import pytest

import tinygpt
from tinygpt import lora
from tinygpt.files import adapters

from .conftest import require

os.environ["HF_HUB_OFFLINE"] = "1"  # before the import of transformers: no test needs the network
torch = require("torch")
transformers = require("transformers")
peft = require("peft")
transformers.utils.logging.set_verbosity_error()

pytestmark = pytest.mark.filterwarnings("default")

GPT2_LAYERS = ["c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"]
LLAMA_LAYERS = ["o_proj", "down_proj"]
IDS = np.arange(15)[None] * 7 % 101


def gpt2():
    sizes = {"vocab_size": 101, "n_positions": 19, "n_embd": 28, "n_layer": 3, "n_head": 4}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=1, eos_token_id=1))


def llama():
    sizes = {"vocab_size": 101, "hidden_size": 24, "intermediate_size": 45, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 19}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads))


def saved(folder, make, layers, **options):
    """Save a base model and adapters with peft, and return peft's logits after loading them again."""
    torch.manual_seed(5)
    model = make()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.25)
    model.save_pretrained(folder / "base")
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=layers, task_type="CAUSAL_LM", **options)
    adapted = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter) / 8)
    adapted.save_pretrained(folder / "adapter")
    again = peft.PeftModel.from_pretrained(type(model).from_pretrained(folder / "base"), folder / "adapter").eval()
    with torch.no_grad():
        return again(torch.from_numpy(IDS)).logits[0].numpy()


def ours(folder):
    model = tinygpt.load(folder / "base")[0]
    adapters.load(folder / "adapter", model)
    return model, model(IDS).data[0]


READ = {
    "plain": {},
    "dropout": {"lora_dropout": 0.1},
    "gaussian": {"init_lora_weights": "gaussian"},
    "random B": {"init_lora_weights": False},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "rank-stabilised": {"use_rslora": True},
    "one block": {"layers_to_transform": [1]},
    "two blocks": {"layers_to_transform": [0, 2]},
}


@pytest.mark.parametrize("options", READ.values(), ids=READ)
@pytest.mark.parametrize(("make", "layers"), [(gpt2, GPT2_LAYERS), (gpt2, ["c_attn"]), (llama, LLAMA_LAYERS)])
def test_the_logits_are_those_of_peft(tmp_path, make, layers, options):
    """Catches a wrong scale, and an adapter applied to the wrong layer or block."""
    wanted = saved(tmp_path, make, layers, **options)
    model, found = ours(tmp_path)
    assert abs(found - wanted).max() < 1e-5 * abs(wanted).max()
    assert abs(tinygpt.load(tmp_path / "base")[0](IDS).data[0] - wanted).max() > 1e-2
    # The adapters that tinygpt saves must give the same logits in peft.
    adapters.save(tmp_path / "again", model)
    base = type(make()).from_pretrained(tmp_path / "base")
    again = peft.PeftModel.from_pretrained(base, tmp_path / "again").eval()
    with torch.no_grad():
        logits = again(torch.from_numpy(IDS)).logits[0].numpy()
    assert abs(logits - wanted).max() < 1e-5 * abs(wanted).max()


REFUSED = {
    "pissa": ({"init_lora_weights": "pissa"}, "'init_lora_weights'"),
    "olora": ({"init_lora_weights": "olora"}, "'init_lora_weights'"),
    "alora": ({"alora_invocation_tokens": [3, 4]}, "'alora_invocation_tokens'"),
    "dora": ({"use_dora": True}, "'use_dora'"),
    "ranks": ({"rank_pattern": {"c_fc": 2}}, "'rank_pattern'"),
    "bias": ({"bias": "lora_only"}, "'bias'"),
    "bias of B": ({"lora_bias": True}, "'lora_bias'"),
    "whole modules": ({"modules_to_save": ["ln_f"]}, "'modules_to_save'"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_unsupported_options_are_refused(tmp_path, kind):
    """Catches an option of peft that changes the logits but is ignored."""
    options, message = REFUSED[kind]
    # The olora initialisation of peft fails on the layers of GPT-2.
    saved(tmp_path, *((llama, LLAMA_LAYERS) if kind == "olora" else (gpt2, GPT2_LAYERS)), **options)
    model = tinygpt.load(tmp_path / "base")[0]
    with pytest.raises(ValueError, match=f"adapter_config.json: {message} must be "):
        adapters.load(tmp_path / "adapter", model)
    assert lora.of(model) is None


def test_every_option_of_peft_is_in_the_table(tmp_path):
    """Catches an option of a newer peft that is missing from the table, and therefore refused."""
    config = peft.LoraConfig(r=2, target_modules=["c_attn"])
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert set(written) <= adapters.TABLE.names()
