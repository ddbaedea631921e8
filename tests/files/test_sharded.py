"""Model directories of several files and an index, and weights in shorter types."""

import json

import numpy as np
import pytest
import safetensors.numpy as peer

import tinygpt
from tinygpt import GPT, GPTConfig
from tinygpt.files import weights

INDEX = "model.safetensors.index.json"
SMALL = {"vocab_size": 11, "block_size": 7, "n_layer": 2, "n_head": 2, "n_embd": 8}


@pytest.fixture
def model():
    made, rng = GPT(GPTConfig(**SMALL)), np.random.default_rng(5)
    for parameter in made.parameters():
        parameter.data = rng.standard_normal(parameter.shape, np.float32)
    return made


@pytest.fixture
def folder(tmp_path, model):
    """A directory of two shards, with tensors alternating between them."""
    tinygpt.save(tmp_path, model)
    tensors = peer.load_file(tmp_path / "model.safetensors")
    places = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(tensors)}
    for file in set(places.values()):
        peer.save_file({name: array for name, array in tensors.items() if places[name] == file}, tmp_path / file)
    (tmp_path / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    (tmp_path / "model.safetensors").unlink()
    return tmp_path


def places(folder):
    return json.loads((folder / INDEX).read_text())["weight_map"]


def test_all_files_are_read(folder, model):
    """Catches tensors searched for in one shard only."""
    found = dict(tinygpt.load(folder)[0].named_parameters())
    assert all(np.array_equal(found[name].data, wanted.data) for name, wanted in model.named_parameters())


def test_a_single_file_takes_precedence(folder, model):
    """Catches an old index that hides the weights of a later save."""
    model.wte.weight.data[...] = 1
    tinygpt.save(folder, model)
    assert (tinygpt.load(folder)[0].wte.weight.data == 1).all()


WTE = "transformer.wte.weight"
WRONG = {
    "no object": (lambda found: [], r"must hold an object, got a list of 0"),
    "no map": (lambda found: {"metadata": {}}, "'weight_map' must be an object of tensors and files, got null"),
    "empty map": (lambda found: {"weight_map": {}}, "'weight_map' must be an object of tensors and files"),
    "a list of files": (lambda found: {"weight_map": {WTE: ["a"]}}, r"a \.safetensors file beside it, got a list of 1"),
    "a file elsewhere": (
        lambda found: {"weight_map": {**found, WTE: "../model.safetensors"}},
        r"a \.safetensors file beside it, got '\.\./model\.safetensors'",
    ),
    "a pickle": (
        lambda found: {"weight_map": {**found, WTE: "a.bin"}},
        r"a \.safetensors file beside it, got 'a\.bin'",
    ),
    "a tensor more": (lambda found: {"weight_map": {**found, "x": found[WTE]}}, "tensor 'x' is not in 'model-"),
    "a tensor less": (
        lambda found: {"weight_map": {name: file for name, file in found.items() if name != WTE}},
        f"tensor '{WTE}' lies in 'model-.*', 'weight_map' says in no file",
    ),
    "the other file": (
        lambda found: {"weight_map": {**found, WTE: next(file for file in found.values() if file != found[WTE])}},
        f"tensor '{WTE}' lies in 'model-.*', 'weight_map' says in 'model-",
    ),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_invalid_indexes(folder, change, message):
    """Catches a file outside the directory that is opened, and a tensor in a file other than the index states."""
    (folder / INDEX).write_text(json.dumps(change(places(folder))))
    with pytest.raises(ValueError, match=rf"index\.json: .*{message}"):
        tinygpt.load(folder)


def test_a_missing_or_damaged_file(folder):
    """Catches an error that does not name the shard."""
    file = folder / places(folder)[WTE]
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=f"{file.name}: is damaged"):
        tinygpt.load(folder)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=f"{file.name}: no such file"):
        tinygpt.load(folder)


def test_a_tensor_in_two_files(folder):
    """Catches a tensor stored twice, of which the last would be used."""
    one, two = sorted(set(places(folder).values()))
    tensors = peer.load_file(folder / one)
    peer.save_file({**tensors, **peer.load_file(folder / two)}, folder / two)
    with pytest.raises(ValueError, match=rf"index\.json: tensor '.*' lies in '{two}', 'weight_map' says in '{one}'"):
        tinygpt.load(folder)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_shorter_types_are_written(tmp_path, model, dtype):
    """Catches a header that contradicts the data, truncation instead of rounding, and a config that says float32."""
    tinygpt.save(tmp_path, model, dtype=dtype)
    kind = weights.DTYPES[dtype][1]
    found = peer.load_file(tmp_path / "model.safetensors")
    assert {array.dtype for array in found.values()} == {kind}
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == dtype
    again = dict(tinygpt.load(tmp_path)[0].named_parameters())
    for name, parameter in model.named_parameters():
        assert np.array_equal(again[name].data, parameter.data.astype(kind).astype(np.float32)), name


def test_values_too_large_for_a_type(tmp_path):
    """Catches infinities in the file. The largest float16 is 65504, and 65520 is the first to round to infinity."""
    weights.write(tmp_path / "x", [("x", np.array([-65519.0], np.float32))], {}, "float16")
    assert weights.TensorFile(tmp_path / "x").read("x") == -65504
    with pytest.raises(ValueError, match=r"'x' must fit float16, got values up to 6\.55e\+04"):
        weights.write(tmp_path / "y", [("x", np.array([-65520.0], np.float32))], {}, "float16")
    assert not (tmp_path / "y").exists()


def test_tensors_of_any_length_are_contiguous(tmp_path):
    """Catches padding for sizes that are not multiples of four: the library refuses gaps."""
    arrays = {f"x{n}": np.arange(n, dtype=np.float32) for n in range(5)}
    weights.write(tmp_path / "x", arrays.items(), {"a": "größer"}, "bfloat16")
    found = weights.TensorFile(tmp_path / "x")
    assert found.metadata == {"a": "größer"}
    assert all(np.array_equal(found.read(name), array) for name, array in arrays.items())
