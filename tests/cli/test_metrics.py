"""`tinygpt metrics`: the page it writes, its output, and bad input."""

import json
import sys

import pytest

from tinygpt import cli
from tinygpt.viz.metrics import MOST_RUNS, page


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    """A current directory for each test, with files that are not runs."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "half.jsonl").write_text('{"step": 0, "loss": 2.5}\n{"step": 1, "lo')
    (tmp_path / "wrong.jsonl").write_text('{"step": 0, "loss": 2.5}\n{"step": 1, "loss": "x"}\n')
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "deep.jsonl").write_text('{"step": 0, "loss": 2.5, "x": ' + "[" * 100_000 + "]" * 100_000 + "}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


WRONG = {
    "nowhere": (["nowhere"], "nowhere: no such run"),
    "empty": (["empty.jsonl"], "empty.jsonl: no step has been recorded yet"),
    "deep": (["deep.jsonl"], "deep.jsonl: line 1: must be JSON of at most 100 levels"),
    "no metrics": (["folder"], "folder is not a training run: it has no metrics.jsonl"),
    "wrong line": (["wrong.jsonl"], "wrong.jsonl: line 2: 'loss' must be a finite number, got 'x'"),
    "out is a directory": (["half.jsonl", "--out", "folder"], "--out folder: is a directory"),
    "out below a file": (["half.jsonl", "--out", "half.jsonl/a.html"], "--out half.jsonl/a.html: cannot write in"),
    "too many": (["half.jsonl"] * (MOST_RUNS + 1), f"at most {MOST_RUNS} runs fit one page, got {MOST_RUNS + 1}"),
    "none": ([], "runs"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_one_line(work, capsys, case):
    """Catches a traceback, a wrong exit status, an error that does not name the file, and a page left behind."""
    arguments, words = WRONG[case]
    before = sorted(path.name for path in work.iterdir())
    assert cli.main(["metrics", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tinygpt: error: ")
    assert err.count("\n") == 1
    assert words.lower() in err.lower()
    assert sorted(path.name for path in work.iterdir()) == before


def test_the_page_is_that_of_the_runs(run, work, capsys):
    """Catches a flag without effect, a missing run, and a missing folder that is not created."""
    pytest.importorskip("plotly")
    assert cli.main(["metrics", str(run), "half.jsonl", "--out", "new/page.html"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    first, second, note, written = out.splitlines()
    assert first.startswith(f"run       {run}: 60 steps, last loss ")
    assert "validation " in first
    assert second == "run       half.jsonl: 1 step, last loss 2.5000"
    assert note.startswith("note      half.jsonl: line 2 is incomplete")
    assert written.startswith("written   new/page.html, ")
    assert (work / "new" / "page.html").read_text(encoding="utf-8") == page([str(run), "half.jsonl"]).html


def test_quiet_prints_nothing(run, work, capsys):
    """Catches a line printed despite --quiet, and a page that is not written."""
    pytest.importorskip("plotly")
    assert cli.main(["metrics", str(run), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert (work / "metrics.html").exists()


def test_a_missing_extra_is_named(run, work, capsys, monkeypatch):
    """Catches an error that does not say what to install."""
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    assert cli.main(["metrics", str(run)]) == 2
    assert capsys.readouterr().err == "tinygpt: error: the page needs plotly: pip install 'tinygpt[viz]'\n"


def test_a_name_cannot_move_the_cursor(work, capsys):
    """Catches control characters of a file name that reach the terminal."""
    pytest.importorskip("plotly")
    (work / "a\x1b[31m.jsonl").write_text(json.dumps({"step": 0, "loss": 1.0}) + "\n")
    assert cli.main(["metrics", "a\x1b[31m.jsonl"]) == 0
    assert "\x1b" not in capsys.readouterr().out
