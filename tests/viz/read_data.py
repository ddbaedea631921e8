"""A model and a text for the tests of the read page, and a reader for the data that a page embeds."""

import base64

import numpy as np

from tinygpt import GPT, GPTConfig
from tinygpt.tokenizers import BPETokenizer

from .attention_data import HOSTILE
from .page_data import json_of

CODE = "def main(x):\n    if x:\n\n        return main(x)\n\treturn '␣ ↵'\n"
TEXT = CODE + HOSTILE + "日本 \U0001f600\n" + CODE
# The hostile text is part of the training text, so that whole tags become tokens.
TOKENIZER = BPETokenizer.train((HOSTILE + CODE) * 3, 330, "code")


def spread(**changes):
    """Build a model whose predictions differ from token to token and from layer to layer."""
    options = {"vocab_size": TOKENIZER.vocab_size, "block_size": 48, "n_layer": 2, "n_head": 2, "n_embd": 16}
    model = GPT(GPTConfig(**options | changes), seed=1)
    rng = np.random.default_rng(1)
    for parameter in model.parameters():
        parameter.data = parameter.mean + 0.4 * rng.standard_normal(parameter.shape)
    return model


def read_back(text):
    """Read the data of a page, with numbers as arrays: (M,), (M, best), and (K, M) for the logit lens."""
    data = json_of(text)
    floats, lens = ("losses", "p"), data["lens"]
    for owner, names in (
        (data, ("tokens", "line", "column", "losses", "ranks", "context", "best", "p")),
        (lens, ("losses", "ranks", "top", "p")),
    ):
        for name in names:
            owner[name] = np.frombuffer(base64.b64decode(owner[name]), "<f4" if name in floats else "<i4")
    M = len(data["losses"])
    data["best"], data["p"] = data["best"].reshape(M, -1), data["p"].reshape(M, -1)
    for name in ("losses", "ranks", "top", "p"):
        lens[name] = lens[name].reshape(len(lens["layers"]), M)
    return data
