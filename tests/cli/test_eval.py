"""`tinygpt eval`: windows, the table of files, JSON, and bad input. The plain call is in test_commands.py."""

import json
import re

import pytest

import tinygpt
from tinygpt import GPT, GPTConfig, cli
from tinygpt.data.discover import discover
from tinygpt.evaluate import TokenText, evaluate, evaluate_files
from tinygpt.tokenizers import CharTokenizer

NUMBERS = r"loss ([\d.]+)  perplexity ([\d.]+)  bits per byte ([\d.]+)  \(([\d,]+) tokens\)"


def said(capsys, *arguments):
    assert cli.main(["eval", *map(str, arguments)]) == 0
    return capsys.readouterr()


@pytest.fixture(scope="module")
def text(run, sources):
    return TokenText.encode(discover([str(sources)])[0], tinygpt.load(run)[1])


@pytest.mark.parametrize("flags", [["--window", "7"], ["--window", "8", "--stride", "3"], ["--stride", "4"]])
def test_window_and_stride(run, sources, text, capsys, flags):
    """Catches a flag without effect, and --window confused with --stride."""
    options = {name.removeprefix("--"): int(value) for name, value in zip(flags[::2], flags[1::2], strict=True)}
    score = evaluate(tinygpt.load(run)[0], text.tokens, text.n_bytes, **options)
    out, _ = said(capsys, "--model", run, "--data", sources, *flags)
    assert re.search(NUMBERS, out)[1] == f"{score.loss:.4f}"
    plain = said(capsys, "--model", run, "--data", sources).out
    assert out != plain


def test_the_table_has_every_file_worst_first_and_the_total(run, sources, text, capsys):
    """Catches a missing file, a wrong order, numbers of the wrong file, and a wrong total."""
    out, _ = said(capsys, "--model", run, "--data", sources, "--per-file")
    head, *lines, total, summary = out.splitlines()
    assert head.split() == ["bits/byte", "loss", "perplexity", "tokens", "file"]
    _, files = evaluate_files(tinygpt.load(run)[0], text)
    expected = [
        [f"{score.bits_per_byte:.4f}", f"{score.loss:.4f}", f"{score.perplexity:.3f}", f"{score.tokens:,}", name]
        for name, score in files
    ]
    assert [line.split() for line in lines] == expected
    assert len(lines) == len(list(sources.iterdir()))
    bits = [float(line.split()[0]) for line in lines]
    assert bits == sorted(bits, reverse=True)
    loss, perplexity, bits_per_byte, tokens = re.fullmatch(NUMBERS, summary).groups()
    assert total.split() == [bits_per_byte, loss, perplexity, tokens, "total"]


def test_json_has_the_numbers_in_full(run, sources, text, capsys):
    """Catches rounded numbers, output besides the JSON, and files listed without --per-file."""
    model = tinygpt.load(run)[0]
    total, files = evaluate_files(model, text, window=8, stride=4)
    words = ("--model", run, "--data", sources, "--json", "--window", "8", "--stride", "4")
    found = json.loads(said(capsys, *words, "--per-file").out)
    assert (found["loss"], found["perplexity"], found["bits_per_byte"], found["tokens"]) == (
        total.loss, total.perplexity, total.bits_per_byte, total.tokens,
    )  # fmt: skip
    assert (found["window"], found["stride"]) == (8, 4)
    assert found["tokens_per_s"] > 0
    assert [(file["file"], file["loss"]) for file in found["files"]] == [(name, score.loss) for name, score in files]
    assert "files" not in json.loads(said(capsys, *words).out)


def test_a_name_stays_on_its_line(run, tmp_path, capsys):
    """Catches a file name that adds a line to the table or colours the terminal."""
    (tmp_path / "a\n\x1b[31mtotal.py").write_text("def f(x):\n    return x\n")
    out, _ = said(capsys, "--model", run, "--data", tmp_path, "--per-file")
    assert out.splitlines()[1].endswith("  a\\n\\x1b[31mtotal.py")
    assert len(out.splitlines()) == 4


def test_the_default_window_is_limited(tmp_path, sources, capsys):
    """Catches a window shorter than the context without a note, and a note for a chosen window."""
    tokenizer = CharTokenizer.train("abc")
    config = GPTConfig(tokenizer.vocab_size, 4096, 1, 1, 4, position="rope")
    tinygpt.save(tmp_path / "model", GPT(config, seed=1), tokenizer)
    (tmp_path / "a.py").write_text("abc" * 20)
    words = ("--model", tmp_path / "model", "--data", tmp_path / "a.py")
    note = "note      windows of 2,048 tokens, less than the context of 4,096 (--window)"
    assert note in said(capsys, *words).err
    assert json.loads(said(capsys, *words, "--json").out)["window"] == 2048
    assert "note" not in said(capsys, *words, "--window", "4096").err
    assert "note" not in said(capsys, *words, "--window", "100").err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--window", "0"], "--window must be in 1..16, the context of the model, got 0"),
        (["--window", "17"], "--window must be in 1..16, the context of the model, got 17"),
        (["--stride", "0"], "--stride must be in 1..16, the window, got 0"),
        (["--window", "4", "--stride", "5"], "--stride must be in 1..4, the window, got 5"),
        (["--stride", "1.5"], "--stride"),
    ],
)
def test_bad_input_is_one_line(run, sources, capsys, flags, words):
    """Catches a traceback, and an error that does not name the flag."""
    assert cli.main(["eval", "--model", str(run), "--data", str(sources), *flags]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tinygpt: error: ")
    assert words in err
    assert err.count("\n") == 1
