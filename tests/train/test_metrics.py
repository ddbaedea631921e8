"""The metrics page and TensorBoard, which receive every record besides metrics.jsonl."""

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
    """Read event files: (tag, step) -> value.

    Each record is a length, its checksum, a message and its checksum; tensorboardX defines the messages. A later file
    that starts with a session log replaces the steps from its own step on.
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
    """Catches a missing figure, and one with the wrong name, step or value."""
    pytest.importorskip("tensorboardX")
    train(tiny(sources, tmp_path / "out", tensorboard=str(tmp_path / "board")))
    records = read_metrics(tmp_path / "out" / "metrics.jsonl")
    expected = {(SCALARS[name], r["step"]): value for r in records for name, value in r.items() if name != "step"}
    found = events(tmp_path / "board")
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-6), key


def test_tensorboard_of_a_resumed_run(sources, tmp_path):
    """Catches steps shown twice after a run was resumed from an earlier checkpoint."""
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


def test_a_missing_tensorboard_is_reported_at_once(sources, tmp_path, monkeypatch):
    """Catches an hour of training before the error, and an extra that pip does not know."""
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"'tensorboard' needs tensorboardX: pip install 'tinygpt\[tensorboard\]'"):
        train(tiny(sources, tmp_path / "out", tensorboard=str(tmp_path / "board")))
    assert content(tmp_path) == {}


def test_a_file_in_place_of_the_event_directory_is_refused(tmp_path):
    """Catches an error that comes only with the first step."""
    pytest.importorskip("tensorboardX")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=r"^\[train\] 'tensorboard' .*file: is a file, name a directory$"):
        TensorBoard(tmp_path / "file")
    with pytest.raises(ValueError, match=r"^\[train\] 'tensorboard' .*/below: .*file is a file"):
        TensorBoard(tmp_path / "file" / "below")


def page_of(path):
    """State, steps, score and live settings of a page."""
    text = path.read_text(encoding="utf-8")
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    data = json.loads(block)
    (run,) = data["runs"]
    return run["state"], run["facts"]["steps"], run["facts"]["score"], data["live"]


def test_the_page_is_complete_at_the_end(sources, tmp_path):
    """Catches a finished page that still reloads or lacks the last steps, and no page at the start."""
    pytest.importorskip("plotly")
    page, seen = tmp_path / "page.html", []
    score = train(
        tiny(sources, tmp_path / "out", metrics=str(page)), Listening(step0=lambda: seen.append(page_of(page)))
    )
    state, steps, _, live = seen[0]
    assert (state, steps) == ("running", 0)
    assert live["seconds"] > 0
    assert page_of(page) == ("complete", 12, score.loss, None)


def test_the_page_of_a_stopped_run(sources, tmp_path, monkeypatch):
    """Catches a page that reloads for ever after Ctrl-C, and a resumed run that loses its outputs."""
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


def test_a_repeated_run_does_not_replace_the_page(sources, tmp_path):
    """Catches a run repeated from run.toml that overwrites the page of the first run."""
    pytest.importorskip("plotly")
    page = tmp_path / "page.html"
    train(tiny(sources, tmp_path / "out", metrics=str(page)))
    before = page.read_bytes()
    again = ["--config", str(tmp_path / "out" / "run.toml"), "--out", str(tmp_path / "again"), "--quiet"]
    assert cli.main(["train", *again]) == 0
    assert page.read_bytes() == before
    assert "metrics" not in tomllib.loads((tmp_path / "again" / "run.toml").read_text())
