"""The training loop: steps, evaluations, checkpoints.

A step's batch and dropout masks are functions of (seed, step) alone, so that a run which goes on from a checkpoint does
bit for bit what it would have done without the stop.
"""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from tinygpt import lora, optim
from tinygpt.evaluate import Score, evaluate
from tinygpt.files import adapters, model_directory
from tinygpt.generate import sample_text
from tinygpt.kernels import registry, threads
from tinygpt.kernels.adaptive import Adaptive
from tinygpt.kernels.peak import read_bandwidth
from tinygpt.kernels.profile import Profile
from tinygpt.model import GPT
from tinygpt.runs import checkpoint, directory, layout
from tinygpt.runs.lock import RunLock
from tinygpt.runs.metrics import MetricsLog
from tinygpt.train.interrupt import Interrupt
from tinygpt.train.report import Report
from tinygpt.train.settings import TrainSettings, use_kernels
from tinygpt.train.setup import Run, flops_per_token, prepare
from tinygpt.train.sinks import RunData, TensorBoard, run_data, tensorboard
from tinygpt.train.watch import Watch, interval, kinds_of

KEEP_CHECKPOINTS = 2


class TrainingFailed(RuntimeError):
    """The loss is no number any more; the message says what to try and where the last good state is."""


class Interrupted(RuntimeError):
    """The user ended the run; the message says how to go on."""


def train(settings: TrainSettings, report: Report | None = None) -> Score:
    """Train a model and write it to its run directory.

    Parameters
    ----------
    settings : TrainSettings
    report : Report, optional
        Is told how the run goes.

    Returns
    -------
    Score
        Score of the best model on the whole validation split.

    Raises
    ------
    ValueError, FileNotFoundError
        Settings or sources that cannot work; nothing has been written then.
    TrainingFailed
        A loss, a gradient or a weight became infinite or NaN.
    Interrupted
        Ctrl-C; everything is saved.
    """
    report = report or Report()
    settings.validate()
    out = Path(settings.out)
    directory.check_writable(out, settings.resume)
    if settings.from_ is not None and Path(settings.from_).expanduser().resolve() == out.resolve():
        raise ValueError(f"--out {out}: is the model that --from names, choose another directory")
    page, board = _metrics_page(settings), tensorboard(settings.tensorboard)
    with _compute(settings):
        resumed = _last_checkpoint(out) if settings.resume else None
        run = prepare(settings, report, resumed)
        trainer = Trainer(run, out, report, page, board)
        with RunLock(out):
            trainer.begin(resumed)
            try:
                return trainer.run_to_end()
            finally:
                trainer.close()


@contextmanager
def _compute(settings: TrainSettings) -> Iterator[None]:
    """The kernels and threads that the settings ask for; those from before come back at the end."""
    n = settings.threads
    with (
        use_kernels(settings.kernels or ""),
        registry.use(precision=settings.precision),
        nullcontext() if n == "auto" else threads.fixed(n),
    ):
        yield


def _metrics_page(settings: TrainSettings):
    """The function that writes the page, found before training starts: a missing extra must not cost a run."""
    if settings.metrics is None:
        return None
    from tinygpt.viz.metrics import LivePage

    return LivePage(Path(settings.metrics))


def _last_checkpoint(out: Path) -> Path:
    latest = layout.latest_checkpoint(out)
    if latest is None:
        raise FileNotFoundError(f"--resume: there is no checkpoint in {out}")
    return latest


def _is_finite(array: np.ndarray) -> bool:
    """Whether all values are finite, without a second array: NaN wins in both."""
    return math.isfinite(array.min()) and math.isfinite(array.max())


class Trainer:
    """A run in progress.

    Parameters
    ----------
    run : Run
    out : Path
        Run directory.
    report : Report
    page : callable, optional
        Is given the records after every step, the state of the run and what describes it, to write a page of them.
    board : TensorBoard, optional
    """

    log: MetricsLog

    def __init__(self, run: Run, out: Path, report: Report, page=None, board: TensorBoard | None = None):
        self.run, self.out, self.report, self.page, self.board = run, out, report, page, board
        self.watch: Watch | None = None
        self.score: float | None = None  # of the best model on the whole validation split, at the end
        self.flops_per_token = flops_per_token(run.settings, run.model)
        self.step = 0
        self.best = math.inf
        self.seconds = 0.0  # spent on training before this process
        self.saved_at: int | None = None
        self.profile, self.bandwidth = None, 0.0
        if run.settings.profile:
            self.profile, self.bandwidth = Profile(), read_bandwidth(threads.get_num_threads())

    def begin(self, resumed: Path | None) -> None:
        """Make the run directory and its first checkpoint, or take up the state of one."""
        settings = self.run.settings
        if resumed is None:
            moved = directory.begin(self.out, settings.table())
            if moved:
                self.report.note(f"the run that was in {self.out} is now in {moved}")
        else:
            self._take_up(checkpoint.load_checkpoint(resumed, self.run.model, self.run.optimizer), resumed)
        self.log = MetricsLog(self.out / layout.METRICS, self.step)
        self._open_sinks()
        if resumed is None:
            if settings.from_ is not None:
                self._score_given()
            self.save_checkpoint()  # whatever becomes of the first steps, there is a good state
        else:
            directory.write_settings(self.out, settings.table())

    def _open_sinks(self) -> None:
        """Begin what goes besides metrics.jsonl."""
        run, settings = self.run, self.run.settings
        if self.board is not None:
            self.board.open(self.step)
        if settings.watch is not None:
            kinds, every = kinds_of(settings.watch), interval(run.total_steps, settings.watch_every)
            where = self.out / layout.WATCH
            self.watch = Watch(where, kinds, run.model, every, run.total_steps, self.step, self.report.note)
        self._write_page("running")

    def _score_given(self) -> None:
        """Score the model before the first step: what training must beat, and the best model so far."""
        self.evaluate()
        limit, tokens = self.run.settings.eval_tokens, len(self.run.corpus.validation) - 1
        windows = f"windows of {self.run.settings.seq} tokens, here and below"
        if 0 < limit < tokens:  # the last line is of all of them, and so no measure of what was learnt
            windows += f"; until 'validation' the first {limit:,} of {tokens:,} tokens"
        self.report.fact("given", f"validation loss {self.best:.4f}  ({windows})")

    def _take_up(self, state: dict[str, Any], resumed: Path) -> None:
        """Go on with what `save_checkpoint` has written."""
        seconds, best = state.get("seconds"), state.get("best_val_loss")
        best = math.inf if best is None else best
        if not (isinstance(seconds, (int, float)) and isinstance(best, (int, float))):
            raise ValueError(f"{resumed / layout.STATE}: 'seconds' and 'best_val_loss' must be numbers")
        self.step, self.seconds, self.best = state["step"], float(seconds), float(best)
        if state.get("fingerprint") != self.run.fingerprint():
            self.report.note("the training text has changed since the checkpoint: the order of the data is another")
        self.report.note(f"going on at step {self.step} of {self.run.total_steps}, from {resumed}")

    def close(self) -> None:
        """Close what is open, and tell what was measured, however the run ended."""
        self.report.stop()
        self.log.close()
        for sink in (self.watch, self.board):
            if sink is not None:
                sink.close()
        self._write_page("complete" if self.step == self.run.total_steps else "stopped")
        if self.profile is not None:
            self.report.profile(self.profile.lines(self.run.peak, self.bandwidth), self.profile.steps)

    def run_to_end(self) -> Score:
        """Do all steps that are left, then evaluate the best model and let it write."""
        settings, total = self.run.settings, self.run.total_steps
        self.report.start(self.step, total)
        # The first step of a process pays for pages and threads that the others find: it is not measured.
        measured: AbstractContextManager = nullcontext()
        with Interrupt() as interrupt, Adaptive(self.report.note) as adaptive:
            while self.step < total:
                with measured, adaptive.step():
                    record = self.one_step()
                measured = nullcontext() if self._looks(self.step + 1) else self.profile or nullcontext()
                if not (math.isfinite(record["loss"]) and math.isfinite(record["grad_norm"])):
                    self._fail(f"loss {record['loss']:.3g}, gradient norm {record['grad_norm']:.3g}")
                self._record(record)
                self.report.step(record)
                self.step += 1
                if self.step % settings.eval_every == 0 or self.step == total:
                    self.evaluate()
                if self.step % settings.checkpoint_every == 0 or self.step == total:
                    self.save_checkpoint()
                self._write_page("running")
                if interrupt.wanted and self.step < total:
                    self._interrupted()
        return self.finish()

    # Whoever takes a step looks at the loss, so NumPy need not warn.
    @np.errstate(over="ignore", invalid="ignore")
    def one_step(self) -> dict[str, Any]:
        """Forward, backward, update; returns the record for metrics.jsonl.

        Nothing is updated if loss or gradient is no finite number.
        """
        run, step, began = self.run, self.step, time.perf_counter()
        settings, model, optimizer = run.settings, run.model, run.optimizer
        optimizer.lr = run.schedule(step)
        optimizer.zero_grad()
        first = step * run.sequences_per_step
        loss = 0.0
        for i in range(settings.grad_accum):
            x, y = run.windows.batch(first + i * settings.batch, settings.batch)
            mean = model.loss(x, y, (settings.seed, step, i * settings.batch))
            loss += mean.item() / settings.grad_accum  # every window has the same number of targets
            mean.backward(1 / settings.grad_accum)
        norm = optimizer.grad_norm()
        if math.isfinite(loss) and math.isfinite(norm):
            began += self._look(x)
            optimizer.step(optim.clip_scale(norm, settings.clip) if settings.clip else 1.0)
            began += self._look()
        seconds = time.perf_counter() - began
        self.seconds += seconds
        tokens = run.sequences_per_step * settings.length
        flops = tokens * self.flops_per_token / seconds
        return {
            "step": step,
            "epoch": round(first / run.windows.n_windows, 4),
            "loss": loss,
            "lr": optimizer.lr,
            "grad_norm": norm,
            "tokens_per_s": round(tokens / seconds, 1),
            "gflops": round(flops / 1e9, 3),
            "peak_share": round(flops / run.peak, 5),
            "seconds": round(self.seconds, 4),
        }

    def evaluate(self) -> None:
        """Score the validation split; save the model if it is the best so far."""
        run, limit = self.run, self.run.settings.eval_tokens
        self._check_weights()
        corpus, window = run.corpus, run.settings.seq
        score = evaluate(run.model, corpus.validation, corpus.validation_bytes, limit or None, window=window)
        if not math.isfinite(score.loss):
            self._fail(f"validation loss {score.loss:.3g}")
        record = {"step": self.step - 1, "val_loss": score.loss, "val_bits_per_byte": score.bits_per_byte}
        self._record(record)
        better = score.loss < self.best
        if better:
            self.best = score.loss
            model_directory.save(self.out, run.model, run.tokenizer)
        self.report.evaluation(record, better)

    def save_checkpoint(self) -> None:
        """Write the whole state, and remove the oldest checkpoints."""
        run = self.run
        self._check_weights()
        self.log.flush()
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "best_val_loss": None if math.isinf(self.best) else self.best,
            "fingerprint": run.fingerprint(),
        }
        where = layout.checkpoint_directory(self.out, self.step)
        checkpoint.save_checkpoint(where, run.model, run.tokenizer, run.optimizer, state)
        checkpoint.prune_checkpoints(self.out, KEEP_CHECKPOINTS)
        self.saved_at = self.step

    def finish(self) -> Score:
        """Score the best model on the whole validation split, and print samples from it."""
        run, settings = self.run, self.run.settings
        self.report.stop()
        best, corpus = self._best(), run.corpus
        progress = self.report.evaluating
        score = evaluate(best, corpus.validation, corpus.validation_bytes, progress=progress, window=settings.seq)
        self.score = score.loss
        self.report.fact(
            "validation",
            f"loss {score.loss:.4f}  perplexity {score.perplexity:.2f}  bits per byte {score.bits_per_byte:.3f}  "
            f"({score.tokens:,} tokens; guessing would have a loss of {math.log(run.tokenizer.vocab_size):.2f})",
        )
        self.report.fact("written", f"{self.out}")
        for i in range(settings.samples):
            text = sample_text(best, run.tokenizer, "", settings.sample_length, seed=settings.seed + i)
            self.report.sample(i + 1, text)
        return score

    def _best(self) -> GPT:
        """The model as it is in the run directory, in the memory of the one that was trained."""
        model = self.run.model
        if lora.of(model) is None:
            model_directory.load_weights(self.out, model)
        else:
            adapters.load(self.out / adapters.FOLDER, model)
            lora.merge(model)
        return model

    def _check_weights(self) -> None:
        """Fail if the last update left a weight or a moment that is no finite number: nothing of it may be saved."""
        optimizer = self.run.optimizer
        if not all(_is_finite(array) for array in (optimizer.arena.data, *optimizer.state.values())):
            self._fail("a weight or a moment of the optimizer is infinite or NaN")

    def _fail(self, what: str) -> NoReturn:
        settings = self.run.settings
        good = f"the last good state is {layout.latest_checkpoint(self.out)}"
        if math.isfinite(self.best):
            good += f", the best model is in {self.out}"
        clip = "a smaller --clip" if settings.clip else "--clip 1"
        advice = f"try a lower --lr (now {settings.peak_lr:.2g}), a longer --warmup or {clip}"
        raise TrainingFailed(f"step {self.step}: {what}: {advice}; {good}")

    def _record(self, record: dict[str, Any]) -> None:
        self.log.write(record)
        if self.board is not None:
            self.board.write(record)

    def _looks(self, step: int) -> bool:
        return self.watch is not None and self.watch.due(step)

    def _look(self, tokens: np.ndarray | None = None) -> float:
        """Let `watch` see the step before the update, with its tokens, or after it; the seconds that took."""
        began = time.perf_counter()
        if self.watch is not None and self.watch.due(self.step):
            if tokens is not None:
                self.watch.before_update(self.step, tokens)
            else:
                self.watch.after_update()
        return time.perf_counter() - began

    def _describe(self) -> RunData:
        """The run as a page shows it."""
        return run_data(self.run, self.out, [] if self.watch is None else self.watch.records, self.score)

    def _write_page(self, state: str) -> None:
        if self.page is not None:
            self.page(self.log.records, state, self._describe)

    def _interrupted(self) -> None:
        """Save everything and leave."""
        if self.saved_at != self.step:
            self.save_checkpoint()
        if math.isinf(self.best):
            model_directory.save(self.out, self.run.model, self.run.tokenizer)
        again = ["tinygpt", "train", "--resume", "--out", str(self.out)]
        if self.run.settings.metrics is not None:
            again += ["--metrics", self.run.settings.metrics]
        if self.run.settings.tensorboard is not None:
            again += ["--tensorboard", self.run.settings.tensorboard]
        if self.run.settings.watch is not None:
            again += ["--watch", self.run.settings.watch]
        if self.run.settings.watch_every is not None:
            again += ["--watch-every", str(self.run.settings.watch_every)]
        if self.profile is not None:
            again.append("--profile")
        raise Interrupted(
            f"stopped after step {self.step} of {self.run.total_steps}, everything is saved; "
            f"go on with: {shlex.join(again)}"
        )
