"""Runs that a scheduler, a clock or a kill ends at any moment: saved at once, and continued to the same bytes."""

import itertools
import re
import shutil
import signal
import time

import pytest
from tiny_run import Listening, flags, state, tiny, without_clock

from tinygpt import cli
from tinygpt.data.windows import Windows
from tinygpt.runs import layout
from tinygpt.runs.metrics import read_metrics
from tinygpt.train import loop, pace
from tinygpt.train.interrupt import SIGNALS
from tinygpt.train.loop import Interrupted, train

STATE = {"dropout": 0.2, "grad_accum": 3, "batch": 2, "tokenizer_type": "bpe", "vocab_size": 300, "log_every": 2,
         "watch": "weights,gradients", "watch_every": 3}  # fmt: skip


def checkpoints(out):
    return [path.name for path in layout.checkpoints(out)]


def the_same(one, two):
    """Compare two finished runs: models, last checkpoints with the optimizer, records, statistics."""
    assert state(one) == state(two)
    last = layout.latest_checkpoint(one).name
    assert state(one / "checkpoints" / last) == state(two / "checkpoints" / last)
    for name in ("metrics.jsonl", "watch.jsonl"):
        if (one / name).exists():
            assert without_clock(read_metrics(one / name)) == without_clock(read_metrics(two / name)), name
    return True


@pytest.fixture(scope="module")
def whole(sources, tmp_path_factory):
    """A run with everything that a checkpoint must keep, never stopped."""
    out = tmp_path_factory.mktemp("whole") / "out"
    train(tiny(sources, out, **STATE))
    return out


@pytest.fixture
def at_batch(monkeypatch):
    """Call a function before the n-th batch of windows is read."""

    def arrange(n, call):
        batch, left = Windows.batch, itertools.count()

        def counted(self, *args):
            if next(left) == n:
                call()
            return batch(self, *args)

        monkeypatch.setattr(Windows, "batch", counted)

    yield arrange
    monkeypatch.undo()


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("batch", [0, 7, 26])
def test_a_signal_in_the_middle_of_a_step_gives_the_step_up(
    sources, tmp_path, whole, at_batch, monkeypatch, batch, number
):
    """Catches a save that waits for the end of a long step, half an update, and gradients that are added twice."""
    settings = tiny(sources, tmp_path / "out", **STATE)
    at_batch(batch, lambda: signal.raise_signal(number))
    with pytest.raises(Interrupted, match=f"stopped after step {batch // 3} of 12") as stopped:
        train(settings)
    assert stopped.value.signal == number
    assert checkpoints(tmp_path / "out")[-1] == f"step-{batch // 3}"
    monkeypatch.undo()
    settings.output.resume, settings.machine.threads = True, 2
    train(settings)
    assert the_same(tmp_path / "out", whole)


@pytest.mark.parametrize("evaluation", [0, 1, 2, 3])
def test_a_signal_in_an_evaluation_repeats_it_after_resuming(sources, tmp_path, whole, monkeypatch, evaluation):
    """Catches a save that waits for a long evaluation, and one that is lost or recorded twice.

    The third is that of the last step, the fourth the score at the end.
    """
    settings, evaluate, count = tiny(sources, tmp_path / "out", **STATE), loop.evaluate, itertools.count()

    def stopping(*args, **kwargs):
        if next(count) == evaluation:
            signal.raise_signal(signal.SIGTERM)
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(loop, "evaluate", stopping)
    step = (4, 8, 12, 12)[evaluation]
    with pytest.raises(Interrupted, match=f"stopped after step {step} of 12"):
        train(settings)
    assert checkpoints(tmp_path / "out")[-1] == f"step-{step}"
    settings.output.resume = True
    killed = shutil.copytree(tmp_path / "out", tmp_path / "killed")

    class Killed(Listening):
        def evaluation(self, record, best):
            raise MemoryError

    if evaluation < 3:
        with pytest.raises(MemoryError):  # after the record of the repeated evaluation, before its checkpoint
            train(settings.replace(out=str(killed)), Killed())
        train(settings.replace(out=str(killed)))
        assert the_same(killed, whole)
    train(settings)
    assert the_same(tmp_path / "out", whole)


@pytest.mark.parametrize(("rung", "threads"), [("naive", 2), ("blocked", 3)])
def test_a_checkpoint_of_one_thread_count_resumes_with_another(sources, tmp_path, rung, threads):
    """Catches sums whose order depends on the number of threads, at other rungs than the default."""
    settings = tiny(sources, tmp_path / "one", kernels=rung, dropout=0.1)
    train(settings)
    settings = settings.replace(out=str(tmp_path / "two"))
    with pytest.raises(Interrupted):
        train(settings, Listening(step6=lambda: signal.raise_signal(signal.SIGUSR1)))
    train(settings.replace(resume=True, threads=threads))
    assert the_same(tmp_path / "two", tmp_path / "one")


def test_a_checkpoint_resumes_at_another_rung(sources, tmp_path):
    """Catches state in a form that one rung alone understands; the numbers agree to rounding."""
    out = tmp_path / "out"
    with pytest.raises(Interrupted):
        train(tiny(sources, out, kernels="naive"), Listening(step5=lambda: signal.raise_signal(signal.SIGTERM)))
    score = train(tiny(sources, out, resume=True, kernels="simd"))
    assert score.loss == pytest.approx(train(tiny(sources, tmp_path / "whole")).loss, rel=1e-4)


@pytest.mark.parametrize(("keep", "wanted"), [(1, ["step-12"]), (3, ["step-6", "step-9", "step-12"])])
def test_as_many_checkpoints_are_kept_as_asked_for(sources, tmp_path, keep, wanted):
    """Catches a number that is read and forgotten."""
    train(tiny(sources, tmp_path / "out", checkpoint_every=3, keep=keep))
    assert checkpoints(tmp_path / "out") == wanted


def test_the_best_checkpoint_is_kept(sources, tmp_path, monkeypatch):
    """Catches a best state that is pruned, one that no checkpoint was written of, and one forgotten on resuming."""
    losses = iter([2.0, 1.0, 3.0, 3.0, 3.0, 3.0, 9.0])
    monkeypatch.setattr(loop, "evaluate", lambda *args, **kwargs: loop.Score(next(losses), 10, 1.0))
    settings = tiny(sources, tmp_path / "out", eval_every=2, checkpoint_every=5, keep=1, keep_best=True)
    with pytest.raises(Interrupted):
        train(settings, Listening(step6=lambda: signal.raise_signal(signal.SIGTERM)))
    assert checkpoints(tmp_path / "out") == ["step-4", "step-7"]
    train(settings.replace(resume=True))
    assert checkpoints(tmp_path / "out") == ["step-4", "step-12"]


def test_checkpoints_by_the_clock(sources, tmp_path, monkeypatch):
    """Catches a time that is taken for steps, and an interval that begins with the process instead of the last save."""
    clock = itertools.count(0, 20)  # seconds at every look at the clock
    monkeypatch.setattr(pace.time, "monotonic", lambda: float(next(clock)))
    watched = pace.Pace("1m")
    due = []
    for step in range(1, 10):
        due.append(watched.due(step))
        if due[-1]:
            watched.saved()
    assert due == [False, False, True, False, False, True, False, False, True]
    monkeypatch.undo()
    train(tiny(sources, tmp_path / "out", checkpoint_every="10h"))
    assert checkpoints(tmp_path / "out") == ["step-0", "step-12"]
    assert pace.interval("90s") == (None, 90.0)
    assert pace.interval("2h") == (None, 7200.0)
    assert pace.interval("7") == pace.interval(7) == (7, None)


def test_a_run_ends_when_its_time_is_over(sources, tmp_path, capsys):
    """Catches a limit that is ignored, one that loses steps, one that is inherited, and a status of failure."""
    out = tmp_path / "out"
    words = [*flags(tiny(sources, out, steps=100_000)), "--max-minutes", "0.01", "--quiet"]
    began = time.monotonic()
    assert cli.main(["train", *words]) == 0
    assert time.monotonic() - began < 30
    told = capsys.readouterr().err
    step = int(
        re.fullmatch(r"tinygpt: stopped after step (\d+) of 100000; everything is saved; resume with: .*\n", told)[1]
    )
    assert checkpoints(out)[-1] == f"step-{step}"
    assert cli.main(["train", "--resume", "--out", str(out), "--steps", str(step + 3), "--quiet"]) == 0
    assert checkpoints(out)[-1] == f"step-{step + 3}"
