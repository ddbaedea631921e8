"""Output of a training run: live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import textwrap
import time
import unicodedata
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from tinygpt.train.report import Report

if TYPE_CHECKING:
    from tinygpt.kernels.profile import Line

PLAIN_SECONDS = 10.0  # seconds between two lines of progress where there is no terminal
LABEL = 10  # width of a label including a gap of two columns; a longer label moves its text to the right
BAR = (10, 24)  # smallest and largest width of a bar, in columns
ANY_WIDTH = 10_000  # columns; wider than any table
FIGURES = 59  # width of all figures together, in columns
BESIDES = LABEL + 8 + 2 + 10  # width of a progress line without bar and figures: label, share, time


class _Left(ProgressColumn):
    """Column with the time left, or at the end the time taken."""

    def render(self, task: Task) -> Text:
        if task.finished:
            return Text(f" in {_clock(task.finished_time or 0)}")
        return Text("" if task.time_remaining is None else f" {_clock(task.time_remaining)} left")


class ConsoleReport(Report):
    """Report of a run on the console: facts, progress with rate and time left, evaluations, samples.

    Parameters
    ----------
    console : Console, optional
    """

    def __init__(self, console: Console | None = None):
        self.console = console or Console(highlight=False, soft_wrap=True)
        self.live = self.console.is_terminal
        self.progress: Progress | None = None
        self.task = TaskID(0)
        self.bar = min(max(self.console.width - BESIDES - FIGURES, BAR[0]), BAR[1])
        self.validation: float | None = None
        self.last: dict[str, Any] = {}
        self.first = self.total = 0
        self.started = self.last_print = self.rate = 0.0

    def fact(self, name: str, text: str) -> None:
        """Print a line with a label."""
        self.stop()
        self._print(name, text)

    def note(self, text: str) -> None:
        """Print a remark, highlighted."""
        self._print("note", text, "yellow")

    def _print(self, label: str, text: str, style: str = "") -> None:
        """Print a label with a text beside it, wrapped to the width of a terminal."""
        lines = [text]
        if self.live:
            width = max(20, self.console.width - LABEL)
            lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
        for i, line in enumerate(lines):
            start = Text(f"{'' if i else label:<{LABEL - 2}}  ", style or "bold")
            self.console.print(start + Text(line, style))

    def merging(self, done: int, total: int) -> None:
        """Show a bar while the tokenizer is trained."""
        if self.live and self.progress is None:
            self._open("tokenizer", total, transient=True)
        if self.progress is not None:
            self.progress.update(self.task, completed=done)

    def start(self, first: int, total: int) -> None:
        """Show the progress bar of the training."""
        self.first, self.total, self.last_print = first, total, time.monotonic()
        self.started = self.last_print
        if self.live:
            self._open("training", total, first)

    def _open(self, name: str, total: int, done: int = 0, transient: bool = False) -> None:
        columns = (
            TextColumn(f"[bold]{name:<{LABEL - 1}}"),
            BarColumn(self.bar),
            TextColumn(" {task.percentage:>3.0f} % "),
            TextColumn("{task.fields[figures]}", markup=False),
            _Left(),
        )
        self.progress = Progress(*columns, console=self.console, transient=transient)
        self.task = self.progress.add_task(name, total=total, completed=done, figures="")
        self.progress.start()

    def step(self, record: dict[str, Any]) -> None:
        """Move the bar, or print a line every PLAIN_SECONDS."""
        self.rate = record["tokens_per_s"] if not self.rate else 0.95 * self.rate + 0.05 * record["tokens_per_s"]
        self.last = record
        if self.progress is not None:
            self._draw()
        elif not self.live and time.monotonic() - self.last_print > PLAIN_SECONDS:
            self._line(record)

    def _draw(self) -> None:
        if self.progress is not None and self.last:
            figures = self._figures(self.last, self.console.width - BESIDES - self.bar)
            self.progress.update(self.task, completed=self.last["step"] + 1, figures=figures)

    def _figures(self, record: dict[str, Any], room: int) -> str:
        """Fit as many figures as the width allows."""
        share = 100 * record["peak_share"]
        figures = {
            "loss": f"loss {record['loss']:.3f}",
            "val": "" if self.validation is None else f"val {self.validation:.3f}",
            "lr": f"lr {record['lr']:.1e}",
            "rate": f"{_rate(self.rate)} tok/s",
            "peak": f"{share:.{int(share < 10)}f} % of peak",
        }
        for dropped in ("", "lr", "peak", "val", "rate"):
            figures.pop(dropped, None)
            text = "  ".join(filter(None, figures.values()))
            if len(text) <= room:
                break
        return text

    def _line(self, record: dict[str, Any]) -> None:
        self.last_print = time.monotonic()
        done = record["step"] + 1
        # From the steps of this process alone, because an earlier one may have been slower or faster.
        left = (time.monotonic() - self.started) / max(1, done - self.first) * (self.total - done)
        self._print("training", f"step {done}/{self.total}  {self._figures(record, FIGURES)}  {_clock(left)} left")

    def evaluation(self, record: dict[str, Any], best: bool) -> None:
        """Print a line for an evaluation."""
        self.validation = record["val_loss"]
        text = f"step {record['step'] + 1}  val {record['val_loss']:.4f}  "
        self._print("eval", text + f"{record['val_bits_per_byte']:.3f} bits per byte{'  best so far, saved' * best}")
        self._draw()

    def evaluating(self, done: int, total: int) -> None:
        """Show a bar during the final evaluation."""
        if self.live and self.progress is None:
            self._open("eval", total, transient=True)
        if self.progress is not None:
            self.progress.update(self.task, completed=done)

    def sample(self, number: int, text: str) -> None:
        """Print a sampled text below a rule."""
        self.stop()
        self.console.rule(f"sample {number}", align="left", style="dim")
        self.console.print(Text(harmless(text)))

    def profile(self, lines: list[Line], steps: int) -> None:
        """Print the profile, with as many columns as the terminal width allows."""
        self.stop()
        if not lines:
            self.note("--profile: there was no step after the first, which is not measured")
            return
        each = sum(line.ms_per_step for line in lines)
        self._print("profile", f"{steps:,} step{'s' * (steps > 1)} of {each:.4g} ms")
        cells = [_cells(line) for line in lines]
        for dropped in ((), ("ms",), ("calls",), ("GFLOP/s", "GB/s"), ("rung",)):
            cells = [{name: text for name, text in row.items() if name not in dropped} for row in cells]
            table = _table(cells)
            wide = self.console.measure(table, options=self.console.options.update(max_width=ANY_WIDTH)).maximum
            if wide <= self.console.width or not self.live:
                break
        (self.console if self.live else Console(file=self.console.file, width=wide)).print(table, highlight=False)

    def stop(self) -> None:
        """Close the progress bar, so that output continues below it."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None


def _cells(line: Line) -> dict[str, str]:
    """Format a line of the profile by column, with the rate whose limit is nearer."""
    cells = {
        "op": line.op,
        "rung": line.rung,
        "calls": f"{line.calls:,}" if line.calls else "",
        "ms": f"{line.ms:,.1f}",
        "ms/step": f"{line.ms_per_step:.3f}",
        "of step": f"{100 * line.share:.1f} %",
    }
    names = ("GFLOP/s", "of peak", "GB/s", "of memory")
    rates = dict.fromkeys(names, "")
    compute = line.peak_share >= line.bandwidth_share
    if line.calls:
        rate, share = (line.gflops, line.peak_share) if compute else (line.gbytes, line.bandwidth_share)
        rates |= zip(names[:2] if compute else names[2:], (f"{rate:.1f}", f"{100 * share:.0f} %"), strict=True)
    return cells | rates


def _table(rows: list[dict[str, str]]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for name in rows[0]:
        table.add_column(name, justify="left" if name in ("op", "rung") else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row.values())
    return table


def harmless(text: str) -> str:
    r"""Escape control characters, for example to ``\x1b``, because a model may sample ones that move the cursor."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) != "Cc" else f"\\x{ord(c):02x}" for c in text)


def _rate(per_second: float) -> str:
    """Format a rate with at most three digits, for example 241k."""
    if per_second < 1000:
        return f"{per_second:.0f}"
    return f"{per_second / 1e3:.{int(per_second < 1e4)}f}k"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
