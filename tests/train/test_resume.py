"""Runs that are resumed: what their files and lines say, and what is refused."""

import signal

import pytest
from tiny_run import Listening, tiny

from tinygpt.runs.metrics import read_metrics
from tinygpt.runs.read import read_run
from tinygpt.train.loop import Interrupted, train


def stop(*_):
    signal.raise_signal(signal.SIGINT)


def test_records_are_as_many_as_asked_for(sources, tmp_path):
    """Catches a file of every step, a last step that is missing, and evaluations that go with the steps left out."""
    train(tiny(sources, tmp_path / "out", log_every=5))
    lines = read_metrics(tmp_path / "out" / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == [0, 5, 10, 11]
    assert [line["step"] for line in lines if "val_loss" in line] == [3, 7, 11]


def test_a_resumption_is_marked(sources, tmp_path):
    """Catches a run from whose files nobody can tell where it was stopped, and a mark on a run that never was."""
    settings = tiny(sources, tmp_path / "out", log_every=3)
    with pytest.raises(Interrupted):
        train(settings, Listening(step4=stop))
    assert read_run(tmp_path / "out").resumptions == []
    settings.output.resume = True
    train(settings)
    assert read_run(tmp_path / "out").resumptions == [5]
