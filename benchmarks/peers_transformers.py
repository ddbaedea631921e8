"""Decoding and prefill in transformers: GPT2LMHeadModel with its KV cache, from the same weights."""

from __future__ import annotations

import os
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # set before transformers is imported, so that it downloads nothing

import numpy as np
import torch
import transformers
from inputs import prompt, sample, weights
from jobs import Model
from transformers import GPT2Config, GPT2LMHeadModel
from worker import Built

# Names in tinygpt to names in GPT-2, whose matrices are stored as (in, out).
NAMES = {"norm1": "ln_1", "norm2": "ln_2", "attn.qkv": "attn.c_attn", "attn.out": "attn.c_proj", "mlp.up": "mlp.c_fc",
         "mlp.down": "mlp.c_proj"}  # fmt: skip


def facts(threads: int) -> dict[str, Any]:
    """Return the versions of the libraries."""
    return {"versions": {"transformers": transformers.__version__, "torch": torch.__version__}}


def their_name(name: str) -> str:
    """Return the name in transformers of a parameter of tinygpt."""
    part, _, kind = name.rpartition(".")
    if part.startswith("blocks."):
        _, index, inner = part.split(".", 2)
        return f"transformer.h.{index}.{NAMES[inner]}.{kind}"
    return f"transformer.{'ln_f' if part == 'norm' else part}.{kind}"


def model(sizes: Model) -> GPT2LMHeadModel:
    """Build the model with the weights shared by all contenders."""
    shape = {"n_positions": sizes.context, "n_layer": sizes.layers, "n_head": sizes.heads, "n_embd": sizes.width}
    gpt = GPT2LMHeadModel(GPT2Config(vocab_size=sizes.vocab, bos_token_id=None, eos_token_id=None, **shape)).eval()
    parameters = dict(gpt.named_parameters())
    with torch.no_grad():
        for name, values in weights(sizes):
            theirs = parameters.pop(their_name(name))
            transposed = name.startswith("blocks.") and values.ndim == 2
            theirs.copy_(torch.from_numpy(values.T if transposed else values))
    if parameters:
        raise ValueError(f"parameters without a value: {', '.join(parameters)}")
    return gpt


def build(contender: str, task: dict[str, Any], threads: int) -> Built:
    """Build a job in transformers, with a bare loop over tokens in place of its `generate`, as for the others."""
    torch.set_num_threads(threads)
    sizes, state = Model(**task["model"]), {}
    gpt, tokens = model(sizes), torch.from_numpy(prompt(sizes)).long()

    def read() -> np.ndarray:
        with torch.inference_mode():
            state["out"] = gpt(tokens, use_cache=True, logits_to_keep=1)
        return state["out"].logits[:, -1].numpy()

    def write() -> torch.Tensor:
        out, new = state["out"], []
        with torch.inference_mode():
            for _ in range(task["new_tokens"]):
                new.append(out.logits[:, -1].argmax(-1, keepdim=True))
                out = gpt(new[-1], past_key_values=out.past_key_values, use_cache=True)
        return torch.cat(new, 1)

    check = sample(read())
    if task["kind"] == "prefill":
        return Built(read, check)
    found = write()
    if found.shape != (sizes.batch, task["new_tokens"]) or not 0 <= found.min() <= found.max() < sizes.vocab:
        raise ValueError(f"decoding gave shape {tuple(found.shape)}, or tokens that do not exist")
    return Built(write, check, read)
