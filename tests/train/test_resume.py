"""Resumed runs: their files and messages, and what is refused."""

import errno
import re
import shutil
import signal
import subprocess
import sys

import pytest
from tiny_run import MODEL, Listening, content, flags, state, tiny

import tinygpt
from tinygpt import cli
from tinygpt.runs import layout
from tinygpt.runs.metrics import read_metrics
from tinygpt.runs.read import read_run
from tinygpt.train import loop
from tinygpt.train.loop import Interrupted, train


def stop(*_):
    signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def done(sources, tmp_path_factory):
    """A run of 12 steps with checkpoints after 10 and 12."""
    out = tmp_path_factory.mktemp("done") / "run"
    train(tiny(sources, out))
    return out


def test_resume_needs_a_run(sources, tmp_path):
    """Catches a new run that begins although --resume was given."""
    (tmp_path / "out").mkdir()
    with pytest.raises(FileNotFoundError, match=r"'resume': there is no run in .*out"):
        train(tiny(sources, tmp_path / "out", resume=True))
    assert content(tmp_path) == {}


def test_a_run_without_a_checkpoint_starts_over(done, sources, tmp_path):
    """Catches a killed run whose directory can neither be resumed nor used again."""
    out = tmp_path / "out"
    loop.directory.begin(out, tiny(sources, out).table())
    (out / "metrics.jsonl").write_text('{"step": 0, "loss": 5.0}\n')
    report = Listening()
    train(tiny(sources, out, resume=True), report)
    assert any("stopped before its first checkpoint was complete; starting over" in note for note in report.notes)
    assert state(out) == state(done)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("damage", ["flip", "cut", "missing"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(done, sources, tmp_path, damage):
    """Catches a run that cannot be resumed although an intact checkpoint exists, and no message about it."""
    out = shutil.copytree(done, tmp_path / "out")
    file = out / "checkpoints" / "step-12" / "optimizer.safetensors"
    if damage == "missing":
        file.unlink()
    else:
        data = bytearray(file.read_bytes())
        data[-9] ^= 1
        file.write_bytes(data if damage == "flip" else data[:-1])
    report = Listening()
    train(tiny(sources, out, resume=True), report)
    assert re.search(rf"{re.escape(str(file))}: .*; using the checkpoint before it", report.notes[0])
    assert [record["step"] for record in report.records] == [10, 11]
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step-10", "step-12", "step-12.damaged"]
    assert state(out / "checkpoints" / "step-12") == state(done / "checkpoints" / "step-12")


def test_without_an_intact_checkpoint_the_damage_is_named(done, sources, tmp_path):
    """Catches a run that starts over and loses its files because all checkpoints are damaged."""
    out = shutil.copytree(done, tmp_path / "out")
    for path in layout.checkpoints(out):
        (path / layout.STATE).write_text('{"step": 3, "seconds": 1e999}')
    before = content(out)
    with pytest.raises(ValueError, match=r"step-12/state\.json: 'seconds' must be .*; there is no other checkpoint"):
        train(tiny(sources, out, resume=True))
    assert content(out) == before


def test_a_checkpoint_that_the_disk_cannot_read_is_skipped(done, sources, tmp_path, monkeypatch):
    """Catches a run that is refused because a sector of its newest checkpoint is unreadable."""
    out, check = shutil.copytree(done, tmp_path / "out"), loop.checkpoint.check_checkpoint

    def unreadable(path):
        if path.name == "step-12":
            raise OSError(errno.EIO, "Input/output error", str(path / layout.OPTIMIZER))
        check(path)

    monkeypatch.setattr(loop.checkpoint, "check_checkpoint", unreadable)
    report = Listening()
    train(tiny(sources, out, resume=True), report)
    assert "Input/output error" in report.notes[0]
    assert str(out / "checkpoints" / "step-12") in report.notes[0]
    assert [record["step"] for record in report.records] == [10, 11]


@pytest.mark.parametrize("damage", ["flip", "missing"])
def test_a_run_without_its_best_model_is_resumed(done, sources, tmp_path, damage):
    """Catches a run that is refused, or ends without a model, although its checkpoints are intact."""
    out = shutil.copytree(done, tmp_path / "out")
    if damage == "missing":
        for name in MODEL:
            (out / name).unlink()
    else:
        data = bytearray((out / "model.safetensors").read_bytes())
        data[-9] ^= 1
        (out / "model.safetensors").write_bytes(data)
        with pytest.raises(ValueError, match=r"model\.safetensors: is damaged: its content does not"):
            tinygpt.load(out)
    report = Listening()
    train(tiny(sources, out, resume=True), report)
    assert any("the best model is lost" in note for note in report.notes)
    tinygpt.load(out)


# A program that is killed at its n-th file system call, without the clean-up of an exception.
KILLED = """
import os, sys
from tinygpt import cli

left = int(sys.argv[1])

def counted(function):
    def call(*args, **kwargs):
        global left
        if left == 0:
            os._exit(9)
        left -= 1
        return function(*args, **kwargs)
    return call

for name in ("replace", "rename", "mkdir", "unlink"):
    setattr(os, name, counted(getattr(os, name)))
sys.exit(cli.main(sys.argv[2:]))
"""


def test_a_kill_at_any_call_can_be_resumed(sources, tmp_path):
    """Catches a kill that leaves a directory which can neither be resumed nor used again."""
    out, calls = tmp_path / "out", 0
    words = [*flags(tiny(sources, out, steps=2, eval_every=1, checkpoint_every=1)), "--quiet"]
    while True:
        shutil.rmtree(out, ignore_errors=True)
        killed = subprocess.run([sys.executable, "-c", KILLED, str(calls), "train", *words], check=False).returncode
        assert killed in (0, 9)
        again = shutil.copytree(out, tmp_path / f"again-{calls}") if out.exists() else tmp_path / "nowhere"
        if layout.is_run(again):
            assert cli.main(["train", "--resume", "--out", str(again), "--quiet"]) == 0
            names = [path.name for folder in (again, again / "checkpoints") for path in folder.iterdir()]
            assert not [name for name in names if name.startswith(".") or name == layout.LOCK], names
        assert cli.main(["train", *words]) == 0
        if killed == 0:
            break
        calls += 3
    assert calls > 20


def test_log_every(sources, tmp_path):
    """Catches a record of every step, a missing last step, and evaluations dropped with the steps."""
    train(tiny(sources, tmp_path / "out", log_every=5))
    lines = read_metrics(tmp_path / "out" / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == [0, 5, 10, 11]
    assert [line["step"] for line in lines if "val_loss" in line] == [3, 7, 11]


def test_a_resume_is_marked(sources, tmp_path):
    """Catches files that do not show where a run was resumed, and a mark on an uninterrupted run."""
    settings = tiny(sources, tmp_path / "out", log_every=3)
    with pytest.raises(Interrupted):
        train(settings, Listening(step4=stop))
    assert read_run(tmp_path / "out").resumptions == []
    settings.output.resume = True
    train(settings)
    assert read_run(tmp_path / "out").resumptions == [6]  # in the next record that any run has


@pytest.mark.parametrize(
    ("changes", "name"),
    [({"embed": 32}, "embed"), ({"layers": 2}, "layers"), ({"rope": True}, "rope"), ({"seq": 8}, "seq"),
     ({"bias": False}, "bias")],
)  # fmt: skip
def test_another_shape_is_refused_by_name(done, sources, tmp_path, changes, name):
    """Catches an error that blames config.json instead of the flag, and a run damaged by the attempt."""
    out = shutil.copytree(done, tmp_path / "out")
    before = content(out)
    with pytest.raises(
        ValueError, match=rf"^\[train\] '{name}' cannot change when a run is resumed: the checkpoint has "
    ):
        train(tiny(sources, out, resume=True, **changes))
    assert content(out) == before


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"steps": 40}, True), ({"steps": 40, "schedule": "constant"}, False), ({}, False)],
)
def test_a_jump_of_the_learning_rate_is_reported(sources, tmp_path, changes, told):
    """Catches an extended run whose learning rate rises without a note, and a note without a jump."""
    kept = {name: value for name, value in changes.items() if name == "schedule"}
    with pytest.raises(Interrupted):
        train(tiny(sources, tmp_path / "out", **kept), Listening(step9=stop))
    report = Listening()
    train(tiny(sources, tmp_path / "out", resume=True, **changes), report)
    notes = [note for note in report.notes if "learning rate jumps from" in note]
    assert len(notes) == told
    if told:
        before, after = map(float, re.search(r"from (\S+) to ([^,]+),", notes[0]).groups())
        records = [record["lr"] for record in read_metrics(tmp_path / "out" / "metrics.jsonl") if "lr" in record]
        assert (before, after) == (pytest.approx(records[9], rel=0.06), pytest.approx(records[10], rel=0.06))
        assert "after 40 steps instead of 12" in notes[0]
