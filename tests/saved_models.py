"""Small models with all values distinct, and saves that are killed at a chosen system call."""

import subprocess
import sys

import numpy as np
import safetensors.numpy as peer
from safetensors import safe_open

from tinygpt import GPT, GPTConfig, optim
from tinygpt.tokenizers import CharTokenizer

TOKENIZER = CharTokenizer.train("abc")
SMALL = {"vocab_size": TOKENIZER.vocab_size, "block_size": 6, "n_layer": 1, "n_head": 2, "n_embd": 8}
STATE = {"step": 3, "best_val_loss": 1.0000000000000002, "tokens": 2**53 + 1, "seen": [None, True, "ü\n"], "more": {}}
OPTIMIZERS = {
    "SGD": lambda model: optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
    "Adam": lambda model: optim.Adam(model.parameters(), lr=1e-2),
    "AdamW": lambda model: optim.AdamW(model.parameters(), lr=1e-2),
}


def filled(seed=1, **options):
    """A model with all values distinct."""
    model, rng = GPT(GPTConfig(**{**SMALL, **options})), np.random.default_rng(seed)
    for parameter in model.parameters():
        parameter.data = rng.standard_normal(parameter.shape, np.float32)
    return model


def train(model, optimizer, steps):
    """Train a few steps; each batch depends only on the number of steps so far."""
    for _ in range(steps):
        tokens = np.random.default_rng(optimizer.steps).integers(0, model.config.vocab_size, (2, 7))
        optimizer.zero_grad()
        model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
        optimizer.step()


def bits(model, optimizer=None):
    """All values and the step count in a form that compares bit for bit."""
    state = {name: p.data.tobytes() for name, p in model.named_parameters()}
    if optimizer is not None:
        state["steps"] = optimizer.steps
        for name, p in model.named_parameters():
            state |= {f"{key}.{name}": array.tobytes() for key, array in optimizer.state_of(p).items()}
    return state


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def not_finite(file, name):
    """Set the last value of a tensor in a file to infinity."""
    with safe_open(file, framework="numpy") as source:
        tensors, metadata = {key: source.get_tensor(key) for key in source.offset_keys()}, source.metadata()
    tensors[name][-1] = np.inf
    peer.save_file(tensors, file, metadata)


# A program that is killed at its n-th file system call, without the clean-up of an exception.
KILLED = """
import os, sys, numpy as np, tinygpt
from tinygpt import GPT, GPTConfig, optim
from tinygpt.runs import checkpoint
from tinygpt.tokenizers import CharTokenizer

what, folder, left = sys.argv[1], sys.argv[2], int(sys.argv[3])

def counted(function):
    def call(*args, **kwargs):
        global left
        if left == 0:
            os._exit(9)
        left -= 1
        return function(*args, **kwargs)
    return call

model = GPT(GPTConfig(**{small}), seed=2)
for name in ("replace", "rename", "fsync", "mkdir"):
    setattr(os, name, counted(getattr(os, name)))
tokenizer = CharTokenizer.train("abc")
if what == "model":
    tinygpt.save(folder, model, tokenizer)
else:
    checkpoint.save_checkpoint(folder, model, tokenizer, optim.SGD(model.parameters()), {{"step": 4}})
"""


def killed(what, folder, calls):
    """Return whether a save was killed at its `calls`-th file system call; False if it completed before."""
    script = KILLED.format(small=SMALL)
    done = subprocess.run([sys.executable, "-c", script, what, str(folder), str(calls)], capture_output=True, text=True)
    assert done.returncode in (0, 9), done.stderr
    return done.returncode == 9
