"""Names of tensors: the mapping between the tensors of a file and the parameters of a model.

own parameter            GPT-2                       Llama
wte.weight               wte.weight                  embed_tokens.weight
wpe.weight               wpe.weight
blocks.i.norm1           h.i.ln_1                    layers.i.input_layernorm
blocks.i.attn.qkv        h.i.attn.c_attn   (in,out)  layers.i.self_attn.q_proj, k_proj, v_proj
blocks.i.attn.out        h.i.attn.c_proj   (in,out)  layers.i.self_attn.o_proj
blocks.i.norm2           h.i.ln_2                    layers.i.post_attention_layernorm
blocks.i.mlp.up          h.i.mlp.c_fc      (in,out)  layers.i.mlp.gate_proj, up_proj
blocks.i.mlp.down        h.i.mlp.c_proj    (in,out)  layers.i.mlp.down_proj
norm                     ln_f                        norm
head.weight              lm_head.weight              lm_head.weight

All names but the head's have a prefix, ``transformer.`` or ``model.``, in a whole model and none in a bare one. Linear
weights are (out, in) here and in Llama, (in, out) in GPT-2. A parameter that is fused here and not in Llama has its
parts in consecutive rows, so each part is a view and nothing is copied together.

GGUF has names of its own, the same for both families (`gguf_pieces`), and all its linear weights are (out, in). Its
Llama rotates neighbouring pairs of a head, (0, 1), (2, 3), ..., where Hugging Face and this package rotate (0, D/2),
(1, D/2 + 1), ... So in a GGUF file, the rows of each query and key head are in the order 0, D/2, 1, D/2 + 1, ...

All functions are generators over the config, so that a config.json that asks for 10^9 layers costs no memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tinygpt.config import GPTConfig

Shape = tuple[int, ...]

PREFIX = {"gpt2": "transformer.", "llama": "model.", "tinygpt": ""}
HEAD = "lm_head.weight"
_GPT2 = {
    "norm1": "ln_1",
    "attn.qkv": "attn.c_attn",
    "attn.out": "attn.c_proj",
    "norm2": "ln_2",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}
_LLAMA = {
    "norm1": "input_layernorm",
    "attn.out": "self_attn.o_proj",
    "norm2": "post_attention_layernorm",
    "mlp.down": "mlp.down_proj",
}
_GGUF = {
    "wte.weight": "token_embd.weight",
    "wpe.weight": "position_embd.weight",
    "embed_tokens.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "ln_f.weight": "output_norm.weight",
    "ln_f.bias": "output_norm.bias",
    HEAD: "output.weight",
}
_GGUF_BLOCK = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


class Piece(NamedTuple):
    """A tensor of a file and the part of a parameter that it holds.

    Attributes
    ----------
    name : str
        Name in the file.
    shape : tuple of int
        Shape in the file.
    parameter : str or None
        Name of the parameter. None for a bias of zeros, which the family has and the model does not.
    rows : slice
        Rows of the parameter that the tensor holds.
    transposed : bool
        Whether the file holds (in, out).
    heads : int
        Number of heads whose rows are reordered for the rotation of neighbours; 0 if none are.
    """

    name: str
    shape: Shape
    parameter: str | None
    rows: slice = slice(None)
    transposed: bool = False
    heads: int = 0

    def from_file(self, array: np.ndarray) -> np.ndarray:
        """Convert the values of the file to the parameter's rows."""
        if self.heads:
            pairs = array.reshape(self.heads, -1, 2, *array.shape[1:])
            return pairs.swapaxes(1, 2).reshape(array.shape)
        return array.T if self.transposed else array

    def to_file(self, array: np.ndarray) -> np.ndarray:
        """Convert the parameter's rows to the values of the file."""
        if self.heads:
            halves = array.reshape(self.heads, 2, -1, *array.shape[1:])
            return halves.swapaxes(1, 2).reshape(array.shape)
        return array.T if self.transposed else array


def parameters(config: GPTConfig) -> Iterator[tuple[str, Shape]]:
    """Yield name and shape of every parameter of GPT(config), in order, without building the model."""
    C = config.n_embd
    yield "wte.weight", (config.vocab_size, C)
    if config.position == "learned":
        yield "wpe.weight", (config.block_size, C)
    for i in range(config.n_layer):
        for name, shape in _block(config):
            yield f"blocks.{i}.{name}", shape
    yield from (("norm." + name, shape) for name, shape in _norm(config))
    if not config.tie_embeddings:
        yield "head.weight", (config.vocab_size, C)


def _norm(config: GPTConfig) -> Iterator[tuple[str, Shape]]:
    yield "weight", (config.n_embd,)
    if config.bias and config.norm == "layernorm":
        yield "bias", (config.n_embd,)


def _block(config: GPTConfig) -> Iterator[tuple[str, Shape]]:
    C, F = config.n_embd, config.ffn_width
    linears = {
        "attn.qkv": ((config.n_head + 2 * config.kv_heads) * config.head_dim, C),
        "attn.out": (C, C),
        "mlp.up": (F if config.activation == "gelu" else 2 * F, C),
        "mlp.down": (C, F),
    }
    for layer in ("norm1", "attn.qkv", "attn.out", "norm2", "mlp.up", "mlp.down"):
        if layer in linears:
            yield f"{layer}.weight", linears[layer]
            if config.bias:
                yield f"{layer}.bias", linears[layer][:1]
        else:
            yield from ((f"{layer}.{name}", shape) for name, shape in _norm(config))


def pieces(family: str, config: GPTConfig, prefix: str) -> Iterator[Piece]:
    """Yield the tensors of a file, each with its place in the model.

    Parameters
    ----------
    family : str
        gpt2, llama or tinygpt.
    config : GPTConfig
    prefix : str
        Prefix of all names but the head's.

    Yields
    ------
    Piece
    """
    if family == "tinygpt":
        yield from (Piece(name, shape, name) for name, shape in parameters(config))
    elif family == "gpt2":
        yield from _gpt2_pieces(config, prefix)
    else:
        yield from _llama_pieces(config, prefix)


def _gpt2_pieces(config: GPTConfig, prefix: str) -> Iterator[Piece]:
    for name, shape in parameters(config):
        if name == "head.weight":
            yield Piece(HEAD, shape, name)
        elif name.startswith("norm."):
            yield from _with_bias(prefix + name.replace("norm.", "ln_f."), shape, name, config)
        elif name.startswith("blocks."):
            _, i, inner = name.split(".", 2)
            layer, kind = inner.rsplit(".", 1)
            yield from _with_bias(f"{prefix}h.{i}.{_GPT2[layer]}.{kind}", shape, name, config)
        else:
            yield Piece(prefix + name, shape, name)


def gguf_pieces(family: str, config: GPTConfig) -> Iterator[Piece]:
    """Yield the tensors of a GGUF file, each with its place in the model.

    Parameters
    ----------
    family : str
        gpt2 or llama.
    config : GPTConfig

    Yields
    ------
    Piece
    """
    heads = {"attn_q": config.n_head, "attn_k": config.kv_heads}
    for piece in pieces(family, config, ""):
        shape = piece.shape[::-1] if piece.transposed else piece.shape
        if piece.name in _GGUF:
            yield Piece(_GGUF[piece.name], shape, piece.parameter, piece.rows)
        else:
            _, i, inner = piece.name.split(".", 2)
            layer, kind = inner.rsplit(".", 1)
            name = _GGUF_BLOCK[layer]
            yield Piece(f"blk.{i}.{name}.{kind}", shape, piece.parameter, piece.rows, heads=heads.get(name, 0))


def _with_bias(target: str, shape: Shape, name: str, config: GPTConfig) -> Iterator[Piece]:
    """Yield a tensor of a GPT-2 block and, if the model has no biases, a bias of zeros after a weight."""
    yield Piece(target, shape[::-1], name, transposed=len(shape) == 2)
    if not config.bias:
        yield Piece(target.removesuffix("weight") + "bias", shape[:1], None)


def _llama_pieces(config: GPTConfig, prefix: str) -> Iterator[Piece]:
    for name, shape in parameters(config):
        if name == "head.weight":
            yield Piece(HEAD, shape, name)
        elif name == "wte.weight":
            yield Piece(prefix + "embed_tokens.weight", shape, name)
        elif name == "norm.weight":
            yield Piece(prefix + name, shape, name)
        else:
            _, i, inner = name.split(".", 2)
            layer = inner.removesuffix(".weight")
            if layer in _LLAMA:
                yield Piece(f"{prefix}layers.{i}.{_LLAMA[layer]}.weight", shape, name)
            else:
                yield from _split(f"{prefix}layers.{i}.", layer, shape, name, config)


def _split(target: str, layer: str, shape: Shape, name: str, config: GPTConfig) -> Iterator[Piece]:
    """Yield the parts of a fused weight, from its first row on."""
    if layer == "attn.qkv":
        q, kv = config.n_head * config.head_dim, config.kv_heads * config.head_dim
        parts = {"self_attn.q_proj": q, "self_attn.k_proj": kv, "self_attn.v_proj": kv}
    else:
        parts = {"mlp.gate_proj": config.ffn_width, "mlp.up_proj": config.ffn_width}
    start = 0
    for part, count in parts.items():
        yield Piece(f"{target}{part}.weight", (count, shape[1]), name, slice(start, start + count))
        start += count


def buffers(family: str, config: GPTConfig, prefix: str) -> Iterator[str]:
    """Yield names of tensors in real files that are not learned: causal masks, rotary frequencies."""
    if family == "gpt2":
        for i in range(config.n_layer):
            yield from (f"{prefix}h.{i}.attn.bias", f"{prefix}h.{i}.attn.masked_bias")
    if family == "llama":
        yield prefix + "rotary_emb.inv_freq"
        yield from (f"{prefix}layers.{i}.self_attn.rotary_emb.inv_freq" for i in range(config.n_layer))
