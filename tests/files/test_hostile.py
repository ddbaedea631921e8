"""Hostile model directories: each is refused in one line that names the file and the fault."""

import json
import math
import os
import re
import struct

import numpy as np
import pytest

import tinygpt
from tinygpt import GPT, GPTConfig
from tinygpt.files import hf

SMALL = {"vocab_size": 11, "block_size": 7, "n_layer": 2, "n_head": 2, "n_embd": 8}
CONFIGS = {
    "gpt2": GPTConfig(**SMALL),
    "llama": GPTConfig(**SMALL, position="rope", norm="rmsnorm", activation="swiglu", bias=False),
    "tinygpt": GPTConfig(**SMALL, position="rope"),
}
WTE = "transformer.wte.weight"
LAST = "transformer.ln_f.bias"
QKV = "transformer.h.0.attn.c_attn.weight"


@pytest.fixture
def make(tmp_path):
    """A function that saves a valid model directory of a family."""

    def made(family="gpt2", **options):
        folder = tmp_path / "tiny"
        tinygpt.save(folder, GPT(GPTConfig(**{**vars(CONFIGS[family]), **options})))
        return folder

    return made


def unpack(file):
    """Read the header and the data of a safetensors file."""
    content = file.read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def pack(file, header, data):
    """Write a safetensors file from its parts; the header may be bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


def refused(folder, file, message, kind=ValueError):
    """Assert that `tinygpt.load` fails with one line: the file's name, then the fault."""
    with pytest.raises(kind) as caught:
        tinygpt.load(folder)
    line = str(caught.value)
    assert "\n" not in line
    assert line.isprintable()
    assert len(line) < 500
    assert line.startswith(f"{folder / file if file else folder}: "), line
    assert re.search(message, line), line


def never(*args, **kwargs):
    raise AssertionError("a model was built before its files were checked")


# Paths that are not model directories


def test_a_missing_directory(tmp_path):
    """Catches a bare errno, or a traceback from the first file that is opened."""
    refused(tmp_path / "nowhere", "", "no such directory", FileNotFoundError)


def test_a_file_in_place_of_a_directory(tmp_path):
    """Catches a path below a file that is opened."""
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "", "must be a model directory")


def test_a_directory_of_other_files(tmp_path):
    """Catches an error about a missing file when the user chose the wrong directory."""
    (tmp_path / "notes.txt").write_text("x")
    refused(tmp_path, "", "not a model directory, there is no config.json", FileNotFoundError)


@pytest.mark.parametrize(
    ("beside", "message"),
    [
        ("notes.txt", "no such file$"),
        ("pytorch_model.bin", r"pickle.*save_pretrained\(dir, safe_serialization=True\)"),
    ],
)
def test_missing_weights(make, beside, message):
    """Catches a pickle that is opened, and an error that does not say how to convert it."""
    folder = make()
    (folder / "model.safetensors").rename(folder / beside)
    refused(folder, "model.safetensors", message, FileNotFoundError)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes on Windows")
def test_a_pipe_in_place_of_a_file(make, name):
    """Catches an open that blocks for ever."""
    folder = make()
    (folder / name).unlink()
    os.mkfifo(folder / name)
    refused(folder, name, "must be a regular file")


# config.json

TEXTS = {
    "empty": (b"", "must be JSON"),
    "cut": (b'{"model_type": "gpt2", "n_em', "must be JSON"),
    "binary": (b"\x80\x04\x95", "must be UTF-8, got byte 0x80 at 0"),
    "list": (b"[]", "must hold an object, got a list of 0"),
    "twice": (b'{"n_layer": 1, "n_layer": 2}', "an object has the key 'n_layer' twice"),
    "NaN": (b'{"n_layer": NaN}', "JSON, which has no NaN"),
    "deep": (b"[" * 1_000_000, "must be JSON of at most 100 levels"),
    "long number": (b'{"n_layer": ' + b"9" * 5000 + b"}", "4300 digits"),
    "huge": (b" " * (16 * 2**20 + 1), "must be at most 16777216 bytes long, got 16777217"),
    "no family": (b"{}", "'model_type' is missing"),
    "family of a number": (b'{"model_type": 7}', "'model_type' must be a string, got 7"),
    "other family": (b'{"model_type": "mamba"}', "'model_type' must be one of gpt2, llama, tinygpt, got 'mamba'"),
    "family in many lines": (b'{"model_type": "a\\nb\\u001b[2J"}', r"got 'a\\nb\\u001b\[2J'"),
}


@pytest.mark.parametrize(("text", "message"), TEXTS.values(), ids=TEXTS)
def test_invalid_config_files(make, text, message):
    """Catches a traceback of the JSON parser, a RecursionError, and a file read without a size limit."""
    folder = make()
    (folder / "config.json").write_bytes(text)
    refused(folder, "config.json", message)


COUNT = "must be an integer from 1 to 2147483647, got "
FIELDS = [
    *(("gpt2", "n_layer", bad, f"'n_layer' {COUNT}") for bad in (0, -1, 2.0, "2", True, None, [2], 2**31, 10**400)),
    ("gpt2", "vocab_size", {}, f"'vocab_size' {COUNT}an object of 0"),
    ("gpt2", "n_inner", -4, f"'n_inner' {COUNT}-4"),
    ("gpt2", "n_head", 3, "'n_embd' 8 must be a multiple of 'n_head' 3"),
    ("gpt2", "activation_function", "gelu", "'activation_function' must be 'gelu_new' or 'gelu_pytorch_tanh', got "),
    ("gpt2", "scale_attn_weights", False, "'scale_attn_weights' must be true, got false"),
    ("gpt2", "scale_attn_by_inverse_layer_idx", True, "must be false, got true"),
    ("gpt2", "scale_attn_by_inverse_layer_idx", 0, "must be false, got 0"),
    ("gpt2", "add_cross_attention", True, "must be false, got true"),
    ("gpt2", "layer_norm_epsilon", "small", "'layer_norm_epsilon' must be a number, got 'small'"),
    ("gpt2", "layer_norm_epsilon", 0, "'norm_eps' must be positive"),
    ("gpt2", "layer_norm_epsilon", 10**400, "must be a finite number, got a number of more than 60 digits"),
    ("gpt2", "resid_pdrop", 1.0, "'embd_pdrop' must equal 'resid_pdrop' 1.0, got 0.0"),
    ("gpt2", "embd_pdrop", False, "'embd_pdrop' must be a number, got false"),
    ("gpt2", "tie_word_embeddings", "yes", "'tie_word_embeddings' must be true or false, got 'yes'"),
    ("gpt2", "tinygpt", True, "'tinygpt' must be an object, got true"),
    ("gpt2", "tinygpt", {"bias": 0}, "'tinygpt.bias' must be true or false, got 0"),
    ("gpt2", "tinygpt", {"n_layer": 1}, "'tinygpt.n_layer' is not known here"),
    ("llama", "hidden_act", "gelu", "'hidden_act' must be 'silu' or 'swish', got 'gelu'"),
    ("llama", "attention_bias", True, "'attention_bias' must be false, got true"),
    ("llama", "mlp_bias", True, "'mlp_bias' must be false, got true"),
    ("llama", "head_dim", 8, "'head_dim' must be 'hidden_size' / 'num_attention_heads' = 8 / 2, got 8"),
    ("llama", "num_attention_heads", 8, "'head_dim' must be"),
    ("llama", "num_key_value_heads", 3, "must be a multiple of 'n_kv_head' 3"),
    ("llama", "max_position_embeddings", 2**30, "context must be at most 1048576 positions, got 1073741824"),
    ("llama", "rope_theta", -1, "'rope_theta' must be positive"),
    ("llama", "rope_scaling", {"rope_type": "llama3", "factor": 8.0}, "must be 'default', .* got 'llama3'"),
    ("llama", "rope_scaling", {"type": "linear", "factor": 2.0}, "'rope_scaling.type' must be 'default', .*'linear'"),
    ("llama", "rope_parameters", {"rope_type": "yarn"}, "'rope_parameters.rope_type' must be 'default', .*'yarn'"),
    (
        "llama",
        "rope_parameters",
        {"rope_theta": 7.0},
        "one rotary base, got 'rope_theta' 10000.0, 'rope_parameters.rope",
    ),
    ("llama", "rope_parameters", {"beta_fast": 7.0}, "'rope_parameters.beta_fast' is not known here"),
    ("llama", "rope_scaling", {"type": "linear"}, "'rope_scaling.type' must be 'default', .*'linear'"),
    ("llama", "partial_rotary_factor", 0.5, "'partial_rotary_factor' must be 1.0, got 0.5"),
    ("llama", "attention_multiplier", 0.5, "'attention_multiplier' is not known here; it might change the result"),
    ("llama", "quantization_config", {"bits": 8}, "'quantization_config' must be null, got an object of 1"),
    ("gpt2", "scale_attn_weights", None, "'scale_attn_weights' must be true, got null"),
    ("gpt2", "auto_map", {"AutoModel": "x"}, "'auto_map' must be null, got an object of 1"),
    ("llama", "tinygpt", {"dropout": 2}, "'dropout' must be at least 0 and less than 1"),
    ("tinygpt", "norm", "batchnorm", "'norm' must be layernorm or rmsnorm, got 'batchnorm'"),
    ("tinygpt", "activation", 1, "'activation' must be a string, got 1"),
    ("tinygpt", "bias", 1, "'bias' must be true or false, got 1"),
    ("tinygpt", "n_experts", 4, "'n_experts' is not known here"),
    ("tinygpt", "block_size", 2**30, "context must be at most 1048576 positions, got 1073741824"),
]


@pytest.mark.parametrize(("family", "name", "value", "message"), FIELDS)
def test_invalid_config_values(make, monkeypatch, family, name, value, message):
    """Catches a value that is misread, ignored although it changes the logits, or checked too late."""
    folder = make(family)
    monkeypatch.setattr(hf, "GPT", never)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, name: value}))
    refused(folder, "config.json", message)


@pytest.mark.parametrize(
    ("family", "name"),
    [("gpt2", "n_positions"), ("gpt2", "n_embd"), ("llama", "intermediate_size"), ("tinygpt", "norm_eps")],
)
def test_missing_config_fields(make, family, name):
    """Catches a size that is guessed because the file does not state it."""
    folder = make(family)
    content = json.loads((folder / "config.json").read_text())
    del content[name]
    (folder / "config.json").write_text(json.dumps(content))
    refused(folder, "config.json", f"'{name}' is missing$")


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("name", ["n_layer", "n_embd", "vocab_size", "ffn_dim"])
def test_oversized_configs(make, monkeypatch, family, name):
    """Catches memory or time spent by config.json before the weights are known to exist."""
    folder = make(family)
    llama = {"n_layer": "num_hidden_layers", "n_embd": "hidden_size", "ffn_dim": "intermediate_size"}
    names = {"gpt2": {"ffn_dim": "n_inner"}, "llama": llama, "tinygpt": {}}[family]
    content = json.loads((folder / "config.json").read_text())
    content.pop("head_dim", None)
    (folder / "config.json").write_text(json.dumps({**content, names.get(name, name): 10**9}))
    monkeypatch.setattr(hf, "GPT", never)
    refused(folder, "model.safetensors", "has no tensor" if name == "n_layer" else "config.json asks for .*1000000000")


# model.safetensors: its header


def record(header, name=WTE, **fields):
    """The header with some fields of one tensor changed."""
    return {**header, name: {**header[name], **fields}}


def rename(header, old, new):
    return {new if name == old else name: found for name, found in header.items()}


EMPTY = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
DAMAGED = "is damaged or no safetensors file: "
# The messages are the library's own, so that the test knows which check refused the file.
HEADERS = {
    "not JSON": (lambda h: b"{xxxx", DAMAGED + "invalid JSON in header: key must be a string"),
    "nothing": (lambda h: b"", DAMAGED + "invalid JSON in header: EOF"),
    "list": (lambda h: b"[1]", DAMAGED + "invalid JSON in header: invalid type: sequence"),
    "not UTF-8": (lambda h: b'{"\xff": 1}', DAMAGED + "invalid UTF-8 in header"),
    "deep": (lambda h: b'{"a":' * 100_000, DAMAGED + "invalid JSON in header: recursion limit"),
    "metadata of numbers": (lambda h: {**h, "__metadata__": {"a": 1}}, DAMAGED + ".*integer `1`, expected a string"),
    "metadata list": (lambda h: {**h, "__metadata__": []}, DAMAGED + ".*sequence, expected a map"),
    "tensor of a number": (lambda h: {**h, "a": 1}, DAMAGED + ".*integer `1`, expected struct TensorInfo"),
    "a field less": (lambda h: {**h, "a": {"dtype": "F32", "shape": [0]}}, DAMAGED + ".*missing field `data_offsets`"),
    "dtype": (lambda h: record(h, dtype="F33"), DAMAGED + ".*unknown variant `F33`"),
    "dtype in many lines": (lambda h: record(h, dtype="\n\x1b\u202e"), DAMAGED + r".*`\\n\\u001b\\u202e`"),
    "endless dtype": (lambda h: record(h, dtype="F" * 10**6), DAMAGED + r".*unknown variant `F+\.\.\.$"),
    "dtype list": (lambda h: record(h, dtype=["F32"]), DAMAGED + ".*invalid type: sequence"),
    "shape number": (lambda h: record(h, shape=88), DAMAGED + ".*integer `88`, expected a sequence"),
    "shape negative": (lambda h: record(h, shape=[-11, -8]), DAMAGED + ".*integer `-11`, expected usize"),
    "shape of floats": (lambda h: record(h, shape=[11.0, 8.0]), DAMAGED + ".*floating point `11.0`, expected usize"),
    "shape of booleans": (lambda h: record(h, shape=[True, 88]), DAMAGED + ".*boolean `true`, expected usize"),
    "shape that wraps": (lambda h: record(h, shape=[2**32, 2**32]), DAMAGED + "overflow"),
    "offsets of one": (lambda h: record(h, data_offsets=[0]), DAMAGED + ".*invalid length 1"),
    "offsets negative": (lambda h: record(h, data_offsets=[-352, 0]), DAMAGED + ".*integer `-352`, expected usize"),
    "offsets reversed": (lambda h: record(h, data_offsets=[352, 0]), DAMAGED + "invalid"),
    "offsets short": (lambda h: record(h, data_offsets=[0, 348]), DAMAGED + "invalid"),
    "offsets beyond": (lambda h: record(h, LAST, data_offsets=[2**40, 2**40 + 32]), DAMAGED + "invalid offset"),
    "another shape": (
        lambda h: record(h, shape=[8, 11]),
        rf"tensor '{WTE}' has shape \(8, 11\), config.json asks for \(11, 8\)$",
    ),
    "another rank": (lambda h: record(h, shape=[88]), r"has shape \(88,\), config.json asks for \(11, 8\)$"),
    "endless rank": (
        lambda h: record(h, shape=[11, 8] + [1] * 10**6),
        r"has shape \(11, 8, 1, [1, ]*\.\.\., config.json asks for \(11, 8\)$",
    ),
    "untransposed": (
        lambda h: record(h, QKV, shape=[24, 8]),
        rf"tensor '{QKV}' has shape \(24, 8\), config.json asks for \(8, 24\)$",
    ),
    "integers": (
        lambda h: record(h, dtype="I32"),
        f"tensor '{WTE}' has dtype I32, it must be F32 or F16 or BF16 or",
    ),
    "misnamed": (lambda h: rename(h, QKV, "h.0.attn.c_atn.weight"), f"has no tensor '{QKV}', which config.json asks"),
    "not named at all": (lambda h: {"a": {**EMPTY, "dtype": "U8"}}, DAMAGED + "incomplete metadata"),
    "control characters": (
        lambda h: {**h, "\n\x1b\u202e": EMPTY},
        r"holds tensor '\\n\\u001b\\u202e', which config.json",
    ),
    "endless name": (lambda h: {**h, "a" * 10**6: EMPTY}, r"holds tensor 'a{100,}\.\.\.', which"),
    "a mask of another layer": (lambda h: {**h, "transformer.h.2.attn.bias": EMPTY}, "'transformer.h.2.attn.bias'"),
    "unknown": (lambda h: {**h, **dict.fromkeys("edcba", EMPTY)}, "holds tensor 'a', 'b', 'c' and 2 more, which"),
    "both prefixes": (
        lambda h: {**h, "wte.weight": EMPTY},
        "holds tensor 'wte.weight', which config.json has no place",
    ),
}


@pytest.mark.parametrize(("change", "message"), HEADERS.values(), ids=HEADERS)
def test_invalid_headers(make, monkeypatch, change, message):
    """Catches a header field that is used unchecked, and values read from outside a tensor."""
    folder = make()
    monkeypatch.setattr(hf, "GPT", never)
    header, data = unpack(folder / "model.safetensors")
    pack(folder / "model.safetensors", change(header), data)
    refused(folder, "model.safetensors", message)


# model.safetensors: its bytes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", DAMAGED + "header too small"),
        (b"\x02\0\0\0\0\0\0", DAMAGED + "header too small"),
        (b"\x03\0\0\0\0\0\0\0{}", DAMAGED + "invalid header length"),
        (b"\xff" * 8 + b"{}", DAMAGED + "header too large"),
        (b"\x02\0\0\0\0\0\0\0{}", "has no tensor"),
        (b"PK\x03\x04" + b"\0" * 60, DAMAGED + "invalid header length"),
    ],
)
def test_files_of_another_format(make, content, message):
    """Catches a length that is used unchecked, and a file of another format under this name."""
    folder = make()
    (folder / "model.safetensors").write_bytes(content)
    refused(folder, "model.safetensors", message)


def test_truncated_at_any_byte(make):
    """Catches a file cut at the end of a tensor, and one cut within the header."""
    folder = make()
    content = (folder / "model.safetensors").read_bytes()
    for length in {*range(0, len(content), 97), len(content) - 1, len(content) - 4}:
        (folder / "model.safetensors").write_bytes(content[:length])
        refused(folder, "model.safetensors", DAMAGED)


def test_trailing_bytes(make):
    """Catches data that belongs to no tensor."""
    folder = make()
    with open(folder / "model.safetensors", "ab") as file:
        file.write(b"hidden")
    refused(folder, "model.safetensors", DAMAGED + "incomplete metadata")


def test_overlap_and_gap(make):
    """Catches two tensors that share bytes, and bytes between two tensors."""
    folder = make()
    header, data = unpack(folder / "model.safetensors")
    start, stop = header[QKV]["data_offsets"]
    pack(folder / "model.safetensors", record(header, QKV, data_offsets=[start - 4, stop - 4]), data)
    refused(folder, "model.safetensors", DAMAGED + "invalid offset")
    for moved in header.values():
        if moved.get("data_offsets", [0])[0] >= start:
            moved["data_offsets"] = [place + 12 for place in moved["data_offsets"]]
    pack(folder / "model.safetensors", header, data[:start] + b"\0" * 12 + data[start:])
    refused(folder, "model.safetensors", DAMAGED + "invalid offset")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("dtype", "name"), [("<f4", "F32"), ("<f2", "F16"), ("<u2", "BF16")])
def test_values_that_are_not_finite(make, value, dtype, name):
    """Catches a NaN that reaches every logit, in each type of weights."""
    folder = make()
    header, data = unpack(folder / "model.safetensors")
    values = np.frombuffer(data, "<f4", 88, header[WTE]["data_offsets"][0]).copy()
    values[-1] = value
    changed = (values.view("<u4") >> 16).astype(dtype) if name == "BF16" else values.astype(dtype)
    others = {key: found for key, found in header.items() if key != WTE and key != "__metadata__"}
    packed, end = b"", 0
    for found in others.values():
        start, stop = found["data_offsets"]
        packed += data[start:stop]
        found["data_offsets"], end = [end, end + stop - start], end + stop - start
    others[WTE] = {"dtype": name, "shape": [11, 8], "data_offsets": [end, end + changed.nbytes]}
    pack(folder / "model.safetensors", others, packed + changed.tobytes())
    refused(folder, "model.safetensors", f"tensor '{WTE}' holds values that are NaN or infinite")


def test_biases_in_a_model_without_biases(make):
    """Catches a bias dropped silently because the config says that there is none."""
    folder = make(bias=False)
    header, data = unpack(folder / "model.safetensors")
    name = "transformer.h.1.mlp.c_fc.bias"
    start = header[name]["data_offsets"][0]
    pack(folder / "model.safetensors", header, data[:start] + b"\0\0\x80\x3f" + data[start + 4 :])
    refused(folder, "model.safetensors", f"tensor '{name}' must be zero, config.json says .* no biases")


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_tied_head_that_differs(make, family):
    """Catches a head dropped silently because the config says that it is the embedding."""
    folder = make(family)
    header, data = unpack(folder / "model.safetensors")
    wte = WTE if family == "gpt2" else "model.embed_tokens.weight"
    start, stop = header[wte]["data_offsets"]
    header["lm_head.weight"] = {"dtype": "F32", "shape": [11, 8], "data_offsets": [len(data), len(data) + stop - start]}
    head = bytearray(data[start:stop])
    head[-2] ^= 1
    pack(folder / "model.safetensors", header, data + head)
    refused(folder, "model.safetensors", f"tensor 'lm_head.weight' must equal '{wte}', config.json says .* tied")


def test_a_missing_head(make):
    """Catches an untied head that keeps its random initial values."""
    folder = make("llama")
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "tie_word_embeddings": False}))
    refused(folder, "model.safetensors", "has no tensor 'lm_head.weight', which config.json asks for")


def test_one_layer_too_many(make):
    """Catches weights ignored because config.json has fewer layers."""
    folder = make()
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "n_layer": 1}))
    refused(folder, "model.safetensors", "'transformer.h.1.attn.c_attn.bias', .* and 9 more, which config.json has no")


# tokenizer.json


def test_a_broken_tokenizer(make):
    """Catches a broken tokenizer treated as a missing one."""
    folder = make()
    (folder / "tokenizer.json").write_text("{")
    refused(folder, "tokenizer.json", "must be JSON")


def test_a_tokenizer_with_more_tokens_than_the_model(make, tmp_path):
    """Catches ids without an embedding row that are found only when they occur."""
    folder = make()
    tinygpt.tokenizers.CharTokenizer.train("abc").save(folder)
    refused(folder, "tokenizer.json", "must have at most the model's 11 tokens, got 260")
