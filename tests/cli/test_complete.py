"""`tinygpt complete` and `tinygpt eval --infill`."""

import json
import re

import pytest

import tinygpt
from tinygpt import cli
from tinygpt.completion import complete_lines, hide_lines
from tinygpt.data.discover import discover
from tinygpt.generate import stream_text
from tinygpt.sampling import Sampler


def said(capsys, *arguments):
    assert cli.main(list(map(str, arguments))) == 0
    return capsys.readouterr()


def test_complete_prints_the_text_alone(run, tmp_path, capsys):
    """Catches another place than the one given, more than the line with --line, and a file that is changed."""
    file = tmp_path / "a.py"
    file.write_text("def alpha\nx")
    out, err = said(capsys, "complete", f"{file}:1:8", "--model", run, "--length", 9)
    model, tokenizer = tinygpt.load(run)
    want = "".join(stream_text(model, tokenizer, "def alp", 9, Sampler(0)))
    assert out == want + "\n"
    assert err == (
        "note      the model has no tokens for fill-in-the-middle (train --fim-rate), so the text after the place is "
        "not used\n"
    )
    out, err = said(capsys, "complete", f"{file}:1:8", "--model", run, "--length", 9, "--line", "--quiet")
    assert (out, err) == (want.split("\n")[0] + "\n", "")
    assert file.read_text() == "def alpha\nx"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["complete"], "PLACE is missing; usage: tinygpt complete PLACE"),
        (["complete", "a.py"], "'a.py' must be FILE:LINE:COL, with line and column from 1"),
        (["complete", "nowhere.py:1:1"], "nowhere.py: No such file or directory"),
        (["complete", "a:1:1", "--length", "0"], "--length must be at least 1, got 0"),
        (["eval", "--infill", "nowhere"], "'nowhere': no such file or directory"),
        (["eval", "--infill", ".", "--lines", "0"], "--lines must be at least 1, got 0"),
    ],
)
def test_bad_input(capsys, arguments, line):
    """Catches a traceback, and an error that does not name its cause."""
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err == f"tinygpt: error: {line}\n"


def test_infill_scores(run, sources, capsys):
    """Catches scores of other lines, and rounded numbers in JSON."""
    words = ("eval", "--model", run, "--infill", sources, "--lines", 6, "--length", 12, "--seed", 1)
    model, tokenizer = tinygpt.load(run)
    lines = hide_lines(discover([str(sources)])[0], 6, 1)
    found = complete_lines(model, tokenizer, lines, 12)
    exact, near = sum(one.exact for one in found) / 6, sum(one.similarity for one in found) / 6
    result = json.loads(said(capsys, *words, "--json").out)
    assert (result["lines"], result["exact_match"], result["edit_similarity"]) == (6, exact, near)
    assert result["sees"] == "prefix"
    out, err = said(capsys, *words, "--each")
    assert re.search(rf"^exact match {exact:.1%}  edit similarity {near:.3f}  \(6 lines, [\d,]+ ms each\)$", out, re.M)
    assert "model     sees prefix of each line" in err
    for one in found:
        assert f"{one.hidden.path}:{one.hidden.line}\n      - {one.hidden.text}\n      + {one.text}" in out
