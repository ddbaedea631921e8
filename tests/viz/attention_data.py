"""Models and prompts for the tests of the attention page, and a reader for the data that a page embeds."""

import base64

import numpy as np
from gpt_reference import CONFIGS

from tinygpt import GPT, GPTConfig
from tinygpt.tokenizers import CharTokenizer

from .page_data import json_of

# Text that must be shown literally: markup, quotes, a spreadsheet formula, line separators, and characters that hide or
# reverse the text around them.
HOSTILE = "</script><script>hacked=1</script>\"'&<!--\u2028\u202e\x00\t=1+\ud7ff\ufeffא\n"
TOKENIZER = CharTokenizer.train(HOSTILE + "def main(x):\n    return main(x)\n")


def spread(name="gpt2", **changes):
    """Build a model with weights of order 1, so that every head attends differently."""
    config = GPTConfig(**CONFIGS[name] | {"vocab_size": TOKENIZER.vocab_size, "block_size": 80} | changes)
    model = GPT(config, seed=1)
    rng = np.random.default_rng(1)
    for parameter in model.parameters():
        parameter.data = parameter.mean + 0.4 * rng.standard_normal(parameter.shape)
    return model


def read_back(text):
    """Read the data of a page, with the attention weights as an (L, H, T, T) array."""
    data = json_of(text)
    L, H, T = data["layers"], data["heads"], len(data["tokens"])
    weights = np.zeros((L, H, T, T), np.float32)
    triangles = np.frombuffer(base64.b64decode(data["weights"]), "<f4")
    weights[..., *np.tril_indices(T)] = triangles.reshape(L, H, T * (T + 1) // 2)
    return data, weights
