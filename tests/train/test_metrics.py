"""The page and TensorBoard, which hear of every step beside metrics.jsonl."""

import json
import re
import sys
import tomllib

import pytest
from tiny_run import Listening, content, tiny

from tinygpt import cli
from tinygpt.runs.metrics import read_metrics
from tinygpt.train.interrupt import Interrupt
from tinygpt.train.loop import Interrupted, train
from tinygpt.train.sinks import SCALARS, TensorBoard


def events(folder):
    """(tag, step) -> value of all event files, by the format itself: length, its checksum, a message, its checksum.

    tensorboardX has the messages; a later file with a session log of START takes back the steps from its own on.
    """
    proto = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = {}
    for path in sorted(folder.iterdir(), key=lambda path: (path.stat().st_mtime_ns, path.name)):
        data, place = path.read_bytes(), 0
        while place < len(data):
            size = int.from_bytes(data[place : place + 8], "little")
            event = proto.Event.FromString(data[place + 12 : place + 12 + size])
            place += 12 + size + 4
            if event.HasField("session_log"):
                found = {(tag, step): value for (tag, step), value in found.items() if step < event.step}
            for value in event.summary.value:
                found[value.tag, event.step] = value.simple_value
    return found


def test_tensorboard_has_the_records(sources, tmp_path):
    """Catches a figure that is missing, under another name, at another step, or of another value."""
    pytest.importorskip("tensorboardX")
    train(tiny(sources, tmp_path / "out", tensorboard=str(tmp_path / "board")))
    records = read_metrics(tmp_path / "out" / "metrics.jsonl")
    expected = {(SCALARS[name], r["step"]): value for r in records for name, value in r.items() if name != "step"}
    found = events(tmp_path / "board")
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-6), key


def test_tensorboard_goes_on(sources, tmp_path):
    """Catches steps that stand there twice after a run went on from an earlier checkpoint."""
    pytest.importorskip("tensorboardX")
    settings = tiny(sources, tmp_path / "out", tensorboard=str(tmp_path / "board"))

    def die():
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        train(settings, Listening(step7=die))
    settings.output.resume = True
    train(settings)
    steps = sorted(step for tag, step in events(tmp_path / "board") if tag == "loss/train")
    assert steps == list(range(12))


def test_a_missing_tensorboard_is_told_before_anything_is_done(sources, tmp_path, monkeypatch):
    """Catches an hour of training before the error, and a name that pip does not know."""
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"'tensorboard' needs tensorboardX: pip install 'tinygpt\[tensorboard\]'"):
        train(tiny(sources, tmp_path / "out", tensorboard=str(tmp_path / "board")))
    assert content(tmp_path) == {}


def test_a_place_for_no_events_is_refused(tmp_path):
    """Catches an error that comes with the first step."""
    pytest.importorskip("tensorboardX")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=r"^\[train\] 'tensorboard' .*file: is a file, name a directory$"):
        TensorBoard(tmp_path / "file")
    with pytest.raises(ValueError, match=r"^\[train\] 'tensorboard' .*/below: .*file is a file"):
        TensorBoard(tmp_path / "file" / "below")


def page_of(path):
    """State, steps and score of a page."""
    text = path.read_text(encoding="utf-8")
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    data = json.loads(block)
    (run,) = data["runs"]
    return run["state"], run["facts"]["steps"], run["facts"]["score"], data["live"]


def test_the_page_is_complete_at_the_end(sources, tmp_path):
    """Catches a page that still waits for steps, one without the last of them, and one that is missing at first."""
    pytest.importorskip("plotly")
    page, seen = tmp_path / "page.html", []
    score = train(
        tiny(sources, tmp_path / "out", metrics=str(page)), Listening(step0=lambda: seen.append(page_of(page)))
    )
    state, steps, _, live = seen[0]
    assert (state, steps) == ("running", 0)
    assert live["seconds"] > 0
    assert page_of(page) == ("complete", 12, score.loss, None)


def test_a_stopped_run_says_so_in_its_page(sources, tmp_path, monkeypatch):
    """Catches a page that waits for ever after Ctrl-C, and a run that forgets on resuming what else was asked for."""
    pytest.importorskip("plotly")
    page, board = tmp_path / "page.html", tmp_path / "board"
    wanted = []
    monkeypatch.setattr(Interrupt, "__enter__", lambda self: wanted.append(self) or self)

    def stop():
        wanted[-1].wanted = True

    asked = {"watch": "weights", "watch_every": 3}
    settings = tiny(sources, tmp_path / "out", metrics=str(page), **asked)
    with pytest.raises(Interrupted, match="stopped after step 5"):
        train(settings, Listening(step4=stop))
    assert page_of(page)[:2] == ("stopped", 5)
    assert not board.exists()
    monkeypatch.undo()
    assert cli.main(["train", "--resume", "--out", settings.output.out, "--quiet"]) == 0
    assert page_of(page)[:2] == ("complete", 12)
    watched = [record["step"] for record in read_metrics(tmp_path / "out" / "watch.jsonl")]
    assert watched == [0, 3, 6, 9, 11]


def test_the_settings_of_a_run_do_not_lead_another_one_to_its_page(sources, tmp_path):
    """Catches a run made again from run.toml that replaces the page of the first."""
    pytest.importorskip("plotly")
    page = tmp_path / "page.html"
    train(tiny(sources, tmp_path / "out", metrics=str(page)))
    before = page.read_bytes()
    again = ["--config", str(tmp_path / "out" / "run.toml"), "--out", str(tmp_path / "again"), "--quiet"]
    assert cli.main(["train", *again]) == 0
    assert page.read_bytes() == before
    assert "metrics" not in tomllib.loads((tmp_path / "again" / "run.toml").read_text())
