"""The training loop: batch, loss, backward, clip, update; evaluate and save every N steps.

A step's batch and dropout masks are functions of (seed, step) alone, so that a run resumed from a checkpoint computes
the same bits as a run that was never stopped.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from tinygpt import lora, optim
from tinygpt.distributed.communicator import Communicator
from tinygpt.evaluate import Score, evaluate
from tinygpt.files import adapters, model_directory
from tinygpt.generate import sample_text
from tinygpt.io.records import Record
from tinygpt.kernels import registry, threads
from tinygpt.kernels.adaptive import Adaptive
from tinygpt.model import GPT
from tinygpt.runs import checkpoint, directory, layout
from tinygpt.train import parallel
from tinygpt.train.average import Average
from tinygpt.train.guards import SpikeGuard, first_bad
from tinygpt.train.interrupt import Interrupt, Stop
from tinygpt.train.outputs import NoOutputs, Outputs
from tinygpt.train.pace import Pace
from tinygpt.train.report import Report
from tinygpt.train.settings import MachineSettings, TrainSettings
from tinygpt.train.setup import Run, flops_per_token, prepare, schedule

MILD_JUMP = 1.25  # ratio of two learning rates that needs no note


class TrainingFailed(RuntimeError):
    """The loss became NaN or infinite, or a write failed; the message says what to try and what is left."""


class Interrupted(RuntimeError):
    """The run was asked to stop; everything is saved.

    Parameters
    ----------
    message : str
    signal : int or None
        The signal that asked for it; None if the time of `max_minutes` is over.
    """

    def __init__(self, message: str, signal: int | None = None):
        super().__init__(message)
        self.signal = signal


def train(settings: TrainSettings, report: Report | None = None, comm: Communicator | None = None) -> Score:
    """Train a model and write it to its run directory.

    Parameters
    ----------
    settings : TrainSettings
    report : Report, optional
        Receives the progress of the run; on rank 0 alone.
    comm : Communicator, optional
        Job of several processes that train together, see `tinygpt.distributed.launch`. Default: this process alone.

    Returns
    -------
    Score
        Score of the best model on the whole validation split.

    Raises
    ------
    ValueError, FileNotFoundError
        The settings or sources cannot work. Nothing has been written.
    TrainingFailed
        A loss, a gradient or a weight became infinite or NaN; or a file could not be written.
    Interrupted
        The run was asked to stop, by a signal (Ctrl-C, SIGTERM, SIGUSR1, SIGHUP) or by `max_minutes`. Everything is
        saved.
    """
    comm = comm or Communicator()
    report, out = report if report and comm.first else Report(), Path(settings.output.out)
    with comm.agreed():
        settings.validate()
        pace = Pace(settings.output.checkpoint_every, settings.output.max_minutes)
        parallel.check_job(settings, comm)
        _check_out(settings, out, comm)
        outputs = (Outputs if comm.first else NoOutputs)(settings.output, report)
    with _compute(settings.machine, report), parallel.compute_threads(settings, comm, report):
        with comm.agreed():
            resumed = _newest_checkpoint(out, outputs) if settings.output.resume else None
            run = prepare(settings, report, resumed)
        with comm.agreed():
            parallel.check_same(run, comm)
        run.peak = sum(comm.gather(run.peak))
        trainer = Trainer(run, out, outputs, comm, pace)
        with parallel.lock(out, comm), trainer.interrupt, trainer.naming_state():
            try:
                trainer.begin(resumed)
                return trainer.run_to_end()
            except Stop:
                trainer.stop()
            finally:
                outputs.close()


def _check_out(settings: TrainSettings, out: Path, comm: Communicator) -> None:
    """Raise ValueError, before any work is done, if the run directory cannot be written."""
    from_ = settings.model.from_
    if comm.first:
        directory.check_writable(out, settings.output.resume)
    if from_ is not None and Path(from_).expanduser().resolve() == out.resolve():
        raise ValueError(f"[train] 'out' {out}: is also the model that 'from' names; choose another directory")


@contextmanager
def _compute(settings: MachineSettings, report: Report) -> Iterator[None]:
    """Switch to the kernels and threads of the settings, and back at the end."""
    n = settings.threads
    cores = min(threads.limits().values())
    if n != "auto" and n > cores:
        report.note(f"{n} threads will share the {cores} cores that this process may use")
    with (
        registry.use_text(settings.kernels or ""),
        registry.use(precision=settings.precision),
        nullcontext() if n == "auto" else threads.fixed(n),
    ):
        yield


def _newest_checkpoint(out: Path, outputs: Outputs) -> Path | None:
    """Find the newest checkpoint that is not damaged; None if the run was killed before its first one."""
    if not layout.is_run(out):
        raise FileNotFoundError(f"[train] 'resume': there is no run in {out}")
    faults: list[str] = []
    for path in reversed(layout.checkpoints(out)):
        try:
            checkpoint.check_checkpoint(path)
        except (ValueError, OSError) as error:  # also a disk that cannot read it
            faults.append(str(error))
            continue
        for fault in faults:
            outputs.note(f"{fault}; using the checkpoint before it")
        return path
    if faults:
        raise ValueError(f"{faults[0]}; there is no other checkpoint to resume from")
    outputs.note(f"the run in {out} was stopped before its first checkpoint was complete; starting over")
    return None


class Trainer:
    """A run in progress.

    Parameters
    ----------
    run : Run
        Everything that training needs.
    out : Path
        Run directory.
    outputs : Outputs
        Is told of every event.
    comm : Communicator, optional
        Job of several processes that train together. Default: this process alone.
    pace : Pace, optional
        Clock of the run. Default: one that starts now.
    """

    def __init__(
        self, run: Run, out: Path, outputs: Outputs, comm: Communicator | None = None, pace: Pace | None = None
    ):
        self.run, self.out, self.outputs = run, out, outputs
        self.comm = comm or Communicator()
        self.team = parallel.team(run, self.comm)
        output = run.settings.output
        self.pace = pace or Pace(output.checkpoint_every, output.max_minutes)
        # The ranks of a job stop after the same step, one in which they have the same weights.
        self.interrupt = Interrupt(at_once=self.comm.size == 1 and run.settings.distributed.sync_every == 1)
        self.flops_per_token = flops_per_token(run.settings, run.model)
        self.step = 0  # steps done
        self.best = math.inf  # lowest validation loss so far
        self.best_step: int | None = None  # steps done when it was reached
        self.guard = SpikeGuard(run.settings.optimisation.spike_sigma)
        self.average = Average(run.optimizer, run.settings.optimisation.ema)
        self.owed = False  # the evaluation of this step was begun and is not finished
        self.seconds = 0.0  # training time, including that of earlier processes
        self.saved_at: int | None = None

    def begin(self, resumed: Path | None) -> None:
        """Create the run directory and its first checkpoint, or restore the state of the checkpoint `resumed`."""
        settings = self.run.settings
        if resumed is not None:
            self._resume(resumed)
            return
        over = settings.output.resume
        moved = self.comm.from_first(lambda: directory.begin(self.out, settings.table(), over))
        if moved:
            self.outputs.note(f"the earlier run in {self.out} was moved to {moved}")
        self.outputs.open(self.run, self.out, self.step, owed=True)  # a run that starts over scores the model again
        if settings.model.from_ is not None:
            self.evaluate()  # the given model is the first candidate for the best one
            self.outputs.given(self.best)
        self.save()  # so that a crash in the first steps still leaves a valid checkpoint

    def _resume(self, resumed: Path) -> None:
        """Continue from the checkpoint `resumed`."""
        self._restore(checkpoint.load_checkpoint(resumed, self.run.model, self.run.optimizer), resumed)
        self.team.loaded()
        if self.comm.first:
            checkpoint.remove_leftovers(self.out)
            checkpoint.set_aside(self.out, resumed)
        self.outputs.open(self.run, self.out, self.step, self.seconds, self.owed)
        if self.comm.first:
            self._tell_jump(directory.read_table(self.out / layout.SETTINGS))
            directory.write_settings(self.out, self.run.settings.table())
        if math.isfinite(self.best) and (fault := self.comm.from_first(self._fault_of_best)):
            self.outputs.note(f"the best model is lost ({fault}); the model of the checkpoint takes its place")
            self.best = math.inf
            self.evaluate()

    def _tell_jump(self, before: dict[str, Any]) -> None:
        """Print a remark that the learning rate jumps because the run was made longer or shorter.

        Parameters
        ----------
        before : dict
            Settings of the run so far.
        """
        steps, total = before.get("steps"), self.run.total_steps
        if not isinstance(steps, int) or steps == total or not 0 < self.step < total:
            return
        old = schedule(self.run.settings, steps)(min(self.step, steps) - 1)
        new = self.run.schedule(self.step)
        if not 1 / MILD_JUMP <= new / max(old, sys.float_info.min) <= MILD_JUMP:
            self.outputs.note(
                f"the learning rate jumps from {old:.2g} to {new:.2g}, because its schedule now ends after {total} "
                f"steps instead of {steps}"
            )

    def _fault_of_best(self) -> str:
        """Say what is wrong with the model in the run directory; empty if it can be loaded."""
        try:
            if lora.of(self.run.model) is None:
                model_directory.open_model(self.out, self.run.model)
            else:
                adapters.AdapterFiles(self.out / adapters.FOLDER).check(self.run.model)
        except (ValueError, FileNotFoundError) as error:
            return str(error)
        return ""

    def _restore(self, state: dict[str, Any], resumed: Path) -> None:
        """Restore the state that `save` wrote."""
        best = state.get("best_val_loss")
        self.best, self.best_step = math.inf if best is None else float(best), state.get("best_step")
        self.step, self.seconds = state["step"], float(state.get("seconds") or 0.0)
        self.saved_at, self.owed = self.step, state.get("owed") is True
        self.guard.restore(state.get("spikes"))
        if state.get("fingerprint") != self.run.fingerprint():
            self.outputs.note("the training text has changed since the checkpoint, so the order of the data differs")
        self.outputs.note(f"resuming at step {self.step} of {self.run.total_steps} from {resumed}")

    def run_to_end(self) -> Score:
        """Do all steps that are left, then score the best model and sample from it."""
        settings, total = self.run.settings.output, self.run.total_steps
        self.outputs.started()
        if self.owed:
            self.evaluate()
            self.save()
        with Adaptive(self.outputs.note) as adaptive:
            while self.step < total:
                with self.outputs.around(self.step), adaptive.step():
                    record = self.one_step()
                self.outputs.record(record)
                self.step += 1
                better = (self.step % settings.eval_every == 0 or self.step == total) and self.evaluate()
                due = self.pace.due(self.step)
                if self.pace.seconds is not None:  # the clocks of the ranks differ
                    due = self.team.any(due)
                if due or self.step == total or (better and settings.keep_best):
                    self.save()
                if self.team.any(self.interrupt.wanted or self.pace.over()) and self.step < total:
                    raise Stop
        return self.comm.from_first(self.finish)

    @np.errstate(over="ignore", invalid="ignore")  # the loss and the gradient norm are checked here instead
    def one_step(self) -> Record:
        """Do one optimizer step; returns its record for metrics.jsonl.

        Raises
        ------
        TrainingFailed
            The loss or the gradient norm is not finite. Nothing has been updated.
        Stop
            The run was asked to stop. Nothing has been updated.
        """
        run, step, began = self.run, self.step, time.perf_counter()
        settings, model, optimizer, team = run.settings.optimisation, run.model, run.optimizer, self.team
        optimizer.lr = run.schedule(step)
        optimizer.zero_grad()
        losses = []
        with self.interrupt.raising():
            for x, y, sequence in team.batches(0 if settings.overfit_one_batch else step):
                mean = model.loss(x, y, (settings.seed, step, sequence))
                losses.append(mean.item())
                mean.backward(1 / team.parts, team.complete)
            loss = team.reduce(losses)
        norm = team.grad_norm()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._fail(f"loss {loss:.3g}, gradient norm {norm:.3g}", x)
        spike = self.guard.spike(loss)
        watching = self.outputs.before_update(step, x)
        if not spike:
            team.update(optim.clip_scale(norm, settings.clip) if settings.clip else 1.0)
            self.average.update()
        watching += self.outputs.after_update(step)
        seconds = time.perf_counter() - began - watching
        self.seconds += seconds
        return self._record(loss, norm, seconds) | ({"spike": True} if spike else {})

    def _record(self, loss: float, norm: float, seconds: float) -> Record:
        """Make the record of a step that took `seconds`."""
        run = self.run
        sequences = run.settings.sequences_per_step
        tokens = sequences * run.settings.model.length
        flops = tokens * self.flops_per_token / seconds
        return {
            "step": self.step,
            "epoch": round(self.step * sequences / run.windows.n_windows, 4),
            "loss": loss,
            "lr": run.optimizer.lr,
            "grad_norm": norm,
            "tokens_per_s": round(tokens / seconds, 1),
            "gflops": round(flops / 1e9, 3),
            "peak_share": round(flops / run.peak, 5),
            "seconds": round(self.seconds, 4),
        }

    def evaluate(self) -> bool:
        """Score the validation split; save the model, and return True, if it is the best so far."""
        self._check_weights()
        self.owed = True
        with self.average.in_place():
            better = self._evaluate()
        self.owed = False
        return better

    def _evaluate(self) -> bool:
        limit = self.run.settings.output.eval_tokens or None
        with self.interrupt.raising():
            score = self.comm.from_first(lambda: self._score(self.run.model, limit))
        if not math.isfinite(score.loss):
            self._fail(f"validation loss {score.loss:.3g}")
        record = {"step": self.step - 1, "val_loss": score.loss, "val_bits_per_byte": score.bits_per_byte}
        better = score.loss < self.best
        if better:
            self.best, self.best_step = score.loss, self.step
            if self.comm.first:
                model_directory.save(self.out, self.run.model, self.run.tokenizer)
        self.outputs.evaluated(record, better)
        return better

    def _score(self, model: GPT, limit: int | None = None, progress: Any = None) -> Score:
        """Score a model on the first `limit` tokens of the validation split, or on all of them."""
        corpus, window = self.run.corpus, self.run.settings.model.seq
        return evaluate(model, corpus.validation, corpus.validation_bytes, limit, progress=progress, window=window)

    def save(self) -> None:
        """Write a checkpoint of the whole state, and remove the oldest checkpoints."""
        self.team.saving()
        self._check_weights()
        if self.comm.first:
            self._write_checkpoint()
        self.team.saved()
        self.saved_at = self.step
        self.pace.saved()

    def _write_checkpoint(self) -> None:
        """Write the whole state, on rank 0."""
        run = self.run
        self.outputs.saved()
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "best_val_loss": None if math.isinf(self.best) else self.best,
            "best_step": self.best_step,
            "owed": self.owed,
            "spikes": self.guard.state() if self.guard.sigma else None,
            "fingerprint": run.fingerprint(),
        }
        where = layout.checkpoint_directory(self.out, self.step)
        checkpoint.save_checkpoint(where, run.model, run.tokenizer, run.optimizer, state)
        spare = self.best_step if run.settings.output.keep_best else None
        checkpoint.prune_checkpoints(self.out, run.settings.output.keep, spare)

    def finish(self) -> Score:
        """Score the best model on the whole validation split and sample from it."""
        run, outputs = self.run, self.outputs
        outputs.report.stop()
        best = self._best()
        with self.interrupt.raising():
            score = self._score(best, progress=outputs.report.evaluating)
        if text := self.guard.summary(self.step):
            outputs.note(text)
        outputs.finished(score)
        for i in range(run.settings.output.samples):
            seed = run.settings.optimisation.seed + i
            with self.interrupt.raising():
                text = sample_text(best, run.tokenizer, "", run.settings.output.sample_length, seed=seed)
            outputs.report.sample(i + 1, text)
        return score

    def _best(self) -> GPT:
        """Load the model of the run directory into the memory of the trained one."""
        model = self.run.model
        if lora.of(model) is None:
            model_directory.load_weights(self.out, model)
        else:
            adapters.load(self.out / adapters.FOLDER, model)
            lora.merge(model)
        return model

    def _check_weights(self) -> None:
        """Fail if the last update left a weight or an optimizer moment that is not finite, before anything is saved."""
        optimizer = self.run.optimizer
        if not all(_is_finite(array) for array in (optimizer.arena.data, *optimizer.state.values())):
            self._fail("a weight or an optimizer moment is infinite or NaN")

    def _fail(self, fault: str, tokens: np.ndarray | None = None) -> NoReturn:
        bad = first_bad(self.run.model, self.run.optimizer, tokens)
        fault += f" (first: {bad})" if bad else ""
        settings = self.run.settings
        clip = "a smaller 'clip'" if settings.optimisation.clip else "'clip' 1"
        advice = f"try a lower 'lr' (now {settings.peak_lr:.2g}), a longer 'warmup' or {clip}"
        raise TrainingFailed(f"[train] step {self.step}: {fault}: {advice}; {self._good()}")

    def _good(self) -> str:
        """Name the last good state."""
        last = layout.latest_checkpoint(self.out)
        if last is None:
            return "no checkpoint was written yet"
        good = f"the last good state is {last}"
        return good + f", the best model is in {self.out}" if math.isfinite(self.best) else good

    @contextmanager
    def naming_state(self) -> Iterator[None]:
        """Context in which an error of the disk becomes one that says what is left of the run.

        Raises
        ------
        TrainingFailed
        """
        try:
            yield
        except OSError as error:
            # Python's own errors have a number. Those of this package already say what to do.
            if error.errno is None or isinstance(error, BrokenPipeError):
                raise
            fault = f"{error.filename}: {error.strerror}" if error.filename is not None else str(error)
            text = (
                f"[train] step {self.step}: {fault}; {self._good()}; when the fault is mended, continue with 'resume'"
            )
            raise TrainingFailed(text) from error

    def stop(self) -> NoReturn:
        """Save everything and raise Interrupted."""
        if self.saved_at != self.step:
            self.save()
        if math.isinf(self.best) and self.comm.first:
            model_directory.save(self.out, self.run.model, self.run.tokenizer)
        self.comm.settled = True
        text = f"stopped after step {self.step} of {self.run.total_steps}; everything is saved"
        raise Interrupted(text, max(self.comm.gather(self.interrupt.signal or 0)) or None)


def _is_finite(array: np.ndarray) -> bool:
    """Tell whether all values are finite. min and max propagate NaN and, unlike `np.isfinite`, allocate nothing."""
    return math.isfinite(array.min()) and math.isfinite(array.max())
