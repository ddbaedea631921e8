"""GGUF files for tests, packed byte by byte from llama.cpp's description of the format, damaged ones too."""

import struct

import numpy as np

KINDS = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q8_0": 8, "Q4_K": 12, "Q6_K": 14, "BF16": 30, "F64": 28}
UINT8, INT32, UINT32, FLOAT32, BOOL, STRING, LIST, UINT64 = 0, 5, 4, 6, 7, 8, 9, 10
CODES = {UINT8: "B", INT32: "i", UINT32: "I", FLOAT32: "f", BOOL: "?", UINT64: "Q"}


def string(text):
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data


def value(kind, content):
    """Pack the type and the content of a field; a list is given as (type, [content, ...])."""
    if kind == STRING:
        return struct.pack("<I", STRING) + string(content)
    if kind == LIST:
        inner, items = content
        parts = [string(item) if inner == STRING else struct.pack("<" + CODES[inner], item) for item in items]
        return struct.pack("<IIQ", LIST, inner, len(items)) + b"".join(parts)
    return struct.pack("<I" + CODES[kind], kind, content)


def typed(content):
    """Choose the usual GGUF type for a Python value."""
    if isinstance(content, tuple):
        return content
    if isinstance(content, list):
        return LIST, (STRING if isinstance(content[0], str) else INT32, content)
    return {bool: BOOL, int: UINT32, float: FLOAT32, str: STRING}[type(content)], content


def pack(fields, tensors, alignment=32, version=3, shift=None):
    """Pack a whole file.

    `fields` are Python values or (type, value). `tensors` are float32 arrays or (type, shape, bytes). `shift` maps a
    tensor name to a wrong offset.
    """
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(fields))
    head += b"".join(string(name) + value(*typed(content)) for name, content in fields.items())
    data = b""
    for name, tensor in tensors.items():
        kind, shape, content = tensor if isinstance(tensor, tuple) else ("F32", tensor.shape, tensor.tobytes())
        data += b"\0" * (-len(data) % alignment)
        offset = len(data) if shift is None else shift.get(name, len(data))
        number = KINDS.get(kind, kind)
        head += string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], number, offset)
        data += content
    return head + b"\0" * (-len(head) % alignment) + data


def neighbours(rows, n_head):
    """Reorder the rows of each head for llama.cpp's rotation, which pairs neighbours: 0, D/2, 1, D/2 + 1, ..."""
    D = len(rows) // n_head
    order = [h * D + place for h in range(n_head) for j in range(D // 2) for place in (j, j + D // 2)]
    return rows[order]


def of(model):
    """The fields and tensors of a model, without a tokenizer."""
    return _llama(model) if model.config.position == "rope" else _gpt2(model)


def _sizes(kind, config):
    names = {
        "block_count": config.n_layer,
        "context_length": config.block_size,
        "embedding_length": config.n_embd,
        "feed_forward_length": config.ffn_width,
        "attention.head_count": config.n_head,
    }
    return {"general.architecture": kind, **{f"{kind}.{name}": content for name, content in names.items()}}


def _llama(model):
    config, held = model.config, {name: parameter.data for name, parameter in model.named_parameters()}
    fields = _sizes("llama", config) | {
        "llama.attention.head_count_kv": config.kv_heads,
        "llama.attention.layer_norm_rms_epsilon": config.norm_eps,
        "llama.rope.freq_base": config.rope_theta,
        "llama.rope.dimension_count": config.head_dim,
    }
    tensors = {"token_embd.weight": held["wte.weight"], "output_norm.weight": held["norm.weight"]}
    q, kv, F = config.n_embd, config.kv_heads * config.head_dim, config.ffn_width
    for i in range(config.n_layer):
        own, theirs = f"blocks.{i}.", f"blk.{i}."
        qkv, up = held[own + "attn.qkv.weight"], held[own + "mlp.up.weight"]
        block = {
            "attn_norm": held[own + "norm1.weight"],
            "attn_q": neighbours(qkv[:q], config.n_head),
            "attn_k": neighbours(qkv[q : q + kv], config.kv_heads),
            "attn_v": qkv[q + kv :],
            "attn_output": held[own + "attn.out.weight"],
            "ffn_norm": held[own + "norm2.weight"],
            "ffn_gate": up[:F],
            "ffn_up": up[F:],
            "ffn_down": held[own + "mlp.down.weight"],
        }
        tensors |= {f"{theirs}{name}.weight": array for name, array in block.items()}
    if not config.tie_embeddings:
        tensors["output.weight"] = held["head.weight"]
    return fields, tensors


def _gpt2(model):
    config, held = model.config, {name: parameter.data for name, parameter in model.named_parameters()}
    fields = _sizes("gpt2", config) | {"gpt2.attention.layer_norm_epsilon": config.norm_eps}
    table = {
        "attn_norm": "norm1",
        "attn_qkv": "attn.qkv",
        "attn_output": "attn.out",
        "ffn_norm": "norm2",
        "ffn_up": "mlp.up",
        "ffn_down": "mlp.down",
    }
    tensors = {"token_embd.weight": held["wte.weight"], "position_embd.weight": held["wpe.weight"]}
    for kind in ("weight", "bias"):
        tensors[f"output_norm.{kind}"] = held[f"norm.{kind}"]
        for i in range(config.n_layer):
            tensors |= {f"blk.{i}.{name}.{kind}": held[f"blocks.{i}.{own}.{kind}"] for name, own in table.items()}
    if not config.tie_embeddings:
        tensors["output.weight"] = held["head.weight"]
    return fields, {name: np.ascontiguousarray(array) for name, array in tensors.items()}
