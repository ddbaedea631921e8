"""Metadata of a GGUF file: GPTConfig in the fields of llama.cpp.

    general.architecture        gpt2 or llama, and the first word of the names below
    block_count, embedding_length, feed_forward_length, context_length, vocab_size
    attention.head_count, attention.head_count_kv, attention.layer_norm_epsilon or attention.layer_norm_rms_epsilon
    rope.freq_base, rope.dimension_count

As in config.json, a field that would change the logits must have the one value that the model computes, and a field of
the architecture that is not known here is refused: it may well be one of those. Whether the head is tied is not among
the fields; it is where there is no ``output.weight``. ``tinygpt.bias`` is our own, for a GPT-2 without biases, which
has zeros in the file.
"""

from __future__ import annotations

from typing import Any

from tinygpt.config import GPTConfig
from tinygpt.files import config as config_file
from tinygpt.files import config_tables
from tinygpt.io.strict import Fields, shown
from tinygpt.io.table import Table

ARCHITECTURES = ("gpt2", "llama")
TOKENS = "tokenizer.ggml.tokens"
_EPSILON = {"gpt2": "attention.layer_norm_epsilon", "llama": "attention.layer_norm_rms_epsilon"}


def _table(kind: str) -> Table:
    rope = ["rope.dimension_count", "rope.freq_base"] if kind == "llama" else []
    heads = ["attention.head_count_kv", "attention.key_length", "attention.value_length"]
    return Table(
        required=["block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count",
                  _EPSILON[kind]],
        known=["vocab_size", *heads, *rope],
        without_effect=["rope.scaling.original_context_length", "rope.scaling.finetuned"],
        refused={
            "attention.causal": (True,),
            "attention.sliding_window": (0,),
            "expert_count": (0,),
            "expert_used_count": (0,),
            "rope.scale_linear": (1.0,),
            "rope.scaling.factor": (1.0,),
            "rope.scaling.type": ("none", "linear"),  # linear divides positions by the factor
            "tensor_data_layout": ("Meta AI original pth",),
            "use_parallel_residual": (False,),
        },
    )  # fmt: skip


TABLES = {kind: _table(kind) for kind in ARCHITECTURES}


def from_metadata(content: dict[str, Any], n_rows: int | None, tied: bool) -> tuple[str, GPTConfig]:
    """Read the model that the metadata describe.

    Parameters
    ----------
    content : dict
        The fields of a `GGUFFile`.
    n_rows : int or None
        Rows of the token embedding; None if the file has none.
    tied : bool
        Whether the file has no head.

    Returns
    -------
    family : str
        gpt2 or llama.
    config : GPTConfig

    Raises
    ------
    ValueError
        A field is missing, mistyped, out of range, or asks for something that the model does not compute.
    """
    top = Fields(content)
    kind = top.text("general.architecture")
    if kind not in ARCHITECTURES:
        raise ValueError(f"'general.architecture' must be {' or '.join(ARCHITECTURES)}, got {shown(kind)}")
    if top.text("general.type", "model") != "model":
        raise top.wrong("general.type", "'model'")
    if top.content.get("split.count", 1) not in (0, 1):
        raise top.wrong("split.count", "1: put the parts together with llama.cpp's gguf-split --merge")
    start = kind + "."
    fields = Fields({name[len(start) :]: value for name, value in content.items() if name.startswith(start)}, start)
    config = _config(kind, fields, n_rows, tied, top)
    config_file.check_context(config)
    return kind, config_file.canonical(config)


def _config(kind: str, fields: Fields, n_rows: int | None, tied: bool, top: Fields) -> GPTConfig:
    TABLES[kind].check(fields)
    n_embd, n_head = fields.count("embedding_length"), _count(fields, "attention.head_count")
    n_kv_head = _count(fields, "attention.head_count_kv") if fields.has("attention.head_count_kv") else None
    for name in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
        if fields.has(name) and fields.count(name) * n_head != n_embd:
            raise fields.wrong(name, f"'{kind}.embedding_length' / '{kind}.attention.head_count' = {n_embd} / {n_head}")
    if kind == "gpt2" and n_kv_head not in (None, n_head):
        raise fields.wrong("attention.head_count_kv", f"'gpt2.attention.head_count' = {n_head}")
    llama = kind == "llama"
    return GPTConfig(
        vocab_size=_vocab_size(fields, top, n_rows),
        block_size=fields.count("context_length"),
        n_layer=fields.count("block_count"),
        n_head=n_head,
        n_embd=n_embd,
        n_kv_head=n_kv_head,
        ffn_dim=_count(fields, "feed_forward_length"),
        position="rope" if llama else "learned",
        norm="rmsnorm" if llama else "layernorm",
        activation="swiglu" if llama else "gelu",
        bias=not llama and top.flag("tinygpt.bias", True),
        tie_embeddings=tied,
        rope_theta=fields.number("rope.freq_base", config_tables.DEFAULT_ROPE_THETA),
        norm_eps=fields.number(_EPSILON[kind]),
    )


def _count(fields: Fields, name: str) -> int:
    """Read a count that may be given once per block; all of them must be equal."""
    found, blocks = fields.content.get(name), fields.count("block_count")
    if not isinstance(found, list):
        return fields.count(name)
    if len(found) != blocks or any(one != found[0] for one in found):
        raise fields.wrong(name, f"one count, or {blocks} equal ones")
    return Fields({name: found[0]}, fields.prefix).count(name)


def _vocab_size(fields: Fields, top: Fields, n_rows: int | None) -> int:
    """Return the rows of the embedding, which the list of tokens must not exceed."""
    tokens = top.content.get(TOKENS, [])
    if not isinstance(tokens, list):
        raise top.wrong(TOKENS, "a list")
    if n_rows is None:
        return max(1, len(tokens))  # the missing embedding is refused with all other tensors
    if fields.has("vocab_size") and fields.count("vocab_size") != n_rows:
        raise fields.wrong("vocab_size", f"{n_rows}, the rows of tensor 'token_embd.weight'")
    if len(tokens) > n_rows:
        raise ValueError(f"'{TOKENS}' must have at most {n_rows} tokens, the rows of tensor 'token_embd.weight', "
                         f"got {len(tokens)}")  # fmt: skip
    return n_rows


def to_metadata(config: GPTConfig) -> dict[str, Any]:
    """Make the fields of a model; the tokenizer has its own.

    Parameters
    ----------
    config : GPTConfig
        Of family gpt2 or llama.

    Returns
    -------
    dict of str to bool, int or float
    """
    kind = config_file.family(config)
    fields: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "context_length": config.block_size,
        "embedding_length": config.n_embd,
        "block_count": config.n_layer,
        "feed_forward_length": config.ffn_width,
        "attention.head_count": config.n_head,
        "attention.head_count_kv": config.kv_heads,
        _EPSILON[kind]: float(config.norm_eps),
    }
    if kind == "llama":
        fields |= {"rope.dimension_count": config.head_dim, "rope.freq_base": float(config.rope_theta)}
    named = {f"{kind}.{name}": value for name, value in fields.items()}
    return named if config.bias or kind == "llama" else {**named, "tinygpt.bias": False}
