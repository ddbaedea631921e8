"""`tinygpt tokenize`: the pieces join to the text, and the statistics cover all of it."""

import io

import pytest

from tinygpt import cli
from tinygpt.tokenizers import BPETokenizer

TEXT = "def add(a, b):\n    return a + b\n"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("tok")
    BPETokenizer.train(TEXT * 5, 300, "code").save(path)
    return path


def run(capsys, *arguments):
    status = cli.main(["tokenize", *arguments])
    return status, *capsys.readouterr()


def test_pieces_are_the_text(saved, capsys):
    """Catches a token dropped, repeated or out of order, and invisible characters printed as they are."""
    status, out, _ = run(capsys, "--model", str(saved), "--text", TEXT)
    assert status == 0
    assert "|" in out
    assert out.replace("|", "").replace("\n", "").replace("\\n", "\n").replace("\N{OPEN BOX}", " ") == TEXT


def test_ids(saved, capsys):
    """Catches ids that differ from the tokenizer's."""
    from tinygpt import tokenizers

    _, out, _ = run(capsys, "--model", str(saved), "--text", TEXT, "--ids")
    assert [int(word) for word in out.split()] == tokenizers.load(saved).encode(TEXT).tolist()


@pytest.mark.parametrize("words", [["--file", "-"], ["--file=-"]])
def test_standard_input(saved, capsys, monkeypatch, words):
    """Catches a dash read as a flag or as a file name."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    status, out, err = run(capsys, "--model", str(saved), "--ids", *words)
    assert (status, len(out.split())) == (0, len(BPETokenizer.train(TEXT * 5, 300, "code").encode(TEXT)))
    assert f"{len(TEXT)} bytes" in err


def test_a_text_that_begins_with_a_dash(saved, capsys):
    """Catches a text read as a flag."""
    status, out, _ = run(capsys, "--model", str(saved), "--text", "-x")
    assert (status, out) == (0, "-|x\n")


def test_statistics_cover_the_whole_text(saved, capsys, tmp_path):
    """Catches statistics of only the part that is shown."""
    file = tmp_path / "a.py"
    file.write_text(TEXT * 100)
    _, out, err = run(capsys, "--model", str(saved / "tokenizer.json"), "--file", str(file), "--max-tokens", "7")
    assert out.count("|") <= 7
    assert f"{100 * len(TEXT):,} bytes" in err
    assert "the first 7 shown" in err


def test_bytes_without_a_token_are_reported(capsys, tmp_path):
    """Catches text dropped silently, and a note when nothing was dropped."""
    vocab = {bytes([i]): i - 1 for i in range(1, 256)}
    BPETokenizer(vocab, [], special_tokens={"<|endoftext|>": 255}).save(tmp_path)
    _, _, err = run(capsys, "--model", str(tmp_path), "--text", "a\x00b\x00")
    assert "2 bytes have no token in this vocabulary and were left out" in err
    _, _, err = run(capsys, "--model", str(tmp_path), "--text", "ab")
    assert "left out" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --text or --file"),
        (["--text", "a", "--file", "b"], "give either --text or --file"),
        (["--file", "missing.py"], "missing.py"),
        (["--text", "a", "--max-tokens", "0"], "--max-tokens must be at least 1, got 0"),
        (["--text", "a\udcff"], "--text must be UTF-8, character 1 is not"),
    ],
)
def test_bad_input_is_one_line(saved, capsys, arguments, message):
    """Catches a traceback, and an error that does not say what to correct."""
    status, out, err = run(capsys, "--model", str(saved), *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_no_tokenizer_is_one_line(capsys):
    """Catches a traceback for a path that does not exist."""
    status, out, err = run(capsys, "--model", "nowhere", "--text", "a")
    assert (status, out, err) == (2, "", "tinygpt: error: nowhere: no such file\n")


def test_training_with_bpe(tmp_path, capsys):
    """Catches a type, size or pattern that train ignores, and a resumed run with another tokenizer."""
    from tinygpt import tokenizers

    (tmp_path / "data").mkdir()
    for name in ("a.py", "b.py", "c.py"):
        (tmp_path / "data" / name).write_text(f"# {name}\n" + TEXT * 40)
    out = str(tmp_path / "out")
    run_flags = ["train", "--data", str(tmp_path / "data"), "--out", out, "--samples", "0", "--seq", "16", "--quiet"]
    kind = ["--tokenizer-type", "bpe", "--vocab-size", "270", "--pattern", "gpt4"]
    assert cli.main([*run_flags, *kind, "--steps", "2"]) == 0
    tokenizer = tokenizers.load(out)
    assert isinstance(tokenizer, BPETokenizer)
    assert (tokenizer.vocab_size, tokenizer.pattern) == (270, "gpt4")
    assert cli.main(["train", "--resume", "--out", out, "--steps", "3", "--quiet"]) == 0
    assert tokenizers.load(out).encode(TEXT).tolist() == tokenizer.encode(TEXT).tolist()
    assert capsys.readouterr().err == ""
