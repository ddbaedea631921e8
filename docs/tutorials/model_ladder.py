"""Models of the tutorial "A ladder of models", from a table of pairs to a GPT, and one loop that trains them all.

Every model maps token ids (B, T) to logits (B, T, V). Each adds one idea to the one before, and all of them use the
operations of `tinygpt.ops`, so the same backward pass and the same optimizer serve them all.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tinygpt import Tensor, no_grad, ops, optim
from tinygpt.nn import Embedding, LayerNorm, Linear, Module

PACKAGES = ("email", "http", "json", "logging")  # of Python's standard library: on every machine that runs Python


def read_corpus() -> tuple[str, str]:
    """Return training and validation text: every eighth file is for validation."""
    library = Path(json.__file__).parents[1]
    files = [file for package in PACKAGES for file in sorted((library / package).glob("**/*.py"))]
    parts: tuple[list[str], list[str]] = ([], [])
    for i, file in enumerate(files):
        parts[i % 8 == 3].append(file.read_text(encoding="utf-8"))
    return "".join(parts[0]), "".join(parts[1])


def windows(text: np.ndarray, T: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut a text into inputs and targets (N, T) that lie side by side; targets are one place further."""
    n = (len(text) - 1) // T
    return text[: n * T].reshape(n, T), text[1 : n * T + 1].reshape(n, T)


class Bigram(Module):
    """One row of logits for each token: what follows an `e`, what follows a `(`."""

    def __init__(self, V: int):
        self.table = Embedding(V, V, std=0.0)

    def __call__(self, tokens: np.ndarray) -> Tensor:
        """Look up the row of each token: (B, T) to (B, T, V)."""
        return ops.embedding(tokens, self.table.weight)


def reshape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Give a tensor another shape; its gradient gets the old shape back."""
    return Tensor.from_op(x.data.reshape(shape), (x,), lambda dy: x.receive(dy.reshape(x.shape)))


class LastFew(Module):
    """An MLP on the vectors of the last n tokens, side by side (Bengio et al. 2003)."""

    def __init__(self, V: int, n: int = 3, C: int = 24, F: int = 128):
        self.n, self.C = n, C
        self.wte = Embedding(V, C, std=0.2)
        self.up = Linear(n * C, F, std=(n * C) ** -0.5)
        self.head = Linear(F, V, std=F**-0.5)

    def __call__(self, tokens: np.ndarray) -> Tensor:
        """Predict from windows of n tokens; positions before the beginning of a sequence are zeros."""
        B, T = tokens.shape
        before = np.zeros((B, self.n - 1), tokens.dtype)
        last = np.lib.stride_tricks.sliding_window_view(np.concatenate([before, tokens], 1), self.n, axis=1)
        x = ops.embedding(last.reshape(B * T, self.n), self.wte.weight)  # (B T, n, C)
        x = reshape(x, (B, T, self.n * self.C))
        return self.head(self.up(x, activation="gelu"))


class Heads(Module):
    """Attention: every token asks all earlier ones, in H heads of width C / H, and adds what it gets."""

    def __init__(self, V: int, T: int, H: int, C: int = 64):
        self.H = H
        self.wte = Embedding(V, C, std=0.2)
        self.wpe = Embedding(T, C, std=0.2)
        self.qkv = Linear(C, 3 * C, std=C**-0.5)
        self.out = Linear(C, C, std=C**-0.5)
        self.head = Linear(C, V, std=C**-0.5)

    def __call__(self, tokens: np.ndarray) -> Tensor:
        """Add attention to the embedding, and read logits from the sum."""
        x = ops.embedding(tokens, self.wte.weight, self.wpe.weight)  # (B, T, C)
        mixed = ops.attention(self.qkv(x), self.H, self.H)
        return self.head(self.out(mixed, residual=x))


class Block(Module):
    """Attention between tokens, then an MLP on each token; both read a normalised x and add to x."""

    def __init__(self, C: int, H: int):
        self.H = H
        self.norm1, self.norm2 = LayerNorm(C), LayerNorm(C)
        self.qkv = Linear(C, 3 * C, std=C**-0.5)
        self.out = Linear(C, C, std=C**-0.5)
        self.up = Linear(C, 4 * C, std=C**-0.5)
        self.down = Linear(4 * C, C, std=(4 * C) ** -0.5)

    def __call__(self, x: Tensor) -> Tensor:
        """Compute the block, (B, T, C) to (B, T, C)."""
        x = self.out(ops.attention(self.qkv(self.norm1(x)), self.H, self.H), residual=x)
        return self.down(self.up(self.norm2(x), activation="gelu"), residual=x)


class Blocks(Module):
    """L blocks on top of one another, a last norm and the logits: with L of 2 or more, a GPT."""

    def __init__(self, V: int, T: int, L: int, H: int = 4, C: int = 64):
        self.wte = Embedding(V, C, std=0.2)
        self.wpe = Embedding(T, C, std=0.2)
        self.blocks = [Block(C, H) for _ in range(L)]
        self.norm = LayerNorm(C)
        self.head = Linear(C, V, std=C**-0.5)

    def __call__(self, tokens: np.ndarray) -> Tensor:
        """Compute logits from the residual stream behind the last block."""
        x = ops.embedding(tokens, self.wte.weight, self.wpe.weight)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def validation_loss(model: Module, text: np.ndarray, T: int) -> float:
    """Return the mean loss in nats per token on a text that the model was not trained on."""
    inputs, targets = windows(text, T)
    with no_grad():
        return ops.cross_entropy(model(inputs), targets).item()


def train(model: Module, text: np.ndarray, T: int, steps: int, lr: float, B: int = 16, seed: int = 0):
    """Train on B windows of T tokens per step, and yield the step number and the loss of every step."""
    model.initialise(seed)
    optimizer = optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    schedule = optim.cosine(lr, steps=steps, warmup=steps // 20, final=lr / 20)
    random = np.random.default_rng(seed)
    for step in range(steps):
        starts = random.integers(0, len(text) - T, B)
        chosen = text[starts[:, None] + np.arange(T + 1)]
        optimizer.lr = schedule(step)
        optimizer.zero_grad()
        loss = ops.cross_entropy(model(chosen[:, :-1]), chosen[:, 1:])
        loss.backward()
        optimizer.step(optim.clip_scale(optim.grad_norm(optimizer.parameters), 1.0))
        yield step + 1, loss.item()


def sample(model: Module, first: int, T: int, count: int, seed: int = 0) -> list[int]:
    """Write `count` tokens after the first one: predict, draw, append, repeat."""
    random, tokens = np.random.default_rng(seed), [first]
    with no_grad():
        for _ in range(count):
            logits = model(np.array([tokens[-T:]], np.int32)).data[0, -1].astype(np.float64)
            p = np.exp(logits - logits.max())
            tokens.append(int(random.choice(len(p), p=p / p.sum())))
    return tokens[1:]


# How to make each model, and its learning rate, chosen by a few short trials of 1000 steps.
MODELS = {
    "bigram": (lambda V, T: Bigram(V), 0.3),
    "MLP on 3 tokens": (lambda V, T: LastFew(V), 0.01),
    "one head": (lambda V, T: Heads(V, T, H=1), 0.01),
    "four heads": (lambda V, T: Heads(V, T, H=4), 0.01),
    "one block": (lambda V, T: Blocks(V, T, L=1), 0.01),
    "GPT, 2 blocks": (lambda V, T: Blocks(V, T, L=2), 0.005),
}
