"""`tinygpt import` and `tinygpt export`: the files they write, their output, and bad input."""

import json
import re
import string
import sys

import numpy as np
import pytest
from tiny_run import content

import tinygpt
from tinygpt import GPT, GPTConfig, cli
from tinygpt.files.transfer import export_model, import_model
from tinygpt.tokenizers import BPETokenizer, CharTokenizer
from tinygpt.tokenizers.special import Roles

pytest.importorskip("gguf")

TEXT = "def add(a, b):\n    return a + b\n" * 3
LLAMA = {"vocab_size": 290, "block_size": 16, "n_layer": 1, "n_head": 4, "n_embd": 32, "n_kv_head": 2, "bias": False}
LLAMA |= {"position": "rope", "norm": "rmsnorm", "activation": "swiglu"}


def model_of(seed, **options):
    return GPT(GPTConfig(**{**LLAMA, **options}), seed=seed)


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    """A current directory with a model, its GGUF file, and models and folders that cannot be used."""
    monkeypatch.chdir(tmp_path)
    tokenizer = BPETokenizer.train(TEXT, vocab_size=280)
    tinygpt.save("model", model_of(1), tokenizer)
    assert cli.main(["export", "model", "--to", "gguf", "--out", "model.gguf", "--quiet"]) == 0
    tinygpt.save("other", model_of(2), tokenizer)
    tinygpt.save("char", model_of(1), CharTokenizer.train("abc"))
    tinygpt.save("mute", model_of(1))
    tinygpt.save("mixed", model_of(1, norm="layernorm"), tokenizer)
    tinygpt.save("run", model_of(1), tokenizer)
    (tmp_path / "run" / "run.toml").write_text("")
    tinygpt.save("wide", model_of(1))
    CharTokenizer(string.ascii_letters).save("wide")
    (tmp_path / "prose").mkdir()
    (tmp_path / "prose" / "notes.txt").write_text("x")
    tinygpt.save("sentence", model_of(1))
    (tmp_path / "sentence" / "tokenizer.model").write_bytes(b"x")
    return tmp_path


def said(capsys, *arguments):
    """Run a command that must succeed, and return the lines that it prints."""
    assert cli.main(list(arguments)) == 0, capsys.readouterr().err
    out, err = capsys.readouterr()
    assert err == ""
    return out.splitlines()


def same_weights(one, two):
    found, wanted = (dict(tinygpt.load(folder)[0].named_parameters()) for folder in (one, two))
    return all(np.array_equal(found[name].data, wanted[name].data) for name in wanted)


@pytest.mark.parametrize("source", ["model", "model.gguf"])
def test_import(capsys, source):
    """Catches the wrong model, tokenizer or figures."""
    lines = said(capsys, "import", source, "--out", "new/model")
    assert same_weights("new/model", "model")
    assert tinygpt.load("new/model")[1].encode(TEXT).tolist() == tinygpt.load("model")[1].encode(TEXT).tolist()
    n = model_of(1).num_parameters()
    vocab = tinygpt.load("model")[1].vocab_size
    assert lines == [
        f"imported  llama, {n:,} parameters, context 16, {vocab} tokens (BPETokenizer), from F32",
        "written   new/model",
    ]


def test_types_are_listed_by_size(capsys):
    """Catches the type of a small norm listed before the type of the large matrices."""
    said(capsys, "export", "model", "--to", "gguf", "--out", "short.gguf", "--dtype", "q8_0")
    assert said(capsys, "import", "short.gguf", "--out", "short")[0].endswith(", from Q8_0, F32")


@pytest.mark.parametrize(("to", "out"), [("hf", "new/model"), ("gguf", "new/x.gguf")])
def test_export_and_import_again(capsys, work, to, out):
    """Catches weights changed by an export and import, and the size of the wrong file."""
    lines = said(capsys, "export", "model", "--to", to, "--out", out)
    file = work / out / "model.safetensors" if to == "hf" else work / out
    assert lines == [f"written   {out}, {file.stat().st_size / 1e6:.1f} MB of float32"]
    said(capsys, "import", out, "--out", "again")
    assert same_weights("again", "model")


def test_a_note_on_rows_that_cannot_be_quantised(capsys):
    """Catches a file with another type than requested, without a note."""
    tinygpt.save("odd", model_of(1, n_embd=24, ffn_dim=64), tinygpt.load("model")[1])
    lines = said(capsys, "export", "odd", "--to", "gguf", "--out", "odd.gguf", "--dtype", "q8_0")
    # Rows of 24: the embedding, four projections of attention, gate and up. The down projection has rows of 64.
    assert lines[0] == "note      7 tensors are F16: their row length is not a multiple of 32"


def test_vocab_json_and_merges_txt_are_imported(capsys, work):
    """Catches a tokenizer that is left behind because it is not in tokenizer.json."""
    tinygpt.save("old", GPT(GPTConfig(vocab_size=260, block_size=16, n_layer=1, n_head=2, n_embd=8)))
    letters = [*range(33, 127), *range(161, 173), *range(174, 256)]
    names = [chr(byte) for byte in letters] + [chr(256 + i) for i in range(68)]
    vocab = {name: i for i, name in enumerate([*names, "de", "<|endoftext|>"])}
    for folder in ("old", "mute"):
        (work / folder / "vocab.json").write_text(json.dumps(vocab))
        (work / folder / "merges.txt").write_text("#version: 0.2\nd e\n")
    said(capsys, "import", "old", "--out", "new")
    assert tinygpt.load("new")[1].encode("def").tolist() == [256, vocab["f"]]
    # The same files beside a Llama do not say how it splits a text, so the import refuses to guess.
    assert cli.main(["import", "mute", "--out", "x"]) == 2
    assert "mute/vocab.json: belongs to no GPT-2, so the pattern that splits a text is not" in capsys.readouterr().err
    # The directory can also be loaded without an import, with its tokenizer_config.json.
    (work / "old" / "tokenizer_config.json").write_text(json.dumps({"chat_template": "x"}))
    assert tinygpt.load("old")[1].chat_template == "x"
    said(capsys, "generate", "--model", "old", "--prompt", "def", "--length", "3", "--quiet")
    (work / "old" / "tokenizer_config.json").write_text('{"add_prefix_space": true}')
    assert cli.main(["generate", "--model", "old", "--prompt", "def"]) == 2
    assert "tokenizer_config.json: 'add_prefix_space' must be false, got true" in capsys.readouterr().err


def test_quiet_prints_nothing(capsys, work):
    """Catches a line printed despite --quiet."""
    assert said(capsys, "import", "model", "--out", "new", "--quiet") == []
    assert said(capsys, "export", "new", "--to", "gguf", "--out", "new.gguf", "--quiet") == []
    assert (work / "new.gguf").exists()


@pytest.mark.parametrize("arguments", [["import", "model.gguf"], ["export", "model", "--to", "hf"]])
def test_force_replaces_a_model_and_nothing_else(capsys, work, arguments):
    """Catches --force without effect, and one that removes files outside the model format."""
    (work / "other" / "notes.txt").write_text("x")
    said(capsys, *arguments, "--out", "other", "--force")
    assert same_weights("other", "model")
    assert (work / "other" / "notes.txt").read_text() == "x"


def test_force_replaces_a_file(capsys, work):
    """Catches a file written beside the old one, and an old file that stays."""
    said(capsys, "export", "other", "--to", "gguf", "--out", "model.gguf", "--force")
    said(capsys, "import", "model.gguf", "--out", "new")
    assert same_weights("new", "other")


EXPORT = ["export", "model", "--to"]
WRONG = {
    "no source": (["import", "nowhere", "--out", "new"], "nowhere: no such file or directory"),
    "no model": (["import", "prose", "--out", "new"], "prose: is not a model directory"),
    "no GGUF file": (["import", "prose/notes.txt", "--out", "new"], "prose/notes.txt: ends early"),
    "weights alone": (
        ["import", "model/model.safetensors", "--out", "new"],
        "model/model.safetensors: holds weights alone, give the directory with its config.json",
    ),
    "too many tokens": (
        ["import", "wide", "--out", "new"],
        f"wide/tokenizer.json: must have at most the model's 290 tokens, got {256 + 52 + 1}",
    ),
    "SentencePiece": (["import", "sentence", "--out", "new"], "sentence/tokenizer.model: is a SentencePiece model"),
    "import: in use": (
        ["import", "model.gguf", "--out", "other"],
        "--out other: has a model already; --force replaces it",
    ),
    "import: no model": (
        ["import", "model", "--out", "prose", "--force"],
        "--out prose: the directory is not empty and",
    ),
    "import: a run": (["import", "model", "--out", "run", "--force"], "--out run: is the directory of a training run"),
    "import: itself": (["import", "model", "--out", "model", "--force"], "--out model: contains model"),
    "import: a file": (["import", "model", "--out", "model.gguf"], "--out model.gguf: model.gguf is a file"),
    "import: without out": (["import", "model"], "--out"),
    "export: no model": (["export", "nowhere", "--to", "hf", "--out", "new"], "nowhere: no such directory"),
    "export: in use": ([*EXPORT, "hf", "--out", "other"], "--out other: has a model already; --force replaces it"),
    "export: a run": ([*EXPORT, "hf", "--out", "run", "--force"], "--out run: is the directory of a training run"),
    "export: itself": ([*EXPORT, "hf", "--out", "model", "--force"], "--out model: contains model"),
    "export: file in use": (
        [*EXPORT, "gguf", "--out", "model.gguf"],
        "--out model.gguf: exists already; --force replaces it",
    ),
    "export: a directory": ([*EXPORT, "gguf", "--out", "other", "--force"], "--out other: is a directory"),
    "export: its own file": (
        [*EXPORT, "gguf", "--out", "model/model.safetensors", "--force"],
        "--out model/model.safetensors: is a file of model",
    ),
    "export: below a file": ([*EXPORT, "gguf", "--out", "model.gguf/x"], "--out model.gguf/x: cannot write in"),
    "export: dtype": (
        [*EXPORT, "hf", "--out", "new", "--dtype", "q8_0"],
        "--dtype must be float32 or float16 or bfloat16 with --to hf, got q8_0",
    ),
    "export: format": ([*EXPORT, "onnx", "--out", "new"], "--to"),
    "export: mixed": (
        ["export", "mixed", "--to", "hf", "--out", "new"],
        "mixed: the model is neither a GPT-2 (position is rope, activation is swiglu, n_kv_head is 2, not 4) "
        "nor a Llama (norm is layernorm)",
    ),
    "export: characters": (
        ["export", "char", "--to", "gguf", "--out", "new/x.gguf"],
        "char: GGUF has no form for a character",
    ),
    "export: mute": (["export", "mute", "--to", "gguf", "--out", "new/x.gguf"], "mute: a GGUF file needs a tokenizer"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_one_line(capsys, work, case):
    """Catches a traceback, a wrong exit status, an error that does not name the path, and files left behind."""
    arguments, words = WRONG[case]
    before, names = content(work), {path.name for path in work.iterdir()}
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"tinygpt: error: .+\n", err), err
    assert words in err
    assert content(work) == before
    assert {path.name for path in work.iterdir()} == names


def test_the_missing_extra_is_named(capsys, work, monkeypatch):
    """Catches an error that does not say what to install, and a file left behind."""
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert cli.main([*EXPORT, "gguf", "--out", "new.gguf"]) == 2
    assert "pip install 'tinygpt[gguf]'" in capsys.readouterr().err
    assert not (work / "new.gguf").exists()


@pytest.mark.parametrize("out", ["new.gguf", "new"])
def test_progress_counts_up_to_its_total(out):
    """Catches work that is not counted or counted twice, and progress that decreases."""
    to = "gguf" if out.endswith("gguf") else "hf"
    calls = []
    export_model("model", to, out, "float16", progress=lambda *call: calls.append(call))
    n = model_of(1).num_parameters()
    assert calls == sorted(calls)
    assert {total for _, total in calls} == {n}
    assert calls[-1] == (n, n)
    calls.clear()
    import_model(out, "again", progress=lambda *call: calls.append(call))
    assert calls == sorted(calls)
    assert {total for _, total in calls} == {2 * n}  # each parameter is read and written
    assert calls[-1] == (2 * n, 2 * n)


def test_the_ids_of_a_chat_model(work):
    """Catches the separator written as begin token although the tokenizer has a begin token."""
    parts = BPETokenizer.train(TEXT, vocab_size=270).parts
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    special = {name: i for i, name in enumerate(names, len(parts.vocab))}
    roles = Roles("<|im_end|>", "<|im_start|>")
    tinygpt.save("chat", model_of(1), BPETokenizer(parts.vocab, parts.merges, special_tokens=special, roles=roles))
    export_model("chat", "gguf", "chat.gguf")
    import_model("chat.gguf", "again")
    for folder in ("chat", "again"):
        content = json.loads((work / folder / "config.json").read_text())
        assert content["bos_token_id"] == special["<|im_start|>"]
        assert content["eos_token_id"] == [special["<|endoftext|>"], special["<|im_end|>"]]


def test_a_model_without_a_tokenizer(capsys):
    """Catches a refusal of a format that needs no tokenizer, and no note about it."""
    assert said(capsys, "export", "mute", "--to", "hf", "--out", "new")[0].startswith("note      there is no tokenizer")
    assert ", no tokenizer, from F32" in said(capsys, "import", "new", "--out", "again")[0]
