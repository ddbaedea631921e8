"""Reading and writing config.json: GPTConfig in the fields of GPT-2, of Llama, or in its own.

family    options                                           read by
gpt2      learned, layernorm, gelu, n_kv_head = n_head      transformers.GPT2LMHeadModel
llama     rope, rmsnorm, swiglu, no bias                    transformers.LlamaForCausalLM
tinygpt   any other mix                                     here alone

Design
- Every field has a kind in tinygpt/files/config_tables.py. A field that would change the logits must have the value
  that the model computes: exact GELU, a scaled rotary embedding and biases in a Llama are refused by name. Fields that
  change only training or speed (`initializer_range`, `use_cache`, ...) are skipped, as is dropout on attention
  weights, which the model does not have.
- GPT-2 always has biases. A model without them is written with zeros and ``"tinygpt": {"bias": false}``. Llama has no
  dropout, so its rate is written under ``"tinygpt"`` too. transformers keeps such a field and does not use it.
- A default is read back as None, as in GPTConfig: `n_kv_head` equal to `n_head`, the usual `ffn_dim`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection
from pathlib import Path

from tinygpt.config import GPTConfig
from tinygpt.files import config_tables
from tinygpt.io.strict import Fields, Object, naming, read_object, shown

NAME = "config.json"
FAMILIES = ("gpt2", "llama", "tinygpt")
# No tensor in a file bounds the size of the rotary tables: 512 MB at this context and D = 128.
MAX_ROPE_POSITIONS = 2**20


def family(config: GPTConfig) -> str:
    """Return the family that a model is written as: one of `FAMILIES`."""
    kind = (config.position, config.norm, config.activation)
    if kind == ("learned", "layernorm", "gelu") and config.kv_heads == config.n_head:
        return "gpt2"
    if kind == ("rope", "rmsnorm", "swiglu") and not config.bias:
        return "llama"
    return "tinygpt"


def read(directory: Path) -> tuple[str, GPTConfig]:
    """Read the config.json of a model directory.

    Parameters
    ----------
    directory : Path

    Returns
    -------
    family : str
    config : GPTConfig

    Raises
    ------
    FileNotFoundError
        There is no such directory, or no config.json in it.
    ValueError
        Not a directory, not a config.json of a supported family, or a field that is missing, unknown, mistyped, out of
        range, or asks for something that the model does not compute.
    """
    if not directory.exists():
        raise FileNotFoundError(f"{directory}: no such directory")
    if not directory.is_dir():
        raise ValueError(f"{directory}: must be a model directory (tinygpt import makes one of a GGUF file)")
    file = directory / NAME
    if not file.exists():
        raise FileNotFoundError(f"{directory}: is not a model directory, there is no {NAME} in it")
    content = read_object(file)
    with naming(file):
        return from_json(content)


def from_json(content: Object) -> tuple[str, GPTConfig]:
    """Return the family and the GPTConfig of a config.json; raises the errors of `read`."""
    fields = Fields(content)
    kind = fields.text("model_type")
    readers = {"gpt2": _from_gpt2, "llama": _from_llama, "tinygpt": _from_own}
    if kind not in readers:
        raise ValueError(f"'model_type' must be one of {', '.join(FAMILIES)}, got {shown(kind)}")
    config = readers[kind](fields)
    check_context(config)
    return kind, config


def check_context(config: GPTConfig) -> None:
    """Raise ValueError for a context whose rotary tables would be too large."""
    if config.position == "rope" and config.block_size > MAX_ROPE_POSITIONS:
        raise ValueError(f"the context must be at most {MAX_ROPE_POSITIONS} positions, got {config.block_size}")


def to_bytes(
    config: GPTConfig, start_id: int | None = None, end_ids: Collection[int] = (), dtype: str = "float32"
) -> bytes:
    """Make the content of a config.json.

    Parameters
    ----------
    config : GPTConfig
    start_id : int, optional
        Id of the token at the beginning of a text. Without one, null is written, because transformers would otherwise
        assume an id that may not be in the vocabulary.
    end_ids : collection of int
        Ids of the tokens that end a text; null if there are none.
    dtype : str
        Type of the weights in the file, which transformers loads them as.

    Returns
    -------
    bytes
    """
    kind = family(config)
    fields = {"gpt2": _to_gpt2, "llama": _to_llama, "tinygpt": _to_own}[kind](config)
    if "torch_dtype" in fields:
        fields["torch_dtype"] = dtype
    ends = sorted(end_ids) if len(end_ids) > 1 else min(end_ids, default=None)
    content = {"model_type": kind, **fields, "bos_token_id": start_id, "eos_token_id": ends}
    return (json.dumps(content, indent=2) + "\n").encode()


def canonical(config: GPTConfig) -> GPTConfig:
    """Replace options that have their default value by None."""
    usual = dataclasses.replace(config, n_kv_head=None, ffn_dim=None)
    return dataclasses.replace(
        config,
        n_kv_head=None if config.kv_heads == usual.kv_heads else config.n_kv_head,
        ffn_dim=None if config.ffn_width == usual.ffn_width else config.ffn_dim,
    )


def _to_gpt2(config: GPTConfig) -> Object:
    content: Object = {
        "architectures": ["GPT2LMHeadModel"],
        "torch_dtype": "float32",
        "vocab_size": config.vocab_size,
        "n_positions": config.block_size,
        "n_embd": config.n_embd,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_inner": config.ffn_width,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": config.norm_eps,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": 0.0,
        "tie_word_embeddings": config.tie_embeddings,
    }
    return content if config.bias else {**content, "tinygpt": {"bias": False}}


def _from_gpt2(fields: Fields) -> GPTConfig:
    config_tables.GPT2.check(fields)
    if fields.content.get("scale_attn_weights", True) is None:  # which transformers takes for false
        raise fields.wrong("scale_attn_weights", "true")
    own = fields.object("tinygpt")
    own.only({"bias"})
    dropout, embd_dropout = fields.number("resid_pdrop", 0.1), fields.number("embd_pdrop", 0.1)
    if dropout != embd_dropout:
        raise ValueError(f"'embd_pdrop' must equal 'resid_pdrop' {dropout}, got {embd_dropout}")
    return canonical(
        GPTConfig(
            vocab_size=fields.count("vocab_size"),
            block_size=fields.count("n_positions"),
            n_layer=fields.count("n_layer"),
            n_head=fields.count("n_head"),
            n_embd=fields.count("n_embd"),
            ffn_dim=fields.optional_count("n_inner"),
            bias=own.flag("bias", True),
            tie_embeddings=fields.flag("tie_word_embeddings", True),
            dropout=dropout,
            norm_eps=fields.number("layer_norm_epsilon", 1e-5),
        )
    )


def _to_llama(config: GPTConfig) -> Object:
    content: Object = {
        "architectures": ["LlamaForCausalLM"],
        "torch_dtype": "float32",
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.block_size,
        "hidden_size": config.n_embd,
        "intermediate_size": config.ffn_width,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "tie_word_embeddings": config.tie_embeddings,
    }
    return {**content, "tinygpt": {"dropout": config.dropout}} if config.dropout else content


def _from_llama(fields: Fields) -> GPTConfig:
    config_tables.LLAMA.check(fields)
    own = fields.object("tinygpt")
    own.only({"dropout"})
    n_embd, n_head = fields.count("hidden_size"), fields.count("num_attention_heads")
    if fields.has("head_dim") and fields.count("head_dim") * n_head != n_embd:
        raise fields.wrong("head_dim", f"'hidden_size' / 'num_attention_heads' = {n_embd} / {n_head}")
    return canonical(
        GPTConfig(
            vocab_size=fields.count("vocab_size"),
            block_size=fields.count("max_position_embeddings"),
            n_layer=fields.count("num_hidden_layers"),
            n_head=n_head,
            n_embd=n_embd,
            n_kv_head=fields.optional_count("num_key_value_heads"),
            ffn_dim=fields.count("intermediate_size"),
            position="rope",
            norm="rmsnorm",
            activation="swiglu",
            bias=False,
            tie_embeddings=fields.flag("tie_word_embeddings", False),
            dropout=own.number("dropout", 0.0),
            rope_theta=config_tables.rope_theta(fields),
            norm_eps=fields.number("rms_norm_eps", 1e-6),
        )
    )


def _to_own(config: GPTConfig) -> Object:
    return {"architectures": ["tinygpt.GPT"], **dataclasses.asdict(config)}


def _from_own(fields: Fields) -> GPTConfig:
    config_tables.OWN.check(fields)
    return GPTConfig(
        vocab_size=fields.count("vocab_size"),
        block_size=fields.count("block_size"),
        n_layer=fields.count("n_layer"),
        n_head=fields.count("n_head"),
        n_embd=fields.count("n_embd"),
        n_kv_head=fields.optional_count("n_kv_head"),
        ffn_dim=fields.optional_count("ffn_dim"),
        position=fields.text("position"),
        norm=fields.text("norm"),
        activation=fields.text("activation"),
        bias=fields.flag("bias"),
        tie_embeddings=fields.flag("tie_embeddings"),
        dropout=fields.number("dropout"),
        rope_theta=fields.number("rope_theta"),
        norm_eps=fields.number("norm_eps"),
    )
