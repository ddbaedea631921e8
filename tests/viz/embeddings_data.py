"""A vocabulary of hostile tokens, a model for it, and a reader for the data of an embeddings page."""

import base64

import numpy as np

from tinygpt import GPT, GPTConfig
from tinygpt.tokenizers.base import SEPARATOR, Tokenizer, visible

from .page_data import json_of

HOSTILE = [
    "def", " return", "struct", "name", "_x1", "==", "(", "\n", "  ", "42", "0x1f",
    "</script><script>window.bad = 1</script>", "<img src=x onerror='window.bad = 1'>", "<b>", "</b>", "<!--", "&lt;",
    "{{plotly}}", "$x$", "%{x}", "=cmd()", "+1", "@a", "a,b", '"', "'", "`", "\\", "\x00", "\x1b[31m", "\u202eabc",
    "\u2028", "\u2029", "\ufeff", "\u0301", "שלום", "日本", "é", "\U0001f600",
]  # fmt: skip


class Words(Tokenizer):
    """A tokenizer with one token per word, the separator last. It can display tokens, not encode text."""

    def __init__(self, words):
        self.words, self.vocab_size, self.eot_id = words, len(words) + 1, len(words)

    def encode(self, text):
        raise NotImplementedError

    decode = decoder = save = encode

    def token_text(self, token):
        return SEPARATOR if token == self.eot_id else visible(self.words[token])

    def token_bytes(self, token):
        return b"" if token == self.eot_id else self.words[token].encode()


def model_for(tokenizer, width=8, **changes):
    config = GPTConfig(vocab_size=tokenizer.vocab_size, block_size=12, n_layer=1, n_head=1, n_embd=width, **changes)
    return GPT(config, seed=3)


def data_of(page):
    """Read the data that the page's script uses, with number lists as arrays."""
    data = json_of(page)
    for view in data["views"]:
        n = len(view["labels"])
        for name, dtype in (("points", "<f4"), ("ids", "<i4"), ("cosines", "<f4"), ("classes", "u1")):
            if view[name] is not None:
                values = np.frombuffer(base64.b64decode(view[name]), dtype)
                view[name] = values if name == "classes" else values.reshape(n, -1)
    return data
