"""Hostile GGUF files: each gives a model, or a one-line error that names the file and the fault."""

import os
import re
import struct
import tracemalloc

import gguf_maker
import numpy as np
import pytest
from gguf_maker import BOOL, FLOAT32, INT32, LIST, STRING, UINT8, UINT64

from tinygpt import GPT, GPTConfig
from tinygpt.files import gguf, gguf_file, hf

pytest.importorskip("gguf")

SMALL = {"vocab_size": 11, "block_size": 7, "n_layer": 1, "n_head": 2, "n_embd": 8}
MODELS = {
    "gpt2": GPTConfig(**SMALL),
    "llama": GPTConfig(
        **SMALL, position="rope", norm="rmsnorm", activation="swiglu", bias=False, n_kv_head=1, ffn_dim=16
    ),
}
PARTS = {kind: gguf_maker.of(GPT(config)) for kind, config in MODELS.items()}
EMPTY = np.zeros(0, np.float32)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "x.gguf"


def read(path):
    """Read a model and its tokenizer, as `tinygpt import` does."""
    source = gguf.GGUFModel(path)
    source.tokenizer()
    return hf.build(source)


def refused(path, message=""):
    """Assert that reading fails with one line: the file's name, then the fault."""
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}: ") as caught:
        read(path)
    line = str(caught.value)
    assert line.isprintable(), line
    assert len(line) < 700
    assert re.search(message, line), line


def build(kind="llama", fields=None, tensors=None, drop=(), **options):
    """Pack a file with some fields or tensors changed or dropped."""
    held, arrays = PARTS[kind]
    kept = {name: content for name, content in held.items() if name not in drop}
    parts = {name: content for name, content in arrays.items() if name not in drop}
    return gguf_maker.pack({**kept, **(fields or {})}, {**parts, **(tensors or {})}, **options)


def test_undamaged_files_are_read(file):
    """Catches a test below that passes only because its file was never a valid model."""
    for kind, config in MODELS.items():
        file.write_bytes(build(kind))
        assert read(file).config.n_embd == config.n_embd


HEAD = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
CONTENTS = {
    "empty": (b"", "ends early, at byte 0, in the magic"),
    "other": (b"PK\x03\x04" + bytes(60), "must begin with 'GGUF'"),
    "version": (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "of version 2 or 3, got 1"),
    "byte order": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "highest byte first"),
    "fields": (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**62), "number of fields must be at most 0, as 0 bytes are left"),
    "tensors": (b"GGUF" + struct.pack("<IQQ", 3, 2**62, 0), "number of tensors must be at most 0"),
    "name": (HEAD + struct.pack("<Q", 2**63) + bytes(20), "length of the name of field 0 must be at most 20"),
    "no UTF-8": (HEAD + gguf_maker.string(b"\xff") + bytes(20), "name of field 0 must be UTF-8, got byte 0xFF"),
    "type": (HEAD + gguf_maker.string("a") + struct.pack("<IQ", 13, 0), "type of number, string or list, got 13"),
    "list of lists": (HEAD + gguf_maker.string("a") + struct.pack("<IIQQ", 9, 9, 1, 0), "list, got 9"),
    "long list": (HEAD + gguf_maker.string("a") + struct.pack("<IIQQ", 9, 4, 2**61, 0), "length of the list field 'a'"),
    "long texts": (
        HEAD + gguf_maker.string("a") + struct.pack("<IIQQ", 9, 8, 2**61, 0),
        "length of the list field 'a'",
    ),
    "boolean": (HEAD + gguf_maker.string("a") + struct.pack("<IB", 7, 2) + bytes(8), "true or false, got byte 2"),
    "twice": (
        b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + (gguf_maker.string("a") + struct.pack("<II", 4, 1)) * 2,
        "field 'a' is given twice",
    ),
}


@pytest.mark.parametrize(("content", "message"), CONTENTS.values(), ids=CONTENTS)
def test_invalid_headers(file, content, message):
    """Catches a length that is used unchecked, and a traceback of the parser."""
    file.write_bytes(content)
    refused(file, message)


def shaped(*shape, kind="F32", data=b""):
    return kind, shape, data


TENSORS = {
    "type": (build(tensors={"x": shaped(1, 32, kind="Q5_0", data=bytes(22))}), "'x' has type Q5_0, it must be F32 or "),
    "no type": (build(tensors={"x": shaped(1, kind=77, data=bytes(4))}), "tensor 'x' has type 77, it must be"),
    "axes": (build(tensors={"x": shaped(1, 1, 1, 1, 1)}), "'x' must have 1 to 4 axes, got 5"),
    "no axes": (build(tensors={"x": shaped()}), "'x' must have 1 to 4 axes, got 0"),
    "half a block": (build(tensors={"x": shaped(1, 31, kind="Q8_0")}), "Q8_0 needs rows of a multiple of 32"),
    "nothing": (build(tensors={"x": EMPTY}), r"'x' has shape \(0,\)"),
    "huge": (build(tensors={"x": shaped(2**62, 2**62)}), "'x' must end in the file"),
    "offset": (build(shift={"output_norm.weight": 2**63}), "'output_norm.weight' must end in the file"),
    "shared": (build(shift={"blk.0.attn_v.weight": 0}), "tensors '.*' and '.*' must not share bytes"),
    "alignment": (build(fields={"general.alignment": 24}), "'general.alignment' must be a power of two"),
    "no alignment": (build(fields={"general.alignment": 0}), "'general.alignment' must be a power of two"),
    "unknown": (
        build(tensors={"blk.0.attn_q.bias": np.ones(8, np.float32)}),
        "holds tensor 'blk.0.attn_q.bias', which ",
    ),
    "experts": (build(tensors={"blk.0.ffn_gate_inp.weight": np.ones(8, np.float32)}), "'blk.0.ffn_gate_inp.weight'"),
    "frequencies": (build(tensors={"rope_freqs.weight": np.ones(2, np.float32)}), "'rope_freqs.weight' scales the rot"),
    "missing": (build(drop=["blk.0.attn_q.weight"]), "has no tensor 'blk.0.attn_q.weight', which its metadata asks"),
    "no embedding": (build(drop=["token_embd.weight"]), "has no tensor 'token_embd.weight'"),
    "shape": (
        build(tensors={"blk.0.attn_k.weight": np.ones((8, 4), np.float32)}),
        r"'blk.0.attn_k.weight' has shape \(8, 4\), its metadata asks for \(4, 8\)",
    ),
    "NaN": (
        build(tensors={"blk.0.attn_v.weight": np.full((4, 8), np.nan, np.float32)}),
        "tensor 'blk.0.attn_v.weight' holds values that are NaN or infinite",
    ),
    "biases": (
        build("gpt2", {"tinygpt.bias": False}, {"output_norm.bias": np.ones(8, np.float32)}),
        "tensor 'output_norm.bias' must be zero, its metadata says that the model has no biases",
    ),
}


@pytest.mark.parametrize(("content", "message"), TENSORS.values(), ids=TENSORS)
def test_invalid_tensors(file, content, message):
    """Catches a tensor read from outside its bytes, and a required tensor that is ignored."""
    file.write_bytes(content)
    refused(file, message)


TOKENS = [str(i) for i in range(12)]
FIELDS = [
    ("llama", {"general.architecture": "qwen2"}, "'general.architecture' must be gpt2 or llama, got 'qwen2'"),
    ("llama", {"general.architecture": 7}, "'general.architecture' must be a string, got 7"),
    ("llama", {"general.type": "adapter"}, "'general.type' must be 'model', got 'adapter'"),
    ("llama", {"split.count": 3}, "'split.count' must be 1: .*gguf-split --merge, got 3"),
    ("llama", {"llama.block_count": 0}, "'llama.block_count' must be an integer from 1"),
    ("llama", {"llama.block_count": 1e9}, "'llama.block_count' must be an integer from 1"),
    ("llama", {"llama.block_count": (UINT64, 10**9)}, "has no tensor 'blk.1.attn_norm.weight'"),
    (
        "llama",
        {"llama.attention.head_count": (LIST, (INT32, [2, 2]))},
        "must be one count, or 1 equal ones, got a list",
    ),
    ("llama", {"llama.attention.head_count": (LIST, (INT32, [0]))}, "must be an integer from 1"),
    ("llama", {"llama.attention.head_count": 3}, "must be|'n_embd' 8 must be a multiple"),
    ("llama", {"llama.attention.head_count_kv": 2}, r"'blk.0.attn_k.weight' has shape \(4, 8\), .* asks for \(8, 8\)"),
    ("llama", {"llama.attention.key_length": 8}, "'llama.attention.key_length' must be .* = 8 / 2, got 8"),
    ("llama", {"llama.rope.dimension_count": 2}, "'llama.rope.dimension_count' must be .* = 8 / 2, got 2"),
    ("llama", {"llama.rope.scaling.type": "yarn"}, "'llama.rope.scaling.type' must be 'none' or 'linear', got 'yarn'"),
    ("llama", {"llama.rope.scaling.factor": 8.0}, "'llama.rope.scaling.factor' must be 1.0, got 8.0"),
    ("llama", {"llama.rope.freq_base": -1.0}, "'rope_theta' must be positive"),
    ("llama", {"llama.rope.freq_base": (FLOAT32, float("nan"))}, "'llama.rope.freq_base' must be a finite number"),
    ("llama", {"llama.expert_count": 8}, "'llama.expert_count' must be 0, got 8"),
    ("llama", {"llama.attention.sliding_window": 4096}, "'llama.attention.sliding_window' must be 0, got 4096"),
    ("llama", {"llama.logit_scale": 0.5}, "'llama.logit_scale' is not known here"),
    ("llama", {"llama.context_length": 2**30}, "context must be at most 1048576 positions, got 1073741824"),
    (
        "llama",
        {"llama.vocab_size": 12},
        "'llama.vocab_size' must be 11, the rows of tensor 'token_embd.weight', got 12",
    ),
    ("llama", {"tokenizer.ggml.tokens": TOKENS}, "'tokenizer.ggml.tokens' must have at most 11 tokens, .* got 12"),
    ("llama", {"tokenizer.ggml.tokens": 7}, "'tokenizer.ggml.tokens' must be a list, got 7"),
    ("llama", {"tokenizer.ggml.model": "llama"}, "llama"),
    ("llama", {"tokenizer.ggml.model": "gpt2"}, "tokenizer.ggml"),
    ("gpt2", {"gpt2.attention.head_count_kv": 1}, "'gpt2.attention.head_count_kv' must be .* = 2, got 1"),
    ("gpt2", {"gpt2.rope.freq_base": 7.0}, "'gpt2.rope.freq_base' is not known here"),
    ("gpt2", {"gpt2.context_length": 8}, r"'position_embd.weight' has shape \(7, 8\), its metadata asks for \(8, 8\)"),
    ("gpt2", {"tinygpt.bias": 7}, "'tinygpt.bias' must be true or false, got 7"),
    ("gpt2", {"gpt2.feed_forward_length": (UINT8, 7)}, "has shape"),
    ("gpt2", {"gpt2.use_parallel_residual": (BOOL, True)}, "must be false, got true"),
    ("gpt2", {"a\n\x1b": (STRING, "a\n\x1b"), "general.type": "\n\x1b"}, r"got '\\n\\u001b'"),
]


@pytest.mark.parametrize(("kind", "fields", "message"), FIELDS)
def test_invalid_fields(file, kind, fields, message):
    """Catches a field that changes the logits but is ignored, and an error of the wrong type."""
    file.write_bytes(build(kind, fields))
    refused(file, message)


@pytest.mark.parametrize(
    "name", ["general.architecture", "llama.block_count", "llama.attention.layer_norm_rms_epsilon"]
)
def test_missing_fields(file, name):
    """Catches a size that is guessed because the file does not state it."""
    file.write_bytes(build(drop=[name]))
    refused(file, f"'{name}' is missing$")


def test_missing_and_special_files(tmp_path):
    """Catches a bare errno, and an open that blocks for ever."""
    with pytest.raises(FileNotFoundError, match="nowhere: no such file"):
        gguf_file.GGUFFile(tmp_path / "nowhere")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        refused(tmp_path / "pipe", "must be a regular file")


def test_oversized_metadata(file, monkeypatch):
    """Catches a list of tokens that takes unbounded memory."""
    monkeypatch.setattr(gguf_file, "MAX_METADATA", 1000)
    file.write_bytes(build(fields={"a": "x" * 2000}))
    refused(file, "must have at most 1000 bytes of metadata")


def test_memory_is_bounded_by_the_file(file):
    """Catches memory allocated by stated lengths: here about 2^60 bytes in each."""
    tracemalloc.start()
    for content, _ in [*CONTENTS.values(), *TENSORS.values()]:
        file.write_bytes(content)
        tracemalloc.reset_peak()
        with pytest.raises(ValueError, match=r"x\.gguf: "):
            read(file)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    tracemalloc.stop()


def tokenized():
    """A file with a tokenizer and a quantised tensor."""
    rng = np.random.default_rng(1)
    tokens = [*map(chr, [*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324)]), "ab", "<|endoftext|>"]
    fields = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * 257 + [3],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.bos_token_id": 257,
        "tokenizer.ggml.eos_token_id": 257,
    }
    options = {**vars(MODELS["llama"]), "vocab_size": 258, "n_embd": 32, "n_head": 4}
    held, tensors = gguf_maker.of(GPT(GPTConfig(**options)))
    blocks = rng.integers(0, 256, (258, 34), np.uint8)
    blocks[:, 1] &= 0x3B
    tensors["token_embd.weight"] = "Q8_0", (258, 32), blocks.tobytes()
    return gguf_maker.pack({**held, **fields}, tensors)


def model_or_line(path):
    """Return whether reading gives a model; fail on anything but a model or a ValueError of one line."""
    try:
        model = read(path)
    except ValueError as error:
        line = str(error)
        assert line.startswith(f"{path}: "), line
        assert line.isprintable(), line
        return False
    assert all(np.isfinite(parameter.data).all() for parameter in model.parameters())
    return True


def test_truncated_anywhere(file):
    """Catches a truncated file read as a model, or an error other than one line."""
    content = tokenized()
    file.write_bytes(content)
    assert model_or_line(file)
    # The last tensor ends with the file, so that every cut loses data.
    for length in {*range(0, len(content), 211), *range(600, 900), len(content) - 1}:
        file.write_bytes(content[:length])
        assert not model_or_line(file), length


@pytest.mark.parametrize("seed", range(4))
def test_random_bytes(file, seed):
    """Catches any other error or crash of a file with one to four random bytes, mostly in its header."""
    rng = np.random.default_rng(seed)
    content = tokenized()
    models = 0
    for _ in range(150):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content) if rng.random() < 0.1 else 7000, rng.integers(1, 5)):
            damaged[place] = rng.choice([0, 255, damaged[place] ^ (1 << rng.integers(8)), rng.integers(256)])
        file.write_bytes(damaged)
        models += model_or_line(file)
    assert 0 < models < 150


def test_harmless_values_are_read(tmp_path):
    """Catches a file refused for values that change nothing: equal counts per block, a factor of 1."""
    config = GPTConfig(**{**vars(MODELS["llama"]), "n_layer": 2})
    fields, tensors = gguf_maker.of(GPT(config))
    changes = {
        "llama.attention.head_count": (LIST, (INT32, [2, 2])),
        "llama.rope.scaling.type": "linear",
        "llama.rope.scaling.factor": 1.0,
        "llama.rope.scaling.original_context_length": 8,
    }
    for name, made in (("plain", fields), ("harmless", {**fields, **changes})):
        (tmp_path / name).write_bytes(gguf_maker.pack(made, tensors))
    assert gguf.GGUFModel(tmp_path / "harmless").config == gguf.GGUFModel(tmp_path / "plain").config
