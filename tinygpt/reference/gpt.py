"""A whole GPT in plain NumPy: read this file first.

A language model reads some tokens (numbers that stand for pieces of text) and gives, after each of them, a score for
every token that could come next. The scores are called logits. This file computes them for a model of the GPT-2 kind in
the way the formulas are written, with nothing hidden and nothing made fast. The rest of the package computes the same
numbers faster, and learns the weights.

    logits = forward(weights, tokens, n_head)

Letters in the comments: T tokens of the text, C width of the model, H heads, D = C / H width of a head, V vocabulary.
`weights` maps names to arrays; ``dict(model.named_parameters())`` of a `tinygpt.GPT` has the same names.

References
----------
Vaswani et al. 2017, Attention Is All You Need; Radford et al. 2019, Language Models are Unsupervised Multitask Learners
(GPT-2).
"""

import math

import numpy as np


def softmax(x):
    """Turn scores into probabilities: positive, and of sum 1 along the last axis."""
    # Subtracting the maximum changes nothing in the ratio, and keeps exp from overflowing.
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def gelu(x):
    """Let large inputs pass and hold small ones back: a smooth step (Hendrycks and Gimpel 2016, tanh form)."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def layernorm(x, weight, bias, eps=1e-5):
    """Shift and scale every row to mean 0 and variance 1, then let the model choose another mean and scale."""
    mean = x.mean(axis=-1, keepdims=True)
    variance = x.var(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + eps) * weight + bias


def linear(x, weight, bias):
    """Compute each output as a weighted sum of the inputs: (T, in) times (out, in) gives (T, out)."""
    return x @ weight.T + bias


def attention(x, weights, name, n_head):
    """Let every token collect information from the tokens before it, and from itself.

    Each token sends out a query (what it looks for) and offers a key (what it has) and a value (what it tells). A query
    that fits a key gives that token's value a large share.
    """
    T, C = x.shape
    qkv = linear(x, weights[f"{name}.qkv.weight"], weights[f"{name}.qkv.bias"])  # (T, 3 C)
    q, k, v = np.split(qkv, 3, axis=-1)  # (T, C) each
    D = C // n_head
    heads = []
    for h in range(n_head):  # every head has D columns of its own and looks for something else
        columns = slice(h * D, (h + 1) * D)
        scores = q[:, columns] @ k[:, columns].T / math.sqrt(D)  # (T, T): row t holds the scores of token t
        future = np.triu(np.ones((T, T), bool), k=1)  # True where the column is later than the row
        shares = softmax(np.where(future, -np.inf, scores))  # a token must not see the answer: its share is 0
        heads.append(shares @ v[:, columns])  # (T, D)
    return linear(np.concatenate(heads, axis=-1), weights[f"{name}.out.weight"], weights[f"{name}.out.bias"])


def mlp(x, weights, name):
    """Let every token think by itself about what it collected: widen, bend, narrow again."""
    wide = gelu(linear(x, weights[f"{name}.up.weight"], weights[f"{name}.up.bias"]))  # (T, 4 C)
    return linear(wide, weights[f"{name}.down.weight"], weights[f"{name}.down.bias"])  # (T, C)


def forward(weights, tokens, n_head):
    """Compute the logits (T, V): row t scores every token of the vocabulary as the successor of tokens[: t + 1]."""
    tokens = np.asarray(tokens)
    # A token is a row of a table; so is a position. Their sum starts the residual stream: (T, C).
    x = weights["wte.weight"][tokens] + weights["wpe.weight"][: len(tokens)]
    n_layer = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    for i in range(n_layer):
        # Each half of a block reads the stream and adds something to it. Nothing is ever overwritten.
        block = f"blocks.{i}"
        normed = layernorm(x, weights[f"{block}.norm1.weight"], weights[f"{block}.norm1.bias"])
        x = x + attention(normed, weights, f"{block}.attn", n_head)
        normed = layernorm(x, weights[f"{block}.norm2.weight"], weights[f"{block}.norm2.bias"])
        x = x + mlp(normed, weights, f"{block}.mlp")
    x = layernorm(x, weights["norm.weight"], weights["norm.bias"])
    return x @ weights["wte.weight"].T  # how well does the result fit each token's own row?


def generate(weights, tokens, n_head, count, rng):
    """Continue `tokens` by `count` more: predict, draw one, append it, repeat."""
    context = len(weights["wpe.weight"])
    tokens = list(tokens)
    for _ in range(count):
        probabilities = softmax(forward(weights, tokens[-context:], n_head)[-1])
        tokens.append(int(rng.choice(len(probabilities), p=probabilities)))
    return tokens
