"""`tinygpt visualize`: the page it writes, its output, and bad input."""

import io
import sys

import pytest

from tinygpt import cli
from tinygpt.files import model_directory
from tinygpt.viz.attention import visualize

WRONG = {
    "no prompt": ([], "--prompt must not be empty"),
    "empty prompt": (["--prompt", ""], "--prompt must not be empty"),
    "empty file": (["--prompt-file", "empty.txt"], "--prompt-file empty.txt: is empty"),
    "missing file": (["--prompt-file", "nowhere.txt"], "nowhere.txt: No such file"),
    "two prompts": (["--prompt", "a", "--prompt-file", "empty.txt"], "--prompt and --prompt-file cannot both be given"),
    "layer": (["--prompt", "x", "--layer", "1"], "--layer must be in 0..0, got 1"),
    "negative layer": (["--prompt", "x", "--layer", "-1"], "--layer must be in 0..0, got -1"),
    "head": (["--prompt", "x", "--head", "2"], "--head must be in 0..1, got 2"),
    "no tokens": (["--prompt", "x", "--max-tokens", "0"], "--max-tokens must be in 1..1024, got 0"),
    "too many tokens": (["--prompt", "x", "--max-tokens", "1025"], "--max-tokens must be in 1..1024, got 1025"),
    "out is a directory": (["--prompt", "x", "--out", "folder"], "--out folder: is a directory"),
    "out below a file": (["--prompt", "x", "--out", "empty.txt/a.html"], "--out empty.txt/a.html: cannot write in"),
    "no model": (["--prompt", "x", "--model", "nowhere"], "nowhere"),
    "threads": (["--prompt", "x", "--threads", "0"], "--threads must be at least 1, got 0"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    """A current directory for each test, with an empty file and a folder."""
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_one_line(run, work, capsys, case):
    """Catches a traceback, a wrong exit status, an error that does not name the flag, and a page left behind."""
    arguments, words = WRONG[case]
    model = [] if "--model" in arguments else ["--model", str(run)]
    assert cli.main(["visualize", *model, *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tinygpt: error: ")
    assert words in err
    assert err.count("\n") == 1
    assert {path.name for path in work.iterdir()} == {"empty.txt", "folder"}


@pytest.mark.parametrize("source", ["flag", "file", "standard input"])
def test_the_page_is_that_of_the_prompt(run, work, capsys, monkeypatch, source):
    """Catches the wrong prompt, options without effect, and a missing folder that is not created."""
    prompt = "def alpha"
    (work / "prompt.txt").write_text(prompt)
    monkeypatch.setattr(sys, "stdin", io.StringIO(prompt))
    words = {"flag": ["--prompt", prompt], "file": ["--prompt-file", "prompt.txt"], "standard input": ["--prompt", "-"]}
    assert cli.main(["visualize", "--model", str(run), *words[source], "--out", "new/a.html", "--head", "1"]) == 0
    expected = visualize(*model_directory.load(run), prompt, head=1, name=run.name)
    assert (work / "new" / "a.html").read_text(encoding="utf-8") == expected.html
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("page      new/a.html  ")
    assert out.endswith(" MB: 9 tokens, 1 layers x 2 heads\n")


def test_a_cut_is_reported(run, work, capsys):
    """Catches a page of part of the prompt that does not say so."""
    assert cli.main(["visualize", "--model", str(run), "--prompt", "x" * 40, "--max-tokens", "8"]) == 0
    out, err = capsys.readouterr()
    assert err == "note      the prompt has 40 tokens; the first 8 are shown (limited by --max-tokens)\n"
    assert "8 tokens" in out
    assert (work / "attention.html").exists()


def test_a_prompt_longer_than_the_context_shows_its_first_tokens(run, work, capsys):
    """Catches a default of 128 tokens that a model with a shorter context refuses."""
    assert cli.main(["visualize", "--model", str(run), "--prompt", "x" * 40]) == 0
    out, err = capsys.readouterr()
    assert err == "note      the prompt has 40 tokens; the first 16 are shown (the context of the model)\n"
    assert "16 tokens" in out
    assert "the first 16 are shown (the context of the model)" in (work / "attention.html").read_text()


def test_quiet_prints_nothing(run, work, capsys):
    """Catches a line printed despite --quiet, and a page that is not written."""
    assert cli.main(["visualize", "--model", str(run), "--prompt", "x" * 40, "--max-tokens", "8", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert (work / "attention.html").exists()
