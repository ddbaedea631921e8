"""Profiled runs and runs with recomputed blocks: neither may change the results."""

import signal
import tomllib

import pytest
from tiny_run import Listening, content, state, tiny, without_clock

import tinygpt
from tinygpt import kernels
from tinygpt.kernels import registry
from tinygpt.kernels.profile import REST
from tinygpt.runs.metrics import read_metrics
from tinygpt.train.loop import Interrupted, TrainingFailed, train
from tinygpt.train.report import Report
from tinygpt.train.setup import prepare


class Measuring(Listening):
    """A report that keeps the profiles."""

    def __init__(self, **at):
        super().__init__(**at)
        self.profiles = []

    def profile(self, lines, steps):
        self.profiles.append((steps, {line.op: line for line in lines}))


def ctrl_c():
    signal.raise_signal(signal.SIGINT)


def measured(settings, report=None):
    """Train with a profile; return the number of measured steps and a line for each op."""
    report = report or Measuring()
    train(settings, report)
    (profile,) = report.profiles
    return profile


def test_all_steps_but_the_first_are_measured(sources, tmp_path):
    """Catches measurement of the first step, evaluations or samples, and an unmeasured part of a step."""
    steps, lines = measured(tiny(sources, tmp_path / "out", profile=True, grad_accum=3, samples=1))
    assert steps == 11
    assert (lines["cross_entropy"].calls, lines["attention_backward"].calls, lines["squared_norm"].calls) == (
        33,
        33,
        11,
    )
    assert lines["attention"].calls == 33  # an evaluation would add calls
    assert list(lines)[-1] == REST
    seconds = [line["seconds"] for line in read_metrics(tmp_path / "out" / "metrics.jsonl") if "loss" in line]
    total = sum(line.ms for line in lines.values())
    assert total >= 1e3 * (seconds[-1] - seconds[0]) - 1
    assert sum(line.share for line in lines.values()) == pytest.approx(1)


@pytest.mark.parametrize("text", ["naive", "numpy", "blocked,softmax=naive,rope=numpy"])
def test_every_rung_is_named(sources, tmp_path, text):
    """Catches the default rung reported instead of the selected one."""
    settings = tiny(sources, tmp_path / "out", steps=2, profile=True, kernels=text, rope=True)
    _, lines = measured(settings)
    with kernels.use_text(text):
        served = kernels.selection()
    assert {op: line.rung for op, line in lines.items() if op != REST} == {op: served[op] for op in lines if op != REST}
    assert lines["rope"].calls == 2


def test_a_profile_changes_nothing(sources, tmp_path):
    """Catches files that depend on the profile, and wrappers left on the kernels."""
    before = {op: getattr(registry.active, op) for op in kernels.available()}
    train(tiny(sources, tmp_path / "plain"))
    report = Measuring()
    train(tiny(sources, tmp_path / "plain2"), report)
    assert report.profiles == []
    measured(tiny(sources, tmp_path / "measured", profile=True))
    assert {op: getattr(registry.active, op) for op in before} == before
    assert state(tmp_path / "plain") == state(tmp_path / "measured")
    assert content(tmp_path / "plain").keys() == content(tmp_path / "measured").keys()
    records = [without_clock(read_metrics(tmp_path / name / "metrics.jsonl")) for name in ("plain", "measured")]
    assert records[0] == records[1]


def test_a_stopped_run_has_a_profile(sources, tmp_path):
    """Catches a profile lost by Ctrl-C, and a resumed run without one."""
    settings = tiny(sources, tmp_path / "out", profile=True)
    report = Measuring(step5=ctrl_c)
    with pytest.raises(Interrupted, match="stopped after step 6"):
        train(settings, report)
    assert [steps for steps, _ in report.profiles] == [5]
    settings.output.resume = True
    steps, lines = measured(settings)
    assert (steps, lines["attention"].calls) == (5, 5)  # 6 steps are left, and a process does not measure its first


@pytest.mark.parametrize(("error", "step"), [(KeyboardInterrupt, 3), (MemoryError, 0)])
def test_an_aborted_run_has_a_profile(sources, tmp_path, error, step):
    """Catches a second Ctrl-C or a MemoryError replaced by an error of the profile."""
    report = Measuring(**{f"step{step}": lambda: (_ for _ in ()).throw(error)})
    with pytest.raises(error):
        train(tiny(sources, tmp_path / "out", profile=True), report)
    ((steps, lines),) = report.profiles
    assert steps == step
    assert bool(lines) == (step > 0)


def test_a_diverged_run_has_a_profile(sources, tmp_path):
    """Catches a training failure replaced by an error of the profile."""
    blow_up = {"optimizer": "sgd", "lr": 1e30, "clip": 0.0, "momentum": 0.0, "warmup": 0}
    report = Measuring()
    with pytest.raises(TrainingFailed):
        train(tiny(sources, tmp_path / "out", profile=True, **blow_up), report)
    assert len(report.profiles) == 1


def test_a_report_without_profile(sources, tmp_path):
    """Catches a failure of --profile with a report that does not override `profile`."""
    train(tiny(sources, tmp_path / "out", steps=2, profile=True), Report())


@pytest.mark.parametrize("changes", [{}, {"dropout": 0.2, "grad_accum": 2, "rope": True, "swiglu": True}], ids=str)
def test_recomputing_changes_nothing_but_run_toml(sources, tmp_path, changes):
    """Catches a different model, loss or state, and a setting missing from run.toml."""
    settings = {"layers": 2, **changes}
    train(tiny(sources, tmp_path / "kept", **settings))
    train(tiny(sources, tmp_path / "again", recompute=True, **settings))
    for part in ("", "checkpoints/step-12"):
        assert state(tmp_path / "kept" / part) == state(tmp_path / "again" / part)
    records = [without_clock(read_metrics(tmp_path / name / "metrics.jsonl")) for name in ("kept", "again")]
    assert records[0] == records[1]
    tables = [tomllib.loads((tmp_path / name / "run.toml").read_text()) for name in ("kept", "again")]
    assert [table["recompute"] for table in tables] == [False, True]


def test_recomputed_blocks_run_twice(sources, tmp_path):
    """Catches a flag without effect: the profile must show a second forward pass without the head."""
    counts = []
    for recompute in (False, True):
        settings = tiny(sources, tmp_path / str(recompute), layers=2, steps=3, profile=True, recompute=recompute)
        counts.append({op: line.calls for op, line in measured(settings)[1].items()})
    kept, again = counts
    assert (kept["attention"], again["attention"]) == (4, 8)
    assert again["matmul"] - kept["matmul"] == 2 * 2 * 4
    assert again["layernorm"] - kept["layernorm"] == 2 * 2 * 2
    same = kept.keys() - {"attention", "matmul", "layernorm"}
    assert {op: again[op] for op in same} == {op: kept[op] for op in same}


def test_a_run_may_be_resumed_without_recomputing(sources, tmp_path):
    """Catches a state that depends on recomputing, and a setting that --resume does not change."""
    train(tiny(sources, tmp_path / "whole", layers=2, dropout=0.2))
    settings = tiny(sources, tmp_path / "out", layers=2, dropout=0.2, recompute=True)
    with pytest.raises(Interrupted):
        train(settings, Listening(step5=ctrl_c))
    settings.output.resume, settings.machine.recompute = True, False
    train(settings)
    assert state(tmp_path / "out" / "checkpoints" / "step-12") == state(tmp_path / "whole" / "checkpoints" / "step-12")


def test_the_setting_is_not_saved_with_the_model(sources, tmp_path):
    """Catches a saved model that keeps the recompute setting of its training."""
    run = prepare(tiny(sources, tmp_path / "out", recompute=True), Report())
    assert run.model.recompute is True
    train(tiny(sources, tmp_path / "out", recompute=True, steps=2))
    assert tinygpt.load(tmp_path / "out")[0].recompute is False
    assert b"recompute" not in (tmp_path / "out" / "config.json").read_bytes()
