"""`tinygpt read`: the page it writes, its output, and bad input."""

import re

import pytest

from tinygpt import cli
from tinygpt.files import model_directory
from tinygpt.viz.read import read

TEXT = "def alpha_1(x):\n    return omega(x, 1) + 1\n"
WRONG = {
    "missing file": (["nowhere.py"], "nowhere.py: No such file"),
    "no file": ([], "FILE"),
    "a folder": (["folder"], "folder: is a directory, name a file"),
    "empty": (["empty.py"], "empty.py: is empty"),
    "blank": (["blank.py"], "blank.py: is empty"),
    "not UTF-8": (["latin.py"], "latin.py: must be text in UTF-8, got byte 0xE9 at 5"),
    "binary": (["nul.py"], "'nul.py': must be text in UTF-8, got a binary file"),
    "one token": (["one.py"], "one.py: must have at least two tokens, got 1"),
    "no tokens": (["a.py", "--max-tokens", "1"], "--max-tokens must be in 2..10000, got 1"),
    "too many tokens": (["a.py", "--max-tokens", "10001"], "--max-tokens must be in 2..10000, got 10001"),
    "window": (["a.py", "--window", "17"], "--window must be in 1..16, the context of the model, got 17"),
    "stride": (["a.py", "--window", "4", "--stride", "5"], "--stride must be in 1..4, the window, got 5"),
    "layers": (["a.py", "--lens-layers", "-1"], "--lens-layers must be at least 0, got -1"),
    "no model": (["a.py", "--model", "nowhere"], "nowhere"),
    "out is a directory": (["a.py", "--out", "folder"], "--out folder: is a directory"),
    "out below a file": (["a.py", "--out", "a.py/b.html"], "--out a.py/b.html: cannot write in"),
    "threads": (["a.py", "--threads", "0"], "--threads must be at least 1, got 0"),
}


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    """A current directory for each test, with files that can and cannot be read."""
    files = {"empty.py": b"", "blank.py": b" \n\n", "latin.py": b"# caf\xe9\n", "nul.py": b"a\0b", "one.py": b"x",
             "a.py": TEXT.encode()}  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_one_line(run, work, capsys, case):
    """Catches a traceback, a wrong exit status, an error that does not name the cause, and a page left behind."""
    arguments, words = WRONG[case]
    before = sorted(path.name for path in work.iterdir())
    model = [] if "--model" in arguments else ["--model", str(run)]
    assert cli.main(["read", *arguments, *model]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tinygpt: error: ")
    assert words in err
    assert err.count("\n") == 1
    assert sorted(path.name for path in work.iterdir()) == before


def test_the_page_is_that_of_the_file_and_its_loss_that_of_eval(run, work, capsys):
    """Catches options without effect, a text decoded differently from eval's, and another loss."""
    (work / "a.py").write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    windows = ["--window", "8", "--stride", "4"]
    words = ["--model", str(run), *windows]
    assert cli.main(["read", "a.py", *words, "--lens-layers", "1", "--out", "new/a.html"]) == 0
    options = {"window": 8, "stride": 4, "lens_layers": 1, "name": run.name, "file": "a.py"}
    expected = read(*model_directory.load(run), TEXT, **options)
    assert (work / "new" / "a.html").read_text(encoding="utf-8") == expected.html
    out, err = capsys.readouterr()
    assert err == ""
    line, page = out.splitlines()
    assert page.startswith("page      new/a.html  ")
    assert page.endswith(f" MB: {len(expected.ids)} tokens, 1 of 2 layers")
    assert cli.main(["eval", "--data", "a.py", *words, "--quiet"]) == 0
    assert capsys.readouterr().out == line + "\n"


def test_a_cut_is_reported(run, work, capsys):
    """Catches a page of part of a file that does not say so."""
    assert cli.main(["read", "a.py", "--model", str(run), "--max-tokens", "20"]) == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(r"note      a\.py has \d+ tokens; the page shows the first 20 \(--max-tokens\)\n", err)
    assert "(19 tokens)" in out
    assert (work / "read.html").exists()


def test_quiet_prints_nothing(run, work, capsys):
    """Catches a line printed despite --quiet, and a page that is not written."""
    assert cli.main(["read", "a.py", "--model", str(run), "--max-tokens", "20", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert (work / "read.html").exists()
