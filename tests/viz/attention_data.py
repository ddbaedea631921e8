"""Models and prompts for the tests of the attention page, and the way back from a page to its data."""

import base64

import numpy as np
from gpt_reference import CONFIGS

from tinygpt import GPT, GPTConfig
from tinygpt.tokenizers import CharTokenizer

from .page_data import json_of

# Text that must stay text: markup, quotes, formulas, line separators, characters that turn or hide text.
HOSTILE = "</script><script>hacked=1</script>\"'&<!--\u2028\u202e\x00\t=1+\ud7ff\ufeffא\n"
TOKENIZER = CharTokenizer.train(HOSTILE + "def main(x):\n    return main(x)\n")


def spread(name="gpt2", **changes):
    """A model whose weights are of order 1, so that every head looks somewhere else."""
    config = GPTConfig(**CONFIGS[name] | {"vocab_size": TOKENIZER.vocab_size, "block_size": 80} | changes)
    model = GPT(config, seed=1)
    rng = np.random.default_rng(1)
    for parameter in model.parameters():
        parameter.data = parameter.mean + 0.4 * rng.standard_normal(parameter.shape)
    return model


def read_back(text):
    """The data of a page, and its weights as (L, H, T, T)."""
    data = json_of(text)
    L, H, T = data["layers"], data["heads"], len(data["tokens"])
    weights = np.zeros((L, H, T, T), np.float32)
    triangles = np.frombuffer(base64.b64decode(data["weights"]), "<f4")
    weights[..., *np.tril_indices(T)] = triangles.reshape(L, H, T * (T + 1) // 2)
    return data, weights
