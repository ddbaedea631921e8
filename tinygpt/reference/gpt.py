"""A whole GPT in plain NumPy: read this file first.

A language model reads tokens, which are numbers for pieces of text. After each token it gives a score to every token
that could come next. The scores are called logits. This file computes the logits of a model of the GPT-2 kind as the
formulas are written, with nothing hidden and nothing optimised. The rest of the package computes the same numbers
faster, and learns the weights.

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
    """Turn scores into probabilities: positive numbers with sum 1 along the last axis."""
    # Subtracting the maximum does not change the ratio, and keeps exp from overflowing.
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def gelu(x):
    """Pass large inputs and suppress negative ones: a smooth step (Hendrycks and Gimpel 2016, tanh form)."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def layernorm(x, weight, bias, eps=1e-5):
    """Shift and scale every row to mean 0 and variance 1, then apply a learned scale and shift."""
    mean = x.mean(axis=-1, keepdims=True)
    variance = x.var(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + eps) * weight + bias


def linear(x, weight, bias):
    """Compute each output as a weighted sum of the inputs: (T, in) times (out, in) gives (T, out)."""
    return x @ weight.T + bias


def attention(x, weights, name, n_head):
    """Let every token collect information from the tokens before it, and from itself.

    Each token has a query (what it searches for), a key (what it offers) and a value (what it passes on). The better a
    query matches the key of a token, the larger is the share of that token's value in the result.
    """
    T, C = x.shape
    qkv = linear(x, weights[f"{name}.qkv.weight"], weights[f"{name}.qkv.bias"])  # (T, 3 C)
    q, k, v = np.split(qkv, 3, axis=-1)  # (T, C) each
    D = C // n_head
    heads = []
    for h in range(n_head):  # every head has D columns of its own, so it can search for something else
        columns = slice(h * D, (h + 1) * D)
        scores = q[:, columns] @ k[:, columns].T / math.sqrt(D)  # (T, T): row t holds the scores of token t
        future = np.triu(np.ones((T, T), bool), k=1)  # True where the column is later than the row
        shares = softmax(np.where(future, -np.inf, scores))  # a token must not see the answer: its share is 0
        heads.append(shares @ v[:, columns])  # (T, D)
    return linear(np.concatenate(heads, axis=-1), weights[f"{name}.out.weight"], weights[f"{name}.out.bias"])


def mlp(x, weights, name):
    """Process every token by itself: project to four times the width, apply gelu, project back."""
    wide = gelu(linear(x, weights[f"{name}.up.weight"], weights[f"{name}.up.bias"]))  # (T, 4 C)
    return linear(wide, weights[f"{name}.down.weight"], weights[f"{name}.down.bias"])  # (T, C)


def forward(weights, tokens, n_head):
    """Compute the logits (T, V): row t scores every token of the vocabulary as the successor of tokens[: t + 1]."""
    tokens = np.asarray(tokens)
    # A token is a row of a table; so is a position. Their sum starts the residual stream: (T, C).
    x = weights["wte.weight"][tokens] + weights["wpe.weight"][: len(tokens)]
    n_layer = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    for i in range(n_layer):
        # Attention and MLP each read the stream and add their result to it. Nothing is ever overwritten.
        block = f"blocks.{i}"
        normed = layernorm(x, weights[f"{block}.norm1.weight"], weights[f"{block}.norm1.bias"])
        x = x + attention(normed, weights, f"{block}.attn", n_head)
        normed = layernorm(x, weights[f"{block}.norm2.weight"], weights[f"{block}.norm2.bias"])
        x = x + mlp(normed, weights, f"{block}.mlp")
    x = layernorm(x, weights["norm.weight"], weights["norm.bias"])
    return x @ weights["wte.weight"].T  # a logit is the dot product with the row of a token


def generate(weights, tokens, n_head, count, rng):
    """Continue `tokens` by `count` more: predict, draw one, append it, repeat."""
    context = len(weights["wpe.weight"])
    tokens = list(tokens)
    for _ in range(count):
        probabilities = softmax(forward(weights, tokens[-context:], n_head)[-1])
        tokens.append(int(rng.choice(len(probabilities), p=probabilities)))
    return tokens
