"""The training loop on a small tree of files: its outputs, learning, resuming, and failures."""

import json
import math
import re
import shutil
import signal

import numpy as np
import pytest
from tiny_run import MODEL, Listening, content, state, tiny, train_arrays, without_clock, write_sources

import tinygpt
from tinygpt import kernels
from tinygpt.evaluate import Score, evaluate
from tinygpt.io import checksums
from tinygpt.kernels import registry, threads
from tinygpt.runs import checkpoint, layout
from tinygpt.runs.metrics import read_metrics
from tinygpt.train import loop, outputs
from tinygpt.train.loop import Interrupted, TrainingFailed, train
from tinygpt.train.report import Report
from tinygpt.train.setup import prepare

STEP_KEYS = {"step", "epoch", "loss", "lr", "grad_norm", "tokens_per_s", "gflops", "peak_share", "seconds"}
EVALUATION_KEYS = {"step", "val_loss", "val_bits_per_byte"}


def checkpoints(out):
    return sorted(path.name for path in (out / "checkpoints").iterdir())


def stop(*_):
    signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def done(sources, tmp_path_factory):
    """A finished run of 12 steps, with its report and score."""
    out = tmp_path_factory.mktemp("done") / "runs" / "tiny"
    report = Listening()
    return out, report, train(tiny(sources, out), report)


def test_the_files_of_a_run_directory(done):
    """Catches a missing file, one that nothing reads, and a temporary file left behind."""
    out, _, _ = done
    assert sorted(path.name for path in out.iterdir()) == sorted([*MODEL, "checkpoints", "metrics.jsonl", "run.toml"])
    assert checkpoints(out) == ["step-10", "step-12"]  # the last two of 5, 10 and 12
    files = sorted([*MODEL, layout.OPTIMIZER, layout.STATE, checksums.NAME])
    assert sorted(content(out / "checkpoints")) == [f"step-{step}/{name}" for step in (10, 12) for name in files]
    model, tokenizer = tinygpt.load(out)
    assert model.config.vocab_size == tokenizer.vocab_size


def test_metrics_have_a_line_per_step_and_evaluation(done):
    """Catches a missing first step or evaluation, and missing keys."""
    out, report, _ = done
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    evaluations = [line for line in lines if "val_loss" in line]
    assert [line["step"] for line in steps] == list(range(12))
    assert [line["step"] for line in evaluations] == [3, 7, 11]
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)
    assert all(line.keys() == STEP_KEYS for line in steps)
    assert all(line.keys() == EVALUATION_KEYS for line in evaluations)
    assert steps == report.records
    assert evaluations == [record for record, _ in report.evaluations]


def test_figures_of_a_step_have_their_units(done, sources):
    """Catches a rate, an epoch or a learning rate in the wrong unit."""
    out, _, _ = done
    run = prepare(tiny(sources, out), Report())
    lines = [line for line in read_metrics(out / "metrics.jsonl") if "loss" in line]
    assert [line["lr"] for line in lines] == [run.schedule(step) for step in range(12)]
    assert [line["epoch"] for line in lines] == [round(4 * step / run.windows.n_windows, 4) for step in range(12)]
    assert lines[0]["loss"] == pytest.approx(math.log(run.tokenizer.vocab_size), abs=0.1)
    for before, line in zip([{"seconds": 0.0}, *lines], lines, strict=False):
        took = line["seconds"] - before["seconds"]
        assert 4 * 16 / line["tokens_per_s"] == pytest.approx(took, rel=0.01, abs=2e-4)
        flops = line["tokens_per_s"] * run.model.config.flops_per_token()
        assert line["gflops"] == pytest.approx(flops / 1e9, rel=0.01, abs=1e-3)


def test_the_score_is_that_of_the_best_model_on_the_whole_validation_split(done, sources):
    """Catches a score of the last model, or of the subset used by evaluations during the run."""
    out, report, score = done
    corpus = prepare(tiny(sources, out), Report()).corpus
    assert score == evaluate(tinygpt.load(out)[0], corpus.validation, corpus.validation_bytes)
    assert score.tokens == len(corpus.validation) - 1
    assert f"loss {score.loss:.4f}" in report.facts["validation"]


def test_it_learns(sources, tmp_path):
    """Catches a loop that does not train, and one that memorises the validation split."""
    score = train(tiny(sources, tmp_path / "out", steps=150, lr=1e-2, warmup=10))
    tokenizer = tinygpt.load(tmp_path / "out")[1]
    guessing = math.log(tokenizer.vocab_size)
    lines = [line["loss"] for line in read_metrics(tmp_path / "out" / "metrics.jsonl") if "loss" in line]
    assert np.mean(lines[-10:]) < 0.35 * guessing
    assert score.loss < 0.35 * guessing


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dropout": 0.2, "grad_accum": 2, "batch": 2},
        {"optimizer": "sgd", "momentum": 0.5, "schedule": "linear"},
        {"optimizer": "adam", "rope": True, "swiglu": True, "rmsnorm": True, "bias": False, "epochs": 0.31},
    ],
    ids=["plain", "dropout-accumulation", "sgd", "adam-llama"],
)
@pytest.mark.parametrize("cut", [1, 6])
def test_a_resumed_run_is_identical(sources, tmp_path, changes, cut):
    """Catches state missing from a checkpoint: moments, steps, data order, dropout masks, the best loss."""
    whole = tiny(sources, tmp_path / "whole", **changes)
    score = train(whole)
    halves = tiny(sources, tmp_path / "halves", **changes)
    with pytest.raises(Interrupted, match=rf"^stopped after step {cut} of 12; everything is saved$"):
        train(halves, Listening(**{f"step{cut - 1}": stop}))
    assert checkpoints(tmp_path / "halves")[-1] == f"step-{cut}"
    tinygpt.load(halves.output.out)
    halves.output.resume = True
    report = Listening()
    assert train(halves, report) == score
    assert [record["step"] for record in report.records] == list(range(cut, 12))
    assert any(f"resuming at step {cut} of 12" in note for note in report.notes)
    once, twice = tmp_path / "whole", tmp_path / "halves"
    assert state(once).keys() == set(MODEL)
    assert state(once) == state(twice)
    last, same = (state(folder / "checkpoints" / "step-12") for folder in (once, twice))
    assert last.keys() == {*MODEL, layout.OPTIMIZER, layout.STATE, checksums.NAME}
    assert last == same
    assert without_clock(read_metrics(once / "metrics.jsonl")) == without_clock(read_metrics(twice / "metrics.jsonl"))


def test_dropout_and_seed_change_the_run(sources, tmp_path):
    """Catches settings without effect, with which the comparisons of runs here would prove nothing."""
    results = set()
    for i, changes in enumerate(({}, {"dropout": 0.2}, {"seed": 1}, {"grad_accum": 2}, {"clip": 0.1}, {"lr": 2e-3})):
        run = prepare(tiny(sources, tmp_path / str(i), **changes), Report())
        train_arrays(run, 3)
        results.add(run.optimizer.arena.data.tobytes())
    assert len(results) == 6


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_accumulated_gradients_are_those_of_one_large_batch(sources, tmp_path, dropout):
    """Catches micro-batches added instead of averaged, repeated micro-batches, and wrong dropout masks.

    The gradient is summed in two parts, so rounding differs. SGD keeps this error in proportion, whereas Adam's first
    steps could change the sign of a tiny value. Clipping is off, because it would hide a constant factor.
    """
    settings = {"optimizer": "sgd", "lr": 0.1, "clip": 0.0, "dropout": dropout}
    one = prepare(tiny(sources, tmp_path / "one", batch=4, **settings), Report())
    two = prepare(tiny(sources, tmp_path / "two", batch=2, grad_accum=2, **settings), Report())
    start = one.optimizer.arena.data.copy()
    np.testing.assert_allclose(train_arrays(two, 5), train_arrays(one, 5), rtol=1e-5)
    moved = one.optimizer.arena.data - start
    difference = two.optimizer.arena.data - one.optimizer.arena.data
    assert abs(difference).max() < 1e-4 * abs(moved).max()


def test_epochs_replace_steps(sources, tmp_path):
    """Catches epochs counted in batches or without accumulation, and epochs overridden by the default --steps."""
    settings = tiny(sources, tmp_path / "out", epochs=0.5, batch=2, grad_accum=3, steps=1)
    run = prepare(settings, Report())
    assert run.total_steps == round(0.5 * run.windows.n_windows / 6) > 5
    train(settings)
    lines = [line for line in read_metrics(tmp_path / "out" / "metrics.jsonl") if "loss" in line]
    assert len(lines) == run.total_steps
    assert 0.5 - 12 / run.windows.n_windows < lines[-1]["epoch"] < 0.5
    assert prepare(tiny(sources, tmp_path, epochs=1e-6), Report()).total_steps == 1


def test_the_run_directory_has_the_best_model(sources, tmp_path, monkeypatch):
    """Catches the last or the first model in place of the best."""
    losses = iter([3.0, 1.5, 2.0, 99.0])  # the fourth is the final evaluation
    scored = []

    def prescribed(model, *args, **kwargs):
        scored.append(model.parameters()[0].arena.data.copy())
        return Score(next(losses), 10, 1.0)

    monkeypatch.setattr(loop, "evaluate", prescribed)
    report = Listening()
    score = train(tiny(sources, tmp_path / "out"), report)
    assert [best for _, best in report.evaluations] == [True, True, False]
    assert score.loss == 99.0
    np.testing.assert_array_equal(scored[3], scored[1])
    assert (scored[2] != scored[1]).any()


def test_the_best_loss_survives_a_resume(sources, tmp_path, monkeypatch):
    """Catches a resumed run that forgets the best loss and saves a worse model."""
    losses = iter([1.5, 2.0, 1.75, 99.0])  # after steps 4, 8 and 12, and the final evaluation
    monkeypatch.setattr(loop, "evaluate", lambda *args, **kwargs: Score(next(losses), 10, 1.0))
    with pytest.raises(Interrupted):
        train(tiny(sources, tmp_path / "out"), Listening(step5=stop))
    best = state(tmp_path / "out")
    report = Listening()
    train(tiny(sources, tmp_path / "out", resume=True), report)
    assert [better for _, better in report.evaluations] == [False, False]
    assert state(tmp_path / "out") == best


def test_steps_after_the_checkpoint_are_repeated(done, sources, tmp_path):
    """Catches repeated or lost lines of metrics after a killed run is resumed."""
    out = shutil.copytree(done[0], tmp_path / "out")
    shutil.rmtree(out / "checkpoints" / "step-12")
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 12, "lo')
    report = Listening()
    train(tiny(sources, out, resume=True), report)
    assert [record["step"] for record in report.records] == [10, 11]
    again, once = (read_metrics(folder / "metrics.jsonl") for folder in (out, done[0]))
    assert without_clock(again) == without_clock(once)
    assert state(out / "checkpoints" / "step-12") == state(done[0] / "checkpoints" / "step-12")


def test_a_run_that_was_killed_at_once_is_resumed(sources, tmp_path):
    """Catches a run that can be resumed only after its first regular checkpoint."""
    first, second = tiny(sources, tmp_path / "first"), tiny(sources, tmp_path / "second")

    def die():
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        train(first, Listening(step2=die))
    assert checkpoints(tmp_path / "first") == ["step-0"]
    first.output.resume = True
    assert train(first) == train(second)
    assert state(tmp_path / "first") == state(tmp_path / "second")


def test_after_a_stop_the_page_is_up_to_date(sources, tmp_path, monkeypatch):
    """Catches a page without the last steps."""
    pages = []
    monkeypatch.setattr(outputs, "live_page", lambda path: lambda records, *rest: pages.append(list(records)))
    settings = tiny(sources, tmp_path / "out", metrics="my page.html")
    with pytest.raises(Interrupted, match="stopped after step 6"):
        train(settings, Listening(step5=stop))
    assert [record["step"] for record in pages[-1] if "loss" in record] == list(range(6))


def test_samples_follow_from_the_seed(sources, tmp_path):
    """Catches equal samples within a run, and different samples in equal runs."""
    texts = []

    class Reading(Report):
        def sample(self, number, text):
            texts.append((number, text))

    for name in ("a", "b"):
        train(tiny(sources, tmp_path / name, samples=2, sample_length=30), Reading())
    assert [number for number, _ in texts] == [1, 2, 1, 2]
    assert texts[:2] == texts[2:]
    assert texts[0][1] != texts[1][1]


BLOW_UP = {"optimizer": "sgd", "lr": 1e30, "momentum": 0.0, "clip": 0.0, "warmup": 0}


@pytest.mark.parametrize("changes", [{}, {"lr": 1e300}, {"kernels": "numpy"}], ids=["1e30", "1e300", "numpy"])
def test_a_diverged_run_stops_and_says_what_to_try(sources, tmp_path, changes):
    """Catches NaN that is trained on, saved or written as JSON, and an error without advice."""
    out = tmp_path / "out"
    with pytest.raises(TrainingFailed) as error:
        train(tiny(sources, out, **BLOW_UP | changes))
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in ("'lr' (now 1e+30", "'warmup'", "'clip' 1"))
    assert message.endswith(f"; the last good state is {out / 'checkpoints' / 'step-0'}")
    assert re.match(r"\[train\] step \d+: .*(nan|inf|infinite)", message)
    assert not (out / "model.safetensors").exists()
    assert checkpoints(out) == ["step-0"]
    start, run = tinygpt.load(out / "checkpoints" / "step-0")[0], prepare(tiny(sources, out), Report())
    assert all((a.data == b.data).all() for a, b in zip(start.parameters(), run.model.parameters(), strict=True))
    for line in (out / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def test_a_diverged_run_leaves_the_last_good_state(sources, tmp_path):
    """Catches a checkpoint or model overwritten by the failure."""
    out, good = tmp_path / "out", {"optimizer": "sgd", "lr": 0.1}
    with pytest.raises(Interrupted):
        train(tiny(sources, out, **good), Listening(step4=stop))
    before = content(out / "checkpoints") | {name: (out / name).read_bytes() for name in MODEL}
    states = f"the last good state is {out / 'checkpoints' / 'step-5'}, the best model is in {out}"
    with pytest.raises(TrainingFailed, match=re.escape(states) + "$"):
        train(tiny(sources, out, resume=True, **good | BLOW_UP))
    after = content(out / "checkpoints") | {name: (out / name).read_bytes() for name in MODEL}
    assert before == after
    # Resumed with a learning rate that works, it ends with the same model as a run without the failure.
    train(tiny(sources, out, resume=True, **good))
    train(tiny(sources, tmp_path / "whole", **good))
    assert state(out) == state(tmp_path / "whole")


@pytest.mark.parametrize("pace", [{"eval_every": 100, "checkpoint_every": 3}, {"eval_every": 3}])
def test_infinite_weights_are_not_saved(sources, tmp_path, monkeypatch, pace):
    """Catches an update that breaks the weights just before an evaluation or a checkpoint."""
    settings = tiny(sources, tmp_path / "out", **pace)

    class Breaking(Report):
        def step(self, record):
            if record["step"] == 2:
                trainers[0].run.optimizer.arena.data[0] = np.inf

    trainers = []
    monkeypatch.setattr(loop.Trainer, "begin", _remember(loop.Trainer.begin, trainers))
    with pytest.raises(TrainingFailed, match=r"a weight or an optimizer moment is infinite or NaN"):
        train(settings, Breaking())
    assert checkpoints(tmp_path / "out") == ["step-0"]


def _remember(begin, trainers):
    def remembering(self, resumed):
        trainers.append(self)
        begin(self, resumed)

    return remembering


def test_a_validation_loss_that_is_not_finite_stops_the_run(sources, tmp_path, monkeypatch):
    """Catches a run without a model because no loss was better than a first NaN."""
    monkeypatch.setattr(loop, "evaluate", lambda *args, **kwargs: Score(math.nan, 10, 1.0))
    with pytest.raises(TrainingFailed, match="validation loss nan"):
        train(tiny(sources, tmp_path / "out"))


def test_metrics_are_in_the_file_before_a_checkpoint_is(sources, tmp_path, monkeypatch):
    """Catches lines lost by a kill right after a checkpoint, which a resumed run would not write again."""
    seen = []
    save = checkpoint.save_checkpoint

    def looking(directory, *args):
        save(directory, *args)
        steps = [record["step"] for record in read_metrics(tmp_path / "out" / "metrics.jsonl") if "loss" in record]
        seen.append((directory.name, steps))

    monkeypatch.setattr(checkpoint, "save_checkpoint", looking)
    train(tiny(sources, tmp_path / "out"))
    assert seen == [(f"step-{step}", list(range(step))) for step in (0, 5, 10, 12)]


def test_an_earlier_run_is_moved_away(done, sources, tmp_path):
    """Catches a model lost because a second one was trained in its place."""
    out = tmp_path / "out"
    shutil.copytree(done[0], out)
    before, report = content(out), Listening()
    train(tiny(sources, out, seed=1), report)
    assert content(tmp_path / "out.previous") == before
    assert report.notes == [f"the earlier run in {out} was moved to {out}.previous"]
    assert (out / "model.safetensors").read_bytes() != before["model.safetensors"]


def test_a_directory_with_other_files_is_left_alone(sources, tmp_path):
    """Catches a check that comes after the work, or after the first write."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        train(tiny(sources, tmp_path / "out"))
    assert content(tmp_path) == {"out/thesis.txt": b"mine"}


def test_changed_data_is_noted(tmp_path):
    """Catches a resumed run that ignores changed text, and a note when nothing has changed."""
    sources = write_sources(tmp_path / "sources")
    with pytest.raises(Interrupted):
        train(tiny(sources, tmp_path / "out"), Listening(step5=stop))
    kept = shutil.copytree(tmp_path / "out", tmp_path / "kept")
    report = Listening()
    train(tiny(sources, tmp_path / "out", resume=True), report)
    assert not any("text has changed" in note for note in report.notes)
    changed = sources / "alpha.py"
    changed.write_text(changed.read_text() + "# one more line\n")
    report = Listening()
    train(tiny(sources, kept, resume=True), report)
    assert sum("text has changed" in note for note in report.notes) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"optimizer": "adam"}, "optimizer.safetensors"), ({"optimizer": "sgd"}, "optimizer.safetensors")],
)
def test_a_checkpoint_of_another_optimizer_is_refused(done, sources, tmp_path, changes, words):
    """Catches moments of another optimizer that are loaded, and a run damaged by the attempt."""
    out = tmp_path / "out"
    shutil.copytree(done[0], out)
    before = content(out)
    with pytest.raises(ValueError, match=words):
        train(tiny(sources, out, resume=True, **changes))
    assert content(out) == before


def test_a_finished_run_is_scored_again(done, sources, tmp_path):
    """Catches a finished run that trains on, and one that cannot be scored again."""
    out, _, score = done
    copy = shutil.copytree(out, tmp_path / "out")
    report = Listening()
    assert train(tiny(sources, copy, resume=True), report) == score
    assert report.records == []
    assert read_metrics(copy / "metrics.jsonl") == read_metrics(out / "metrics.jsonl")


def test_a_finished_run_can_be_extended(done, sources, tmp_path):
    """Catches a number of steps fixed by the first call."""
    copy = shutil.copytree(done[0], tmp_path / "out")
    train(tiny(sources, copy, resume=True, steps=15))
    lines = [line["step"] for line in read_metrics(copy / "metrics.jsonl") if "loss" in line]
    assert lines == list(range(15))
    assert checkpoints(copy)[-1] == "step-15"


def test_kernels_and_threads_are_restored(sources, tmp_path):
    """Catches a run that leaves its kernels or threads to the rest of the process."""
    before, n = kernels.selection(), tinygpt.get_num_threads()
    seen = []

    class Looking(Report):
        def step(self, record):
            seen.append((kernels.selection()["matmul"], threads.get_num_threads()))

    train(tiny(sources, tmp_path / "out", steps=1, kernels="naive", threads=n + 1), Looking())
    assert seen == [("naive", n + 1)]
    assert (kernels.selection(), tinygpt.get_num_threads()) == (before, n)
    with pytest.raises(ValueError, match=r"^\[kernels\] unknown rung 'x'"):
        train(tiny(sources, tmp_path / "other", kernels="x"))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("text", ["naive", "numpy", "blocked,softmax=naive,rope=numpy"])
def test_the_machine_line_names_the_rungs(sources, tmp_path, text):
    """Catches a line that reports the rung of one op as the rung of all."""
    report = Listening()
    train(tiny(sources, tmp_path / "out", steps=1, kernels=text), report)
    general, *others = text.split(",")
    said = report.facts["machine"].partition("kernels ")[2].partition(", float32")[0]
    with kernels.use():
        registry.use_text(text)
        chosen = kernels.selection()
        registry.use_text(said.replace(" ", ""))
        assert kernels.selection() == chosen
    assert all(other in said for other in others)
    assert general in said or text.startswith("blocked")


def test_too_little_text_is_refused_before_anything_is_written(tmp_path):
    """Catches a run directory of a run that could not begin."""
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "a.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match="one context of 16 needs 17"):
        train(tiny(tmp_path / "sources", tmp_path / "out"))
    assert not (tmp_path / "out").exists()
