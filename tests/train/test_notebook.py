"""Progress in a notebook: a bar that moves in place, its texts escaped, and a whole run that reports to it."""

import re
import sys

import pytest
from tiny_run import tiny

from tinygpt.train import notebook
from tinygpt.train.loop import train


class Screen:
    """Records the states of every bar, in order, as a notebook would show them."""

    def __init__(self):
        self.bars = []

    def __call__(self, text):
        states = [text]
        self.bars.append(states)
        return states.append


def done(text):
    """Return the steps that a bar shows, and their total."""
    return tuple(map(int, re.search(r'value="(\d+)" max="(\d+)"', text).groups()))


def test_a_loop_moves_one_bar_to_its_end():
    """Catches a new bar for every step, a bar that stops before the end, and lost items."""
    screen = Screen()
    assert list(notebook.progress(range(7), "work", show=screen)) == list(range(7))
    (states,) = screen.bars
    assert done(states[0]) == (0, 7)
    assert done(states[-1]) == (7, 7)
    assert states[-1].startswith("<div")
    assert "work" in states[-1]
    assert " in " not in states[0]


def test_an_interrupted_loop_shows_where_it_stopped():
    """Catches a bar that keeps an old state because updates are rare."""
    screen = Screen()
    for step in notebook.progress(range(100), show=screen):
        if step == 41:
            break
    assert done(screen.bars[0][-1]) == (41, 100)


def test_updates_are_rare(monkeypatch):
    """Catches a message to the browser for every step of a fast loop."""
    clock = iter(range(10**6))
    monkeypatch.setattr(notebook.time, "monotonic", lambda: next(clock) * 0.001)
    screen = Screen()
    list(notebook.progress(range(1000), show=screen))
    assert len(screen.bars[0]) < 40


def test_texts_are_escaped():
    """Catches a name or figures that become markup."""
    bar = notebook.Bar("<b>", 2, show=Screen())
    bar.move(1, "a < b")
    assert "<b>" not in bar.html()
    assert "&lt;b&gt;" in bar.html()
    assert "a &lt; b" in bar.html()


def test_a_run_reports_its_bars_and_lines(sources, tmp_path, capsys):
    """Catches a run whose bar does not reach the end, and facts that a notebook does not show."""
    screen = Screen()
    train(tiny(sources, tmp_path / "out", steps=6, samples=1), notebook.NotebookReport(screen))
    training = [states for states in screen.bars if "training" in states[0]]
    assert len(training) == 1
    assert done(training[0][-1]) == (6, 6)
    assert "loss " in training[0][-1]
    assert "tokens/s" in training[0][-1]
    shown = capsys.readouterr().out
    assert "model       " in shown
    assert "--- sample 1" in shown


def test_without_ipython_the_extra_is_named(monkeypatch):
    """Catches a traceback of a missing module in place of one line that says what to install."""
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    with pytest.raises(ImportError, match=r"tinygpt\[notebooks\]"):
        notebook.show_html("")
