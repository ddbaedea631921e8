"""Progress in a notebook: one bar that moves in place, facts and evaluations as lines, samples below.

The bar is plain HTML that is displayed once and then updated. So it needs no widgets and no further package, and a
saved notebook shows its last state.

Design
- Updates are at least EVERY seconds apart, because each of them is a message to the browser. Rejected: ipywidgets,
  which many notebook viewers do not show.
"""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from tinygpt.train.report import Report

EVERY = 0.2  # seconds between two updates of a bar
Item = TypeVar("Item")
Update = Callable[[str], None]
Show = Callable[[str], Update]


def show_html(text: str) -> Update:
    """Display HTML below the cell; returns a function that replaces it.

    Raises
    ------
    ImportError
        IPython is not installed; the message names the extra to install.
    """
    try:
        from IPython.display import HTML, display
    except ImportError:
        raise ImportError("progress in a notebook needs IPython: pip install 'tinygpt[notebooks]'") from None
    handle = display(HTML(text), display_id=True)
    # Outside a kernel, as in a plain interpreter, there is no handle and nothing to update.
    return lambda new: handle.update(HTML(new)) if handle is not None else None


class Bar:
    """A progress bar below a cell.

    Parameters
    ----------
    name : str
        Label on its left.
    total : int
        Number of steps.
    first : int
        Steps done before.
    show : callable, optional
        Displays HTML and returns a function that replaces it.
    """

    def __init__(self, name: str, total: int, first: int = 0, show: Show = show_html):
        self.name, self.total, self.first, self.done, self.figures = name, total, first, first, ""
        self.started = self.last = time.monotonic()
        self.update = show(self.html())

    def move(self, done: int, figures: str = "") -> None:
        """Move to `done` steps, with a text on the right of the bar."""
        self.done, self.figures = done, figures
        if done >= self.total or time.monotonic() - self.last >= EVERY:
            self.draw()

    def draw(self) -> None:
        """Show the current state now."""
        self.last = time.monotonic()
        self.update(self.html())

    def html(self) -> str:
        """Return the bar as HTML; the figures are text, never markup."""
        took = time.monotonic() - self.started
        steps = self.done - self.first
        left = took / steps * (self.total - self.done) if steps else None
        times = f"in {took:.0f} s" if self.done >= self.total else "" if left is None else f"{left:.0f} s left"
        texts = (f"{self.done:,}/{self.total:,}", self.figures, times)
        beside = "&ensp;".join(html.escape(text) for text in texts if text)
        return (
            f'<div style="font-variant-numeric: tabular-nums">{html.escape(self.name)}&ensp;'
            f'<progress value="{self.done}" max="{max(1, self.total)}" style="width: 16em"></progress>'
            f"&ensp;{beside}</div>"
        )


def progress(items: Iterable[Item], name: str = "", total: int | None = None, show: Show = show_html) -> Iterator[Item]:
    """Iterate with a bar below the cell, as in ``for step in progress(range(1000), "training")``.

    Parameters
    ----------
    items : iterable
    name : str
        Label on the left of the bar.
    total : int, optional
        Number of items, for an iterable without a length.
    show : callable, optional
        Displays HTML and returns a function that replaces it.
    """
    count = len(items) if total is None else total  # type: ignore[arg-type]
    bar = Bar(name, count, show=show)
    try:
        for done, item in enumerate(items, 1):
            yield item
            bar.move(done)
    finally:
        bar.draw()  # so that an interrupted loop shows where it stopped


class NotebookReport(Report):
    """Shows the progress of `tinygpt.train.loop.train` in a notebook.

    Parameters
    ----------
    show : callable, optional
        Displays HTML and returns a function that replaces it.
    """

    def __init__(self, show: Show = show_html):
        self.show = show
        self.bar: Bar | None = None
        self.validation = ""

    def fact(self, name: str, text: str) -> None:
        """Print one aligned line."""
        self.stop()
        print(f"{name:<12}{text}")

    def note(self, text: str) -> None:
        """Print a remark."""
        print(f"{'note':<12}{text}")

    def merging(self, done: int, total: int) -> None:
        """Show a bar while the tokenizer is trained."""
        self._move("tokenizer", done, total)

    def start(self, first: int, total: int) -> None:
        """Show the bar of the run."""
        self.stop()
        self.bar = Bar("training", total, first, self.show)

    def step(self, record: dict[str, Any]) -> None:
        """Move the bar, with loss and speed beside it."""
        if self.bar is not None:
            figures = f"loss {record['loss']:.3f}{self.validation}  {record['tokens_per_s'] / 1e3:.0f}k tokens/s"
            self.bar.move(record["step"] + 1, figures)

    def evaluation(self, record: dict[str, Any], best: bool) -> None:
        """Put the validation loss beside the bar."""
        self.validation = f"  val {record['val_loss']:.3f}"

    def evaluating(self, done: int, total: int) -> None:
        """Show a bar during the final evaluation."""
        self._move("evaluation", done, total)

    def sample(self, number: int, text: str) -> None:
        """Print a text below a line."""
        self.stop()
        print(f"--- sample {number}\n{text}")

    def stop(self) -> None:
        """Leave the bar as it is; what follows gets a new one."""
        if self.bar is not None:
            self.bar.draw()
            self.bar = None

    def _move(self, name: str, done: int, total: int) -> None:
        if self.bar is None or self.bar.name != name:
            self.stop()
            self.bar = Bar(name, total, show=self.show)
        self.bar.move(done)
