"""`tinygpt gym` as a learner meets it: list, start, check, hint, train, solution."""

import json
import re

import pytest

from tinygpt import cli
from tinygpt.cli import gym_check
from tinygpt.gym.catalogue import exercises, find

SOFTMAX = find("naive-softmax")


@pytest.fixture(autouse=True)
def _directory(tmp_path, monkeypatch):
    """Every test has a directory of its own."""
    monkeypatch.chdir(tmp_path)


def said(capsys, *words, status=0):
    """Run ``tinygpt gym``; return what it printed."""
    assert cli.main(["gym", *words]) == status
    out, err = capsys.readouterr()
    assert err == ""
    return out


def write(text, name="naive-softmax/softmax.py"):
    with open(name, "w") as file:
        file.write(text)


def test_the_list_shows_every_exercise(capsys):
    """Catches an exercise that nobody finds, and a list without the first step."""
    out = said(capsys)
    for name, exercise in exercises().items():
        assert re.search(rf"^  {name} +- +{re.escape(exercise.title)}$", out, re.MULTILINE)
    assert max(map(len, out.splitlines())) <= 90
    assert f"{len(exercises())} exercises. 'tinygpt gym start naive-softmax' writes the first one" in out
    assert said(capsys, "list") == out


def test_from_start_to_solved(capsys):
    """Catches a step of the way whose words do not lead to the next one."""
    out = said(capsys, "start", "naive-softmax")
    for line in (
        "read      naive-softmax/README.md",
        "complete  naive-softmax/softmax.py",
        "then      tinygpt gym check",
    ):
        assert f"  {line}\n" in out

    out = said(capsys, "check", status=1)
    assert re.search(r"^ +to do +softmax.py is not written yet$", out, re.MULTILINE)
    assert SOFTMAX.hints[0] in out

    write("import numpy as np\ndef softmax(x, out):\n    print('hello')\n    out[:] = np.exp(x) / np.exp(x).sum()\n")
    out = said(capsys, "check", status=1)
    words = ["ok", "ok", "printed", "wrong", "inputs", "expected", "got", "difference", "likely"]
    assert re.findall(r"^  ([a-z]+) +\S", out, re.MULTILINE) == words
    assert "likely     The exponentials were divided by the sum over the whole array" in out

    assert "Every row is a distribution of its own." in said(capsys, "hint")
    assert said(capsys, "hint") == f"hint 1 of 3\n  {SOFTMAX.hints[0]}\n"
    assert re.search(r"^> naive-softmax +started ", said(capsys), re.MULTILINE)

    solution = said(capsys, "solution")
    assert solution == SOFTMAX.source("solution").read_text()
    write(solution)
    out = said(capsys, "check")
    assert "all 7 cases are right\n" in out
    assert re.search(r"^  yours +█+ +[\d,.]+ (us|ms)", out, re.MULTILINE)
    assert re.search(r"^(yours is [\d,.]+ times as fast as|'\w+' is [\d,.]+ times as fast as yours)", out, re.MULTILINE)
    assert f"solved    1 of {len(exercises())} exercises\n" in out
    assert "tinygpt gym start stable-softmax" in out
    assert re.search(r"^> naive-softmax +solved ", said(capsys), re.MULTILINE)
    with open("gym.json") as file:
        record = json.load(file)["exercises"]["naive-softmax"]
    assert record["solved"]
    assert record["checks"] == 3
    assert record["best_seconds"] > 0

    out = said(capsys, "train", "--steps", "12")
    assert "with your kernel for cross_entropy" in out
    assert re.search(r"^the same curve to [\d.e-]+ %", out, re.MULTILINE)


def test_a_later_failure_does_not_undo_a_solved_exercise(capsys):
    """Catches progress that is lost while a learner experiments."""
    said(capsys, "start", "naive-softmax")
    with open("gym.json") as file:
        progress = json.load(file)
    progress["exercises"]["naive-softmax"]["solved"] = True
    write(json.dumps(progress), "gym.json")
    said(capsys, "check", status=1)
    assert re.search(r"^> naive-softmax +solved ", said(capsys), re.MULTILINE)


def test_hints_go_to_the_last_one(capsys):
    """Catches a hint that is skipped, and an error behind the last one."""
    said(capsys, "start", "naive-softmax")
    for i, hint in enumerate([*SOFTMAX.hints, SOFTMAX.hints[-1]]):
        out = said(capsys, "hint")
        assert out.startswith(f"hint {min(i + 1, 3)} of 3\n  {hint}\n")
        assert ("gym solution" in out) == (i >= 2)


def test_code_that_never_ends_is_one_line(capsys):
    """Catches a command line that hangs with the learner's code."""
    said(capsys, "start", "naive-softmax")
    write("def softmax(x, out):\n    while True:\n        pass\n")
    out = said(capsys, "check", "--seconds", "0.5", status=1)
    assert "softmax.py was stopped after 0.5 s in case 1 (one row, scores 0 and 1): an endless loop" in out


def test_a_quiet_check_only_answers(capsys):
    """Catches lines that --quiet should keep back."""
    said(capsys, "start", "naive-softmax")
    assert said(capsys, "check", "--quiet", status=1) == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check"], "no exercise was started in this directory; try 'tinygpt gym start naive-softmax'"),
        (["start"], "gym start needs a name, such as 'naive-softmax'; 'tinygpt gym' lists all"),
        (["start", "naive-sofmax"], "there is no exercise 'naive-sofmax'; did you mean 'naive-softmax'?"),
        (["list", "naive-softmax"], "gym list takes no name; did you mean 'tinygpt gym start naive-softmax'?"),
        (["check", "--seconds", "0"], "--seconds must be more than 0 and less than 1000000, got 0"),
        (["train", "--steps", "0"], "--steps must be at least 1, got 0"),
    ],
)
def test_bad_words_are_one_line(capsys, tmp_path, words, message):
    """Catches a traceback, a message without the fix, and files that are left behind."""
    assert cli.main(["gym", *words]) == 2
    assert capsys.readouterr() == ("", f"tinygpt: error: {message}\n")
    assert list(tmp_path.iterdir()) == []


def test_training_needs_a_solved_kernel(capsys):
    """Catches a model trained with a kernel that was never right."""
    said(capsys, "start", "naive-softmax")
    assert cli.main(["gym", "train"]) == 2
    assert "naive-softmax is not solved yet; run 'tinygpt gym check naive-softmax' first" in capsys.readouterr().err


def test_bars_are_in_order_of_speed():
    """Catches a bar that is longer for a slower rung, one of no length, and a learner who is not marked."""
    lines = gym_check.bars({"naive": 1e-3, "simd": 1e-5, "yours": 1e-4})
    assert [line.plain.split()[0] for line in lines] == ["naive", "yours", "simd"]
    assert [line.plain.count("█") for line in lines] == [1, 15, 30]
    assert [line.style for line in lines] == ["", "bold green", ""]
    assert "10.0 x" in lines[1].plain
    assert gym_check.bars({"naive": 1.0, "yours": 1.0})[0].plain.count("█") == 1


@pytest.mark.parametrize(
    ("mine", "text"),
    [
        (2e-3, "'naive' is 2.0 times as fast as yours"),
        (1e-4, "yours is 10.0 times as fast as 'naive', and 'simd' is 10.0 times as fast as yours"),
        (1e-6, "yours is 10.0 times as fast as 'simd'"),
    ],
)
def test_the_place_on_the_ladder_is_told(mine, text):
    """Catches a comparison that is upside down, or not with the nearest rung."""
    assert gym_check.standing({"naive": 1e-3, "simd": 1e-5, "yours": mine}) == text


def test_a_rung_that_must_be_beaten_is_told(capsys, monkeypatch):
    """Catches an exercise that counts as solved although its kernel is slow."""
    from rich.console import Console

    from tinygpt.gym import runner
    from tinygpt.gym.project import Record

    exercise = find("block-matmul")
    for mine, fast in ((2.0, False), (0.5, True)):
        seconds = {"naive": 1.0, "simd": 0.1, "yours": mine}
        outcome = {"event": "timed", "seconds": seconds, "disturbed": False}
        monkeypatch.setattr(runner, "run", lambda *arguments, outcome=outcome: (outcome, ""))
        record = Record()
        assert gym_check._race(Console(soft_wrap=True), exercise, None, 1.0, record) is fast
        assert record.best_seconds == mine
        out = capsys.readouterr().out
        assert ("it takes 2.00 times as long as 'naive', which is to be beaten" in out) is not fast, out
        assert ("tinygpt gym hint  gives a hint" in out) is not fast
