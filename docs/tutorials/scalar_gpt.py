"""A GPT in plain Python numbers: no arrays, no NumPy, an object for every multiplication.

The same model as `tinygpt/reference/one_file.py`, with the same weights and the same loss. `Number` is the whole
automatic differentiation: it remembers which numbers it came from, and how strongly it depends on each of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable


class Number:
    """A number that remembers its parents and its derivative with respect to each of them."""

    __slots__ = ("grad", "parents", "slopes", "value")

    def __init__(self, value: float, parents: tuple = (), slopes: tuple = ()):
        self.value, self.parents, self.slopes, self.grad = value, parents, slopes, 0.0

    def __add__(self, other: Number) -> Number:
        return Number(self.value + other.value, (self, other), (1.0, 1.0))

    def __mul__(self, other: Number) -> Number:
        return Number(self.value * other.value, (self, other), (other.value, self.value))

    def __neg__(self) -> Number:
        return Number(-self.value, (self,), (-1.0,))

    def scale(self, factor: float) -> Number:
        """Multiply by a constant."""
        return Number(self.value * factor, (self,), (factor,))

    def shift(self, amount: float) -> Number:
        """Add a constant."""
        return Number(self.value + amount, (self,), (1.0,))

    def power(self, k: float) -> Number:
        """Raise to the power k."""
        return Number(self.value**k, (self,), (k * self.value ** (k - 1),))

    def exp(self) -> Number:
        """Compute e to this power."""
        e = math.exp(self.value)
        return Number(e, (self,), (e,))

    def log(self) -> Number:
        """Compute the natural logarithm."""
        return Number(math.log(self.value), (self,), (1 / self.value,))

    def tanh(self) -> Number:
        """Compute the hyperbolic tangent."""
        t = math.tanh(self.value)
        return Number(t, (self,), (1 - t * t,))

    def backward(self) -> None:
        """Compute `grad` of every number that this one came from."""
        order, seen, stack = [], set(), [(self, False)]
        while stack:  # parents before children; a loop, because Python's recursion is limited
            node, done = stack.pop()
            if done:
                order.append(node)
            elif id(node) not in seen:
                seen.add(id(node))
                stack.append((node, True))
                stack.extend((parent, False) for parent in node.parents)
        self.grad = 1.0
        for node in reversed(order):
            for parent, slope in zip(node.parents, node.slopes, strict=True):
                parent.grad += slope * node.grad


def total(numbers: Iterable[Number]) -> Number:
    """Add up numbers, one after the other."""
    first, *rest = numbers
    for one in rest:
        first = first + one
    return first


def linear(x: list, weight: list, bias: list) -> list:
    """Compute one output per row of `weight`."""
    return [total(w * xi for w, xi in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)]


def gelu(x: Number) -> Number:
    """Compute the tanh form of GELU."""
    inner = (x + x.power(3).scale(0.044715)).scale(math.sqrt(2 / math.pi))
    return x.scale(0.5) * inner.tanh().shift(1.0)


def layernorm(x: list, weight: list, bias: list) -> list:
    """Bring a vector to mean 0 and variance 1, then scale and shift."""
    mean = total(x).scale(1 / len(x))
    centred = [one + -mean for one in x]
    rstd = total(one * one for one in centred).scale(1 / len(x)).shift(1e-5).power(-0.5)
    return [one * rstd * w + b for one, w, b in zip(centred, weight, bias, strict=True)]


def softmax(x: list) -> list:
    """Turn scores into probabilities."""
    largest = max(one.value for one in x)
    e = [one.shift(-largest).exp() for one in x]
    inverse = total(e).power(-1)
    return [one * inverse for one in e]


def attention(queries: list, keys: list, values: list) -> list:
    """Average the values by how well the newest query of each head fits the keys so far."""
    out = []
    for head, q in enumerate(queries[-1]):
        scores = [total(a * b for a, b in zip(q, k[head], strict=True)).scale(len(q) ** -0.5) for k in keys]
        shares = softmax(scores)
        for d in range(len(q)):
            out.append(total(share * v[head][d] for share, v in zip(shares, values, strict=True)))
    return out


def split(x: list, H: int) -> list:
    """Cut a vector into H pieces."""
    D = len(x) // H
    return [x[h * D : (h + 1) * D] for h in range(H)]


def loss(w: dict, tokens: list[int], targets: list[int], H: int) -> Number:
    """Return the mean loss over one sequence; `w` maps names to lists (of lists) of numbers."""
    layers = sum(name.endswith("norm1.weight") for name in w)
    past: list = [([], [], []) for _ in range(layers)]
    losses = []
    for t, (token, target) in enumerate(zip(tokens, targets, strict=True)):
        x = [a + b for a, b in zip(w["wte.weight"][token], w["wpe.weight"][t], strict=True)]
        for i in range(layers):
            b = f"blocks.{i}"
            qkv = linear(
                layernorm(x, w[f"{b}.norm1.weight"], w[f"{b}.norm1.bias"]),
                w[f"{b}.attn.qkv.weight"], w[f"{b}.attn.qkv.bias"],
            )  # fmt: skip
            for store, part in zip(past[i], split(qkv, 3), strict=True):
                store.append(split(part, H))
            mixed = linear(attention(*past[i]), w[f"{b}.attn.out.weight"], w[f"{b}.attn.out.bias"])
            x = [a + m for a, m in zip(x, mixed, strict=True)]
            n2 = layernorm(x, w[f"{b}.norm2.weight"], w[f"{b}.norm2.bias"])
            wide = [gelu(u) for u in linear(n2, w[f"{b}.mlp.up.weight"], w[f"{b}.mlp.up.bias"])]
            down = linear(wide, w[f"{b}.mlp.down.weight"], w[f"{b}.mlp.down.bias"])
            x = [a + d for a, d in zip(x, down, strict=True)]
        y = layernorm(x, w["norm.weight"], w["norm.bias"])
        logits = [total(a * b for a, b in zip(row, y, strict=True)) for row in w["wte.weight"]]
        losses.append(-softmax(logits)[target].log())
    return total(losses).scale(1 / len(losses))


def numbers(array) -> list:
    """Turn a NumPy array of one or two axes into lists of numbers."""
    return [numbers(row) if row.ndim else Number(float(row)) for row in array]
