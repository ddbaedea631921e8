"""What the steps of a trace mean: a formula, the letters of its axes, and a sentence in plain words.

A step is looked up by its name inside a block, as in ``attn.softmax``. `tinygpt.ops.unfused` has the code of each.
"""

from __future__ import annotations

import re
from typing import NamedTuple

LETTERS = {
    "B": "sequences",
    "T": "tokens",
    "S": "keys: tokens that can be looked at, those in a cache included",
    "C": "width of the residual stream",
    "H": "query heads",
    "G": "key and value heads",
    "D": "width of a head",
    "F": "width inside the MLP",
    "nF": "F; with gates 2F, gates and values side by side",
    "V": "vocabulary",
    "N": "columns of the result",
    "1": "one number for a row",
}


class Text(NamedTuple):
    """What stands beside a step.

    Attributes
    ----------
    formula : str
        With the names of earlier steps and of parameters.
    axes : str
        A letter for each axis, see `LETTERS`.
    words : str
    """

    formula: str
    axes: str
    words: str


# The residual stream goes by its place in a block, not by the layer whose output is added to it.
STREAM = {"attn.out": "residual1", "mlp.down": "residual2"}

TEXTS = {
    "embed.token": Text("wte[token]", "B T C", "Every token picks its row of the embedding table."),
    "embed.position": Text("wpe[position]", "1 T C", "Every position picks its row of the position table, "
                           "the same in all sequences."),
    "embed.sum": Text("token + position", "B T C", "The residual stream begins: what stands there, and where."),
    "layernorm.mean": Text("mean over C of x", "B T 1", "The mean of every token's vector."),
    "layernorm.rstd": Text("1 / sqrt(mean over C of (x - mean)^2 + eps)", "B T 1",
                           "One over the deviation of every token's vector."),
    "layernorm.normalised": Text("(x - mean) rstd", "B T C", "Every vector is moved to mean 0 and scaled to "
                                 "deviation 1, so that its length says nothing."),
    "rmsnorm.rstd": Text("1 / sqrt(mean over C of x^2 + eps)", "B T 1",
                         "One over the root mean square of every token's vector."),
    "rmsnorm.normalised": Text("x rstd", "B T C", "Every vector is scaled to root mean square 1, so that its length "
                               "says nothing."),
    "norm.weighted": Text("normalised * weight", "B T C", "Every column gets a scale of its own that was learnt."),
    "norm.shifted": Text("weighted + bias", "B T C", "Every column gets an offset of its own that was learnt."),
    "attn.qkv.product": Text("norm1 W_qkv^T", "B T (H+2G)D", "One product makes queries, keys and values of all heads, "
                             "side by side."),
    "attn.qkv": Text("product + b_qkv", "B T (H+2G)D", "The bias of queries, keys and values is added."),
    "attn.q": Text("columns 0 .. HD-1 of qkv", "B T H D", "The queries: what each token looks for, a vector for "
                   "every head."),
    "attn.k": Text("the next GD columns of qkv", "B T G D", "The keys: what each token offers to be found by."),
    "attn.v": Text("the last GD columns of qkv", "B T G D", "The values: what a token hands over when it is "
                   "looked at."),
    "attn.q.rotated": Text("(x1 cos - x2 sin, x2 cos + x1 sin), q = (x1, x2)", "B T H D", "Every pair of elements is "
                           "turned by an angle that grows with the position: the product of a query and a key then "
                           "depends on how far apart they stand."),
    "attn.k.rotated": Text("(x1 cos - x2 sin, x2 cos + x1 sin), k = (x1, x2)", "B T G D", "The keys are turned in the "
                           "same way."),
    "attn.scores": Text("q k^T / sqrt(D), -inf for a key in the future", "B H T S", "Every query is compared with "
                        "every key up to its own position; what comes later is ruled out."),
    "attn.softmax": Text("exp(scores) / sum over S of exp(scores)", "B H T S", "Scores become shares: every row is "
                         "positive and adds up to 1."),
    "attn.mix": Text("softmax v", "B T H D", "Every head takes the mean of the values, weighted by these shares."),
    "attn.out.product": Text("mix W_out^T, heads side by side", "B T C", "The heads are put side by side and mixed "
                             "into one vector per token."),
    "attn.out": Text("product + b_out", "B T C", "The bias of the output is added."),
    "residual1": Text("x + attn.out", "B T C", "What attention found is added to the residual stream."),
    "mlp.up.product": Text("norm2 W_up^T", "B T nF", "Every token by itself goes to a greater width."),
    "mlp.up": Text("product + b_up", "B T nF", "The bias is added: it moves the point at which an element opens."),
    "mlp.gate": Text("columns 0 .. F-1 of up", "B T F", "Half of the columns are gates."),
    "mlp.value": Text("columns F .. 2F-1 of up", "B T F", "The other half is what the gates let through."),
    "mlp.silu": Text("gate sigmoid(gate)", "B T F", "A gate that is negative closes, one that is positive opens."),
    "gelu": Text("up/2 (1 + tanh(sqrt(2/pi) (up + 0.044715 up^3)))", "B T F", "What is negative is pressed to 0, what "
                 "is positive passes: without this bend two products would be as good as one."),
    "swiglu": Text("silu * value", "B T F", "The gates let their values through."),
    "mlp.down.product": Text("activation W_down^T", "B T C", "Back to the width of the stream."),
    "mlp.down": Text("product + b_down", "B T C", "The bias of the output is added."),
    "residual2": Text("residual1 + mlp.down", "B T C", "What the MLP made of each token is added to the stream: this "
                      "leaves the block."),
    "dropout": Text("x keep / (1 - rate)", "B T C", "Some elements are dropped by chance, the others grow to make up "
                    "for it."),
    "logits": Text("norm W_head^T", "B T V", "How much each final vector points towards each token of the "
                   "vocabulary."),
    "probabilities": Text("exp(logits) / sum over V of exp(logits)", "B T V", "The next-token distribution: "
                          "one for every position."),
    "losses": Text("-ln probabilities[target]", "B T", "How surprised the model is by the token that does come next, "
                   "in nats; 0 where nothing is asked."),
    "loss": Text("mean of losses where there is a target", "", "One number for all of it: what training makes "
                 "smaller."),
    "linear.product": Text("x W^T", "B T N", "A product with the weight of a layer."),
    "linear": Text("product + b", "B T N", "The bias of a layer is added."),
    "adapter": Text("scale (x A^T) B^T", "B T N", "What the adapter adds: down to few columns, and up again."),
    "adapted": Text("frozen + adapter", "B T N", "The layer as it is with its adapter."),
    "residual": Text("x + branch", "B T N", "The output of a branch is added to what went around it."),
}  # fmt: skip


def inner(name: str) -> str:
    """The name of a step without its block and without the number of its pass: ``blocks.3.attn.q@2`` is ``attn.q``."""
    return re.sub(r"^(?:.*\.)?blocks\.\d+\.", "", name).partition("@")[0]


def text_of(key: str) -> Text:
    """The text under `key`, which may be the whole name of a step; of a layer that no model has, a general one.

    Parameters
    ----------
    key : str

    Returns
    -------
    Text
    """
    name = inner(key)
    if name in TEXTS:
        return TEXTS[name]
    if name.removesuffix(".product") in TEXTS:
        return TEXTS[name.removesuffix(".product")]
    if ".residual" in f".{name}":
        return TEXTS["residual"]
    return TEXTS["linear.product" if name.endswith(".product") else "linear"]
