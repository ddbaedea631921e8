"""Outputs of a training run while it runs: report, metrics.jsonl, page, TensorBoard, watch.jsonl, profile.

`Trainer` calls one method for each event and does not know which outputs there are:

    open -> (around, before_update, after_update, record, evaluated, saved)* -> finished -> close
"""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tinygpt.evaluate import Score
from tinygpt.io.records import Record
from tinygpt.kernels import threads
from tinygpt.kernels.peak import read_bandwidth
from tinygpt.kernels.profile import Profile
from tinygpt.runs import layout
from tinygpt.runs.metrics import MetricsLog
from tinygpt.train.report import Report
from tinygpt.train.settings import OutputSettings
from tinygpt.train.setup import Run
from tinygpt.train.sinks import RunData, TensorBoard, run_data
from tinygpt.train.watch import Watch, kinds_of

if TYPE_CHECKING:
    from tinygpt.viz.metrics import LivePage


OFTEN = 0.8  # share of clipped steps from which a remark is printed
FEWEST_STEPS = 200  # gradients of the first steps are often clipped


class Outputs:
    """Outputs of a run, all of which receive its events.

    Parameters
    ----------
    settings : OutputSettings
        Valid settings. Paths and optional packages are checked here, before any training.
    report : Report

    Raises
    ------
    ImportError
        A package of an extra is missing; the message names the extra.
    ValueError
        A page or event files cannot be written where they should be.
    """

    run: Run
    out: Path
    log: MetricsLog

    def __init__(self, settings: OutputSettings, report: Report):
        self.settings, self.report = settings, report
        self.page = None if settings.metrics is None else live_page(Path(settings.metrics))
        self.board = None if settings.tensorboard is None else TensorBoard(Path(settings.tensorboard).expanduser())
        self.watch: Watch | None = None
        self.profile: Profile | None = None
        self.bandwidth = 0.0  # bytes per second of reading memory
        self.score: float | None = None  # loss of the best model on the whole validation split, at the end
        self.step = 0  # steps done
        self._first = True  # no step was done by this process
        self._clipped = self._done = 0  # steps whose gradient was clipped, steps of this process
        self._seconds = 0.0  # training time at the last record
        self._watching = 0.0  # seconds to compute the watch record of the current step
        self._resumed = False  # the next record is the first after a resumption
        self._open = False

    def open(self, run: Run, out: Path, step: int, seconds: float = 0.0, owed: bool = False) -> None:
        """Open all files.

        Parameters
        ----------
        run : Run
        out : Path
            Run directory; must exist.
        step : int
            Steps already done. Records of this step and later ones are dropped from the files, because the run repeats
            these steps.
        seconds : float
            Training time of these steps.
        owed : bool
            The run repeats the evaluation after these steps too.
        """
        self._seconds = seconds
        self.run, self.out, self.step, self._resumed = run, out, step, step > 0
        self.log = MetricsLog(out / layout.METRICS, step, owed=owed)
        self._open = True
        if self.board is not None:
            self.board.open(step)
        if self.settings.watch is not None:
            kinds, every, total = kinds_of(self.settings.watch), self.settings.watch_every, run.total_steps
            self.watch = Watch(out / layout.WATCH, kinds, run.model, every, total, step, self.report.note)
        if self.settings.profile:
            self.profile, self.bandwidth = Profile(), read_bandwidth(threads.get_num_threads())
        self._write_page("running")

    def started(self) -> None:
        """Start the progress display."""
        self.report.start(self.step, self.run.total_steps)

    def note(self, text: str) -> None:
        """Print a remark, in one line."""
        self.report.note(text)

    def around(self, step: int) -> AbstractContextManager[object]:
        """Return the context that measures a step, if it is to be measured.

        The first step of a process is not measured, because it also allocates memory and starts threads. A step with a
        watch record is not measured either.
        """
        first, self._first = self._first, False
        watched = self.watch is not None and self.watch.due(step)
        return nullcontext() if first or watched or self.profile is None else self.profile

    def before_update(self, step: int, tokens: npt.NDArray[np.int32]) -> float:
        """Let `watch` see gradients and activations of a step; returns the seconds that this took.

        Parameters
        ----------
        step : int
        tokens : int array, shape (B, T)
            The batch whose gradients were computed last.
        """
        if self.watch is None or not self.watch.due(step):
            return 0.0
        began = time.perf_counter()
        self.watch.before_update(step, tokens)
        self._watching = time.perf_counter() - began
        return self._watching

    def after_update(self, step: int) -> float:
        """Let `watch` see the weights after the optimizer's update; returns the seconds that this took."""
        if self.watch is None or not self.watch.due(step):
            return 0.0
        began = time.perf_counter()
        self.watch.after_update()
        seconds = time.perf_counter() - began
        self._watching += seconds
        return seconds

    def record(self, record: Record) -> None:
        """Record a step."""
        step, clip = record["step"], self.run.settings.optimisation.clip
        self._done += 1
        self._clipped += bool(clip) and record["grad_norm"] > clip
        if step % self.settings.log_every == 0 or step + 1 == self.run.total_steps:
            # The mark goes into a record that a run without a stop would write too.
            self._write(record | {"resumed": True} if self._resumed else record)
            self._resumed = False
        if self.watch is not None:
            self.watch.took(record["seconds"] - self._seconds, self._watching)
        self._seconds, self._watching = record["seconds"], 0.0
        self.report.step(record)
        self.step = step + 1
        self._write_page("running")

    def evaluated(self, record: Record, best: bool) -> None:
        """Record an evaluation; `best` if no earlier one had a lower loss."""
        self._write(record)
        self.report.evaluation(record, best)

    def saved(self) -> None:
        """Write all records to the disk, because a checkpoint must not be newer than the records that lead to it."""
        self.log.sync()
        if self.watch is not None:
            self.watch.log.sync()

    def given(self, loss: float) -> None:
        """Report the validation loss of the model that training starts from."""
        settings = self.run.settings
        limit, tokens = settings.output.eval_tokens, len(self.run.corpus.validation) - 1
        windows = f"windows of {settings.model.seq} tokens, here and below"
        if 0 < limit < tokens:  # the final line scores all tokens, so it cannot be compared with this one
            windows += f"; until 'validation' the first {limit:,} of {tokens:,} tokens"
        self.report.fact("given", f"validation loss {loss:.4f}  ({windows})")

    def finished(self, score: Score) -> None:
        """Report the score of the best model on the whole validation split."""
        self.score = score.loss
        if self._done >= FEWEST_STEPS and self._clipped > OFTEN * self._done:
            self.report.note(
                f"the gradient was clipped in {self._clipped / self._done:.0%} of the steps: its norm is usually above "
                f"{self.run.settings.optimisation.clip:g}, so that clipping sets the size of the steps"
            )
        guessing = math.log(self.run.tokenizer.vocab_size)
        self.report.fact(
            "validation",
            f"loss {score.loss:.4f}  perplexity {score.perplexity:.2f}  bits per byte {score.bits_per_byte:.3f}  "
            f"({score.tokens:,} tokens; guessing would have a loss of {guessing:.2f})",
        )
        self.report.fact("written", str(self.out))

    def close(self) -> None:
        """Close all files, finish the page and print the profile, also after an error."""
        self.report.stop()
        if not self._open:
            return
        with ExitStack() as stack:  # closes all of them, also if one cannot be written
            for sink in (self.board, self.watch, self.log):
                if sink is not None:
                    stack.callback(sink.close)
        self._write_page("complete" if self.step == self.run.total_steps else "stopped")
        if self.profile is not None:
            self.report.profile(self.profile.lines(self.run.peak, self.bandwidth), self.profile.steps)

    def _write(self, record: Record) -> None:
        self.log.write(record)
        if self.board is not None:
            self.board.write(record)

    def _write_page(self, state: str) -> None:
        if self.page is not None:
            self.page(self.log.records, state, self._describe)

    def _describe(self) -> RunData:
        """Return the run as its page shows it, without its records."""
        return run_data(self.run, self.out, [] if self.watch is None else self.watch.records, self.score)


class NoOutputs(Outputs):
    """Outputs of a rank other than 0: it writes no file and prints nothing."""

    def __init__(self, settings: OutputSettings, report: Report):
        super().__init__(replace(settings, metrics=None, tensorboard=None, watch=None, profile=False), report)

    def open(self, run: Run, out: Path, step: int, seconds: float = 0.0, owed: bool = False) -> None:
        """Note the run; no file is opened."""
        self._seconds, self.run, self.out, self.step = seconds, run, out, step

    def saved(self) -> None:
        """Do nothing: there are no records."""

    def _write(self, record: Record) -> None:
        """Do nothing: rank 0 writes the records."""


def live_page(path: Path) -> LivePage:
    """Return what writes the page of a run; ImportError or ValueError if it cannot."""
    from tinygpt.viz.metrics import LivePage

    return LivePage(path)
