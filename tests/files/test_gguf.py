"""GGUF files: files of llama.cpp's format are read, and written files read back bit for bit."""

import struct
import sys

import gguf_maker
import numpy as np
import pytest

from tinygpt import GPT, GPTConfig
from tinygpt.files import config as config_file
from tinygpt.files import gguf, gguf_file, hf
from tinygpt.tokenizers import BPETokenizer, CharTokenizer

peer = pytest.importorskip("gguf")

GPT2 = {"vocab_size": 300, "block_size": 7, "n_layer": 2, "n_head": 4, "n_embd": 24}
LLAMA = {**GPT2, "position": "rope", "norm": "rmsnorm", "activation": "swiglu", "bias": False}
MODELS = {
    "gpt2": GPT2,
    "gpt2 untied, odd mlp, eps": {**GPT2, "tie_embeddings": False, "ffn_dim": 37, "norm_eps": 3e-4},
    "llama": LLAMA,
    "llama grouped, untied": {**LLAMA, "n_kv_head": 2, "tie_embeddings": False},
    "llama multi-query, base": {**LLAMA, "n_kv_head": 1, "rope_theta": 77.5, "norm_eps": 3e-4, "ffn_dim": 64},
}


def filled(options):
    """A model with all values distinct."""
    model, rng = GPT(GPTConfig(**options)), np.random.default_rng(5)
    for parameter in model.parameters():
        parameter.data = rng.standard_normal(parameter.shape, np.float32)
    return model


def assert_same(found, model):
    assert config_file.canonical(found.config) == config_file.canonical(model.config)
    wanted = dict(model.named_parameters())
    assert dict(found.named_parameters()).keys() == wanted.keys()
    for name, parameter in found.named_parameters():
        assert np.array_equal(parameter.data.view(np.uint32), wanted[name].data.view(np.uint32)), name


@pytest.fixture(scope="module")
def tokenizer():
    return BPETokenizer.train("def f(x):\n    return x + 1\n" * 3, vocab_size=280)


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_a_file_of_the_format_is_read(tmp_path, options):
    """Catches rows of heads left in the file's order, a wrong name or axis, and a misread field."""
    model = filled(options)
    (tmp_path / "x.gguf").write_bytes(gguf_maker.pack(*gguf_maker.of(model)))
    source = gguf.GGUFModel(tmp_path / "x.gguf")
    assert source.tokenizer() is None
    assert_same(hf.build(source), model)


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_round_trip(tmp_path, tokenizer, options):
    """Catches a part of a model or a token lost in writing or reading."""
    model = filled(options)
    assert gguf.write(tmp_path / "x.gguf", model, tokenizer) == []
    source = gguf.GGUFModel(tmp_path / "x.gguf")
    assert_same(hf.build(source), model)
    found = source.tokenizer()
    assert found.vocab_size == tokenizer.vocab_size
    text = "def f(x): # größer\n\t\treturn"
    assert found.encode(text).tolist() == tokenizer.encode(text).tolist()


def test_a_model_without_biases_comes_back(tmp_path, tokenizer):
    """Catches zero biases that become parameters, and biases missing from the file, which llama.cpp requires."""
    model = filled({**GPT2, "bias": False})
    gguf.write(tmp_path / "x.gguf", model, tokenizer)
    source = gguf.GGUFModel(tmp_path / "x.gguf")
    assert sum(name.endswith(".bias") for name in source.file.entries) == 6 * 2 + 1
    assert_same(hf.build(source), model)


@pytest.mark.parametrize(("dtype", "word"), [("float16", "F16"), ("bfloat16", "BF16"), ("q8_0", "Q8_0")])
def test_shorter_types(tmp_path, tokenizer, dtype, word):
    """Catches norms or positions stored in a shorter type, and a type other than requested."""
    model = filled({**GPT2, "n_embd": 64, "ffn_dim": 40})
    notes = gguf.write(tmp_path / "x.gguf", model, tokenizer, dtype)
    entries = gguf.GGUFModel(tmp_path / "x.gguf").file.entries
    odd = [name for name in entries if "ffn_down.weight" in name] if dtype == "q8_0" else []
    assert notes == odd
    for name, (kind, shape) in entries.items():
        full = len(shape) == 1 or name == "position_embd.weight"
        assert kind == ("F32" if full else "F16" if name in odd else word), name
    short = dict(hf.build(gguf.GGUFModel(tmp_path / "x.gguf")).named_parameters())
    for name, parameter in model.named_parameters():
        # Half a unit in the last place: 2^-11 and 2^-8 of a value, or 1/254 of the largest value of a block, plus the
        # rounding of the block's scale to float16.
        step = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "q8_0": 1 / 250}[dtype]
        assert np.abs(short[name].data - parameter.data).max() <= step * np.abs(parameter.data).max()


@pytest.mark.parametrize("kind", [kind.name for kind in gguf_file.KINDS.values()])
def test_values_are_those_of_the_package(tmp_path, monkeypatch, kind):
    """Catches blocks split at the wrong byte, a tensor read from the wrong offset, and a skipped chunk."""
    monkeypatch.setattr(gguf_file, "CHUNK", 512)
    number = peer.GGMLQuantizationType[kind]
    block, size = peer.GGML_QUANT_SIZES[number]
    rng = np.random.default_rng(3)
    tensors = {}
    for name, shape in {"a": (3, 768), "b": (7, 256), "c": (256,)}.items():
        data = rng.integers(0, 256, (int(np.prod(shape)) // block, size), np.uint8)
        data[:, 1::2] &= 0x3B  # clears high exponent bits, so that no scale or float is NaN or infinite
        tensors[name] = kind, shape, data.tobytes()
    (tmp_path / "x.gguf").write_bytes(gguf_maker.pack({}, tensors))
    found = gguf_file.GGUFFile(tmp_path / "x.gguf")
    reader = peer.GGUFReader(tmp_path / "x.gguf")
    assert [tensor.name for tensor in reader.tensors] == list(tensors)
    for tensor in reader.tensors:
        # The package reads F64 but cannot dequantise it.
        made = tensor.data.astype(np.float32) if kind == "F64" else peer.dequantize(tensor.data, tensor.tensor_type)
        wanted = made.reshape(tensors[tensor.name][1])
        assert np.array_equal(found.read(tensor.name), wanted)
        assert np.ptp(wanted) > 0


def test_a_q8_0_block_by_hand(tmp_path):
    """Catches a scale at the wrong end of a block, and unsigned values: 0.5 times -16 ... 15."""
    data = np.float16(0.5).tobytes() + np.arange(-16, 16, dtype=np.int8).tobytes()
    (tmp_path / "x.gguf").write_bytes(gguf_maker.pack({}, {"x": ("Q8_0", (1, 32), data)}))
    assert gguf_file.GGUFFile(tmp_path / "x.gguf").read("x").tolist() == [[i / 2 for i in range(-16, 16)]]


@pytest.mark.parametrize(("version", "alignment"), [(2, 32), (3, 8), (3, 64)])
def test_versions_and_alignments(tmp_path, version, alignment):
    """Catches data expected at multiples of 32 only."""
    model = filled(LLAMA)
    fields, tensors = gguf_maker.of(model)
    content = gguf_maker.pack({**fields, "general.alignment": alignment}, tensors, alignment, version)
    (tmp_path / "x.gguf").write_bytes(content)
    assert_same(hf.build(gguf.GGUFModel(tmp_path / "x.gguf")), model)


def test_every_type_of_field(tmp_path):
    """Catches a number of the wrong size or sign, and a list of the wrong type."""
    numbers = {0: ("B", 255), 1: ("b", -1), 2: ("H", 65535), 3: ("h", -1), 4: ("I", 2**32 - 1), 5: ("i", -1)}
    numbers |= {10: ("Q", 2**64 - 1), 11: ("q", -1), 12: ("d", 0.1), 6: ("f", 1e-5), 7: ("?", True)}
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 2 * len(numbers) + 2)
    for kind, (code, content) in numbers.items():
        head += gguf_maker.string(f"one {kind}") + struct.pack(f"<I{code}", kind, content)
        head += gguf_maker.string(f"two {kind}") + struct.pack(f"<IIQ{code}{code}", 9, kind, 2, content, 0)
    head += gguf_maker.string("text") + gguf_maker.value(gguf_maker.STRING, "größer")
    head += gguf_maker.string("texts") + gguf_maker.value(gguf_maker.LIST, (gguf_maker.STRING, ["a", "", "ß"]))
    (tmp_path / "x.gguf").write_bytes(head)
    fields = gguf_file.GGUFFile(tmp_path / "x.gguf").fields
    assert fields.pop("text") == "größer"
    assert fields.pop("texts") == ["a", "", "ß"]
    for kind, (_, content) in numbers.items():
        assert fields.pop(f"one {kind}") == content
        assert fields.pop(f"two {kind}") == [content, 0]
    assert fields == {}


def test_rows_beyond_the_tokens(tmp_path, tokenizer):
    """Catches a file with fewer tokens than embedding rows, which llama.cpp refuses."""
    gguf.write(tmp_path / "x.gguf", filled(LLAMA), tokenizer)
    source = gguf.GGUFModel(tmp_path / "x.gguf")
    tokens = source.file.fields["tokenizer.ggml.tokens"]
    assert len(tokens) == len(source.file.fields["tokenizer.ggml.token_type"]) == 300
    assert tokens[-1] == "[PAD299]"
    assert source.tokenizer().vocab_size == tokenizer.vocab_size < 300


def test_models_that_gguf_cannot_hold(tmp_path, tokenizer):
    """Catches a file that no program can read, and an error that does not say why."""
    cases = [
        (LLAMA, CharTokenizer.train("abc"), "GGUF has no form for a character"),
        (LLAMA, None, "there is no tokenizer.json"),
        ({**LLAMA, "bias": True}, tokenizer, r"a GPT-2 \(position is rope, .*\) nor a Llama \(bias is true\)"),
        ({**GPT2, "n_kv_head": 2}, tokenizer, r"a GPT-2 \(n_kv_head is 2, not 4\) nor a Llama \(position is learned"),
    ]
    for options, tokens, message in cases:
        with pytest.raises(ValueError, match=message):
            gguf.write(tmp_path / "x.gguf", filled(options), tokens)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("dtype", "value"), [("float16", 70000.0), ("q8_0", 70000.0 * 127), ("bfloat16", 3.4e38), ("float32", np.nan)]
)
def test_values_that_do_not_fit(tmp_path, tokenizer, dtype, value):
    """Catches infinities that are written, and then refused by every reader."""
    model = filled({**LLAMA, "n_embd": 64})
    model.blocks[1].mlp.down.weight.data[3, 5] = value
    (tmp_path / "x.gguf").write_bytes(b"old")
    with pytest.raises(ValueError, match=r"'blk\.1\.ffn_down\.weight' must (fit|be finite)"):
        gguf.write(tmp_path / "x.gguf", model, tokenizer, dtype)
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]
    assert (tmp_path / "x.gguf").read_bytes() == b"old"


def test_only_quantised_blocks_need_the_package(tmp_path, monkeypatch):
    """Catches an error that does not name the extra, and an error where nothing needs unpacking."""
    monkeypatch.setitem(sys.modules, "gguf", None)
    (tmp_path / "x.gguf").write_bytes(gguf_maker.pack({}, {"x": ("Q8_0", (1, 32), bytes(34))}))
    with pytest.raises(ImportError, match=r"pip install 'tinygpt\[gguf\]'"):
        gguf_file.GGUFFile(tmp_path / "x.gguf")
    model = filled(LLAMA)
    (tmp_path / "x.gguf").write_bytes(gguf_maker.pack(*gguf_maker.of(model)))
    assert_same(hf.build(gguf.GGUFModel(tmp_path / "x.gguf")), model)
