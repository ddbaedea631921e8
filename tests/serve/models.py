"""Small models and requests for the tests of the server."""

import queue

import numpy as np

from tinygpt import GPT, GPTConfig
from tinygpt.sampling import Sampler
from tinygpt.serve.sequence import Finished, Piece, Request
from tinygpt.tokenizers import CharTokenizer

TEXT = "def add(a, b):\n    return a + b\n\n\nfor i in range(10):\n    print(add(i, i))\n"
TOKENIZER = CharTokenizer.train(TEXT)
KINDS = {
    "gpt2": {},
    "llama": {"position": "rope", "norm": "rmsnorm", "activation": "swiglu", "bias": False, "n_kv_head": 2},
}


def small(kind="gpt2", weights="float32", seed=1, block_size=96, vocab_size=TOKENIZER.vocab_size):
    """A model whose logits are far apart: 12 times the usual initial weights."""
    size = {"vocab_size": vocab_size, "block_size": block_size, "n_layer": 2, "n_head": 4, "n_embd": 32}
    model = GPT(GPTConfig(**size, **KINDS[kind]), seed=seed)
    for parameter in model.parameters():
        if parameter.decay:
            parameter.data = parameter.data * 12
    if weights != "float32":
        model.pack(weights)
    return model


class Heard:
    """The events of one request, in order."""

    def __init__(self):
        self.events = queue.Queue()
        self.seen = []

    def __call__(self, event):
        self.events.put(event)

    def until_end(self, seconds=30):
        """Wait for the last event and return all of them."""
        while not self.seen or not isinstance(self.seen[-1], Finished):
            self.seen.append(self.events.get(timeout=seconds))
        return self.seen

    def pieces(self, n, seconds=30):
        """Wait for n pieces."""
        while sum(isinstance(one, Piece) for one in self.seen) < n:
            self.seen.append(self.events.get(timeout=seconds))
        return self.seen

    @property
    def end(self):
        return self.until_end()[-1]

    @property
    def text(self):
        return "".join(one.text for one in self.until_end())

    @property
    def tokens(self):
        return [one.token for one in self.until_end()[:-1]]


def ask(prompt="def add", length=20, seed=0, heard=None, temperature=1.0, **more):
    """A request and its events."""
    heard = heard or Heard()
    ids = TOKENIZER.prompt(prompt) if isinstance(prompt, str) else np.asarray(prompt, np.int32)
    return Request(ids, length, Sampler(temperature, seed=seed), heard, **more), heard
