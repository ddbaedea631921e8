"""Explanations of the steps of a trace: a formula, the letters of the axes, and a sentence in plain words.

A step is looked up by its name within a block, for example ``attn.softmax``. The code of each step is in
`tinygpt.tracing.unfused`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

LETTERS = {
    "B": "sequences in the batch",
    "T": "tokens of a sequence",
    "S": "keys, including those in the KV cache",
    "C": "width of the residual stream",
    "H": "query heads",
    "G": "key and value heads",
    "D": "width of a head",
    "F": "width inside the MLP",
    "nF": "F; with SwiGLU 2F: gates and values side by side",
    "V": "vocabulary size",
    "N": "columns of the result",
    "1": "one number per row",
}


class Text(NamedTuple):
    """Explanation of a step.

    Attributes
    ----------
    formula : str
        Formula in terms of earlier steps and parameters.
    axes : str
        One letter per axis, see `LETTERS`.
    words : str
        One sentence in plain words.
    """

    formula: str
    axes: str
    words: str


# The residual stream is named by its place in the block, not by the layer whose output is added.
STREAM = {"attn.out": "residual1", "mlp.down": "residual2"}

TEXTS = {
    "embed.token": Text("wte[token]", "B T C", "Each token selects its row of the token embedding table."),
    "embed.position": Text("wpe[position]", "1 T C", "Each position selects its row of the position embedding table; "
                           "all sequences share it."),
    "embed.sum": Text("token + position", "B T C", "Token and position embedding are added: the residual stream "
                      "begins here."),
    "layernorm.mean": Text("mean over C of x", "B T 1", "The mean of each token's vector."),
    "layernorm.rstd": Text("1 / sqrt(mean over C of (x - mean)^2 + eps)", "B T 1",
                           "The reciprocal standard deviation of each token's vector."),
    "layernorm.normalised": Text("(x - mean) rstd", "B T C", "Each vector is shifted to mean 0 and scaled to "
                                 "standard deviation 1, so that its length carries no information."),
    "rmsnorm.rstd": Text("1 / sqrt(mean over C of x^2 + eps)", "B T 1",
                         "The reciprocal root mean square of each token's vector."),
    "rmsnorm.normalised": Text("x rstd", "B T C", "Each vector is scaled to root mean square 1, so that its length "
                               "carries no information."),
    "norm.weighted": Text("normalised * weight", "B T C", "Each column is multiplied by a learned scale."),
    "norm.shifted": Text("weighted + bias", "B T C", "A learned offset is added to each column."),
    "attn.qkv.product": Text("norm1 W_qkv^T", "B T (H+2G)D", "One matmul projects each token to the queries, keys and "
                             "values of all heads, side by side."),
    "attn.qkv": Text("product + b_qkv", "B T (H+2G)D", "The bias of queries, keys and values is added."),
    "attn.q": Text("columns 0 .. HD-1 of qkv", "B T H D", "Queries: what each token looks for, one vector per head."),
    "attn.k": Text("the next GD columns of qkv", "B T G D", "Keys: what each token can be found by."),
    "attn.v": Text("the last GD columns of qkv", "B T G D", "Values: what each token passes on to those that attend "
                   "to it."),
    "attn.q.rotated": Text("(x1 cos - x2 sin, x2 cos + x1 sin), q = (x1, x2)", "B T H D", "Each pair of elements is "
                           "rotated by an angle proportional to the position, so that the dot product of a query and "
                           "a key depends on their distance."),
    "attn.k.rotated": Text("(x1 cos - x2 sin, x2 cos + x1 sin), k = (x1, x2)", "B T G D", "Keys are rotated in the "
                           "same way."),
    "attn.scores": Text("q k^T / sqrt(D), -inf for a key in the future", "B H T S", "Each query is compared with "
                        "every key up to its own position; the causal mask hides later keys."),
    "attn.softmax": Text("exp(scores) / sum over S of exp(scores)", "B H T S", "Softmax turns scores into attention "
                         "probabilities: each row is non-negative and sums to 1."),
    "attn.mix": Text("softmax v", "B T H D", "Each head averages the values, weighted by the attention "
                     "probabilities."),
    "attn.out.product": Text("mix W_out^T, heads side by side", "B T C", "The output projection combines all heads "
                             "into one vector per token."),
    "attn.out": Text("product + b_out", "B T C", "The bias of the output projection is added."),
    "residual1": Text("x + attn.out", "B T C", "The attention output is added to the residual stream."),
    "mlp.up.product": Text("norm2 W_up^T", "B T nF", "The up projection widens each token's vector, independently of "
                           "other tokens."),
    "mlp.up": Text("product + b_up", "B T nF", "The bias is added: it shifts the threshold at which a unit turns on."),
    "mlp.gate": Text("columns 0 .. F-1 of up", "B T F", "The first half of the columns: the gates."),
    "mlp.value": Text("columns F .. 2F-1 of up", "B T F", "The second half of the columns: the values to be gated."),
    "mlp.silu": Text("gate sigmoid(gate)", "B T F", "SiLU: negative gates close, positive gates open."),
    "gelu": Text("up/2 (1 + tanh(sqrt(2/pi) (up + 0.044715 up^3)))", "B T F", "GELU suppresses negative values and "
                 "passes positive ones. Without a nonlinearity, two linear layers would be equivalent to one."),
    "swiglu": Text("silu * value", "B T F", "Each value is multiplied by its gate."),
    "mlp.down.product": Text("activation W_down^T", "B T C", "The down projection returns to the width of the "
                             "residual stream."),
    "mlp.down": Text("product + b_down", "B T C", "The bias of the down projection is added."),
    "residual2": Text("residual1 + mlp.down", "B T C", "The MLP output is added to the residual stream; the result is "
                      "the output of the block."),
    "dropout": Text("x keep / (1 - rate)", "B T C", "Random elements are set to 0 and the others are scaled up, so "
                    "that the expected value stays the same."),
    "logits": Text("norm W_head^T", "B T V", "One score per token of the vocabulary: the dot product of the final "
                   "vector with its row of the head."),
    "probabilities": Text("exp(logits) / sum over V of exp(logits)", "B T V", "The distribution of the next token at "
                          "each position."),
    "losses": Text("-ln probabilities[target]", "B T", "The cross-entropy of each target in nats: high when the model "
                   "gave it a low probability; 0 where there is no target."),
    "loss": Text("mean of losses where there is a target", "", "The mean over all targets: the number that training "
                 "minimises."),
    "linear.product": Text("x W^T", "B T N", "The matmul of a linear layer."),
    "linear": Text("product + b", "B T N", "The bias of a linear layer is added."),
    "adapter": Text("scale (x A^T) B^T", "B T N", "The output of the low-rank adapter: down to r columns, and up "
                    "again."),
    "adapted": Text("frozen + adapter", "B T N", "The output of the frozen layer plus that of its adapter."),
    "residual": Text("x + branch", "B T N", "The output of a branch is added to the residual stream."),
}  # fmt: skip


def inner(name: str) -> str:
    """Strip block and pass number from the name of a step: ``blocks.3.attn.q@2`` becomes ``attn.q``."""
    return re.sub(r"^(?:.*\.)?blocks\.\d+\.", "", name).partition("@")[0]


def text_of(key: str) -> Text:
    """Look up the explanation of a step.

    Parameters
    ----------
    key : str
        Key of `TEXTS`, or the full name of a step.

    Returns
    -------
    Text
        A general text if the step belongs to a layer that GPT does not have.
    """
    name = inner(key)
    if name in TEXTS:
        return TEXTS[name]
    if name.removesuffix(".product") in TEXTS:
        return TEXTS[name.removesuffix(".product")]
    if ".residual" in f".{name}":
        return TEXTS["residual"]
    return TEXTS["linear.product" if name.endswith(".product") else "linear"]
