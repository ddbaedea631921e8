"""`tinygpt trace`: the table, one step as numbers, the page, the saved arrays, and bad input."""

import io
import sys
from dataclasses import replace

import numpy as np
import pytest

from tinygpt import cli
from tinygpt.files import model_directory
from tinygpt.viz.trace import trace_page

PROMPT = "def alpha"
STEPS = "unknown step; there are embed.token, embed.position, embed.sum, norm.mean"
WRONG = {
    "no prompt": ([], "--prompt must not be empty"),
    "empty prompt": (["--prompt", ""], "--prompt must not be empty"),
    "empty file": (["--prompt-file", "empty.txt"], "--prompt-file empty.txt: is empty"),
    "two prompts": (["--prompt", "a", "--prompt-file", "empty.txt"], "--prompt and --prompt-file cannot both be given"),
    "step": (["--prompt", "x", "--step", "attn.sofmax"], f"--step attn.sofmax: {STEPS}"),
    "step of what the model has not": (["--prompt", "x", "--step", "mlp.gate"], "in each of 1 layers norm1.mean"),
    "layer": (["--prompt", "x", "--layer", "1"], "--layer must be in 0..0, got 1"),
    "negative layer": (["--prompt", "x", "--step", "attn.q", "--layer", "-1"], "--layer must be in 0..0, got -1"),
    "layer of no block": (["--prompt", "x", "--step", "norm", "--layer", "0"], "--layer needs a step of"),
    "head": (["--prompt", "x", "--step", "attn.q", "--head", "2"], "--head must be in 0..1, got 2"),
    "head of none": (["--prompt", "x", "--step", "norm", "--head", "1"], "--head needs a step that has heads"),
    "head of a table": (["--prompt", "x", "--head", "1"], "--head needs --step or --out"),
    "gradients of one token": (["--prompt", "x", "--backward"], "--backward needs a prompt of at least 2 tokens"),
    "no tokens": (["--prompt", "x", "--max-tokens", "0"], "--max-tokens must be in 1..1024, got 0"),
    "out is a directory": (["--prompt", "x", "--out", "folder"], "--out folder: is a directory"),
    "arrays below a file": (["--prompt", "x", "--save", "empty.txt/a.npz"], "--save empty.txt/a.npz: cannot write in"),
    "no model": (["--prompt", "x", "--model", "nowhere"], "nowhere"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    """A current directory for each test, with an empty file and a folder."""
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys, run, *arguments):
    assert cli.main(["trace", "--model", str(run), "--prompt", PROMPT, *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out.splitlines()


@pytest.fixture(scope="module")
def page(run):
    return trace_page(*model_directory.load(run), PROMPT, backward=True, name=run.name)


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_one_line(run, work, capsys, case):
    """Catches a traceback, a wrong exit status, an error that lists no alternatives, and files left behind."""
    arguments, words = WRONG[case]
    model = [] if "--model" in arguments else ["--model", str(run)]
    save = [] if "--save" in arguments else ["--save", "a.npz"]
    assert cli.main(["trace", *model, *arguments, *save]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tinygpt: error: ")
    assert words in err
    assert err.count("\n") == 1
    assert {path.name for path in work.iterdir()} == {"empty.txt", "folder"}


def test_the_table_has_a_line_for_every_step(run, page, capsys):
    """Catches a missing step, and a table cut at a terminal width in a file."""
    lines = said(capsys, run)
    assert lines[0].split() == ["step", "formula", "axes", "shape", "min", "max", "mean", "std", "zeros", "source"]
    names = [name for name in page.steps if name not in ("losses", "loss")]
    assert [line.split()[0] for line in lines[1:]] == names
    for line, name in zip(lines[1:], names, strict=True):
        step = page.steps[name]
        assert f" {step.formula} " in line
        assert f"{step.stats.max:.4g}" in line.split()
        assert line.split()[-1] == step.source
    of_layer = said(capsys, run, "--layer", "0")
    assert [line.split()[0] for line in of_layer[1:]] == [name for name in names if name.startswith("blocks.0.")]


def test_one_step_is_printed_as_numbers(run, page, capsys):
    """Catches numbers of the wrong head or layer, a transposed table, and a token at the wrong row."""
    step = page.steps["blocks.0.attn.softmax"]
    for arguments in (["--layer", "0"], []):
        lines = said(capsys, run, "--step", "attn.softmax", *arguments, "--head", "1")
        assert lines[0] == f"{step.name} = {step.formula}"
        assert step.source in lines[1]
        assert lines[4:6] == ["head 1", lines[5]]
        assert lines[5].split() == page.labels
        for t, line in enumerate(lines[6:]):
            position, token, *numbers = line.split()
            assert (position, token) == (str(t), page.labels[t])
            np.testing.assert_allclose([*map(float, numbers)], step.array[0, 1, t], rtol=1e-3)
        assert len(lines) == 6 + len(page.ids)
    both = said(capsys, run, "--step", step.name)
    assert [line for line in both if line.startswith("head")] == ["head 0", "head 1"]


def test_a_large_step_is_abbreviated(run, page, capsys):
    """Catches a table wider than a screen, and columns that do not match their header."""
    lines = said(capsys, run, "--step", "mlp.up")
    assert lines[4].split() == ["0", "1", "2", "3", "...", "60", "61", "62", "63"]
    numbers = lines[5].replace("...", "").split()[2:]
    array = page.steps["blocks.0.mlp.up"].array[0, 0]
    np.testing.assert_allclose([*map(float, numbers)], array[[0, 1, 2, 3, -4, -3, -2, -1]], rtol=1e-3)


def test_a_distribution_is_printed_by_its_likeliest_tokens(run, page, capsys):
    """Catches token ids as columns instead of the likeliest tokens, and tokens of the wrong position."""
    lines = said(capsys, run, "--step", "probabilities")
    for line, prediction in zip(lines[4:], page.predictions(), strict=True):
        words = line.partition(":  ")[2].split("   ")
        assert words == [f"{label} {p:.4g}" for label, p in prediction["best"][:6]]


def test_gradients_follow_the_values(run, page, capsys):
    """Catches --backward without effect, and the gradient of the wrong step."""
    lines = said(capsys, run, "--step", "norm", "--backward")
    gradient = page.steps["norm"].gradient[0]
    at = lines.index("gradient") + 2
    found = lines[at].replace("...", "").split()[2:]
    np.testing.assert_allclose([*map(float, found)], gradient[0, [0, 1, 2, 3, -4, -3, -2, -1]], rtol=1e-3)
    assert said(capsys, run, "--step", "loss", "--backward", "--quiet")[1].startswith("one number, float32")


@pytest.mark.parametrize("source", ["file", "standard input"])
def test_the_page_is_that_of_the_prompt(run, work, page, capsys, monkeypatch, source):
    """Catches the wrong prompt, options without effect, and a missing folder that is not created."""
    (work / "prompt.txt").write_text(PROMPT)
    monkeypatch.setattr(sys, "stdin", io.StringIO(PROMPT))
    words = {"file": ["--prompt-file", "prompt.txt"], "standard input": ["--prompt", "-"]}[source]
    arguments = ["--out", "new/a.html", "--backward", "--step", "attn.mix", "--head", "1"]
    assert cli.main(["trace", "--model", str(run), *words, *arguments]) == 0
    expected = replace(page, first="blocks.0.attn.mix", head=1)
    assert (work / "new" / "a.html").read_text(encoding="utf-8") == expected.html
    assert capsys.readouterr().out.startswith("page      new/a.html  ")


def test_arrays_are_those_of_the_steps(run, work, page, capsys):
    """Catches arrays under the wrong name, and values rounded as on the page."""
    assert said(capsys, run, "--save", "new/a.npz", "--backward", "--quiet") == []
    with np.load(work / "new" / "a.npz") as arrays:
        assert set(page.steps) <= set(arrays.files)
        for name, step in page.steps.items():
            np.testing.assert_array_equal(arrays[name], step.array)
        for name, gradient in page.steps.parameter_gradients.items():
            np.testing.assert_array_equal(arrays[f"gradient:{name}"], gradient)


def test_a_cut_is_reported(run, capsys):
    """Catches steps of part of a prompt without a note."""
    assert cli.main(["trace", "--model", str(run), "--prompt", "x" * 40, "--max-tokens", "8"]) == 0
    out, err = capsys.readouterr()
    assert err == "note      the prompt has 40 tokens; the first 8 are shown (limited by --max-tokens)\n"
    assert " 1x8x16 " in out


def test_control_characters_stay_off_the_terminal(run, capsys):
    """Catches a token that moves the cursor."""
    assert cli.main(["trace", "--model", str(run), "--prompt", "a\x1b[2J\u202eb", "--step", "attn.softmax"]) == 0
    assert not set(capsys.readouterr().out) & {"\x1b", "\u202e"}
