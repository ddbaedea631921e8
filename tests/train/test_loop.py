"""The training loop on a small tree of files: what it writes, that it learns, goes on, and stops where it must."""

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
    """A run of 12 steps, what it said, and its score."""
    out = tmp_path_factory.mktemp("done") / "runs" / "tiny"
    report = Listening()
    return out, report, train(tiny(sources, out), report)


def test_the_run_directory_holds_what_it_should(done):
    """Catches a file that is missing, that nobody reads, or that a temporary has left behind."""
    out, _, _ = done
    assert sorted(path.name for path in out.iterdir()) == sorted([*MODEL, "checkpoints", "metrics.jsonl", "run.toml"])
    assert checkpoints(out) == ["step-10", "step-12"]  # of 5, 10 and 12 the last two are kept
    files = sorted([*MODEL, layout.OPTIMIZER, layout.STATE, checksums.NAME])
    assert sorted(content(out / "checkpoints")) == [f"step-{step}/{name}" for step in (10, 12) for name in files]
    model, tokenizer = tinygpt.load(out)
    assert model.config.vocab_size == tokenizer.vocab_size


def test_metrics_have_a_line_per_step_and_evaluation(done):
    """Catches a first step or an evaluation that is missing, and keys that a reader of the file would look for."""
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


def test_figures_of_a_step_mean_what_they_say(done, sources):
    """Catches a rate, an epoch or a learning rate in other units."""
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
    """Catches a score of the last model, or of the subset that evaluations during the run take."""
    out, report, score = done
    corpus = prepare(tiny(sources, out), Report()).corpus
    assert score == evaluate(tinygpt.load(out)[0], corpus.validation, corpus.validation_bytes)
    assert score.tokens == len(corpus.validation) - 1
    assert f"loss {score.loss:.4f}" in report.facts["validation"]


def test_it_learns(sources, tmp_path):
    """Catches a loop that does not train, and one that learns by heart the validation split."""
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
def test_a_run_that_goes_on_is_the_same_to_the_bit(sources, tmp_path, changes, cut):
    """Catches anything of the state that a checkpoint forgets: moments, steps, data order, masks, the best loss."""
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
    """Catches a comparison of runs that would be equal whatever they did."""
    results = set()
    for i, changes in enumerate(({}, {"dropout": 0.2}, {"seed": 1}, {"grad_accum": 2}, {"clip": 0.1}, {"lr": 2e-3})):
        run = prepare(tiny(sources, tmp_path / str(i), **changes), Report())
        train_arrays(run, 3)
        results.add(run.optimizer.arena.data.tobytes())
    assert len(results) == 6


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_accumulated_gradients_are_those_of_one_large_batch(sources, tmp_path, dropout):
    """Catches parts that are added instead of averaged, the same part twice, and masks that know the cut.

    Rounding differs: the gradient is summed in two parts. Adam divides by its length at first, so what is tiny may
    change its sign there; SGD keeps the error in proportion. Without clipping, which would hide a factor.
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
    """Catches epochs that count batches, forget accumulation, or yield to the default of --steps."""
    settings = tiny(sources, tmp_path / "out", epochs=0.5, batch=2, grad_accum=3, steps=1)
    run = prepare(settings, Report())
    assert run.total_steps == round(0.5 * run.windows.n_windows / 6) > 5
    train(settings)
    lines = [line for line in read_metrics(tmp_path / "out" / "metrics.jsonl") if "loss" in line]
    assert len(lines) == run.total_steps
    assert 0.5 - 12 / run.windows.n_windows < lines[-1]["epoch"] < 0.5
    assert prepare(tiny(sources, tmp_path, epochs=1e-6), Report()).total_steps == 1


def test_the_best_model_is_what_the_run_directory_holds(sources, tmp_path, monkeypatch):
    """Catches the last model, or the first, in the place of the best."""
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


def test_the_best_loss_goes_on_with_the_run(sources, tmp_path, monkeypatch):
    """Catches a run that forgets what was best, and puts a worse model in its place."""
    losses = iter([1.5, 2.0, 1.75, 99.0])  # of steps 4, 8 and 12, and the final one
    monkeypatch.setattr(loop, "evaluate", lambda *args, **kwargs: Score(next(losses), 10, 1.0))
    with pytest.raises(Interrupted):
        train(tiny(sources, tmp_path / "out"), Listening(step5=stop))
    best = state(tmp_path / "out")
    report = Listening()
    train(tiny(sources, tmp_path / "out", resume=True), report)
    assert [better for _, better in report.evaluations] == [False, False]
    assert state(tmp_path / "out") == best


def test_steps_after_the_checkpoint_are_done_again(done, sources, tmp_path):
    """Catches lines that stand in the metrics twice, or are lost, when a killed run goes on from before its end."""
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


def test_a_run_that_was_killed_at_once_goes_on(sources, tmp_path):
    """Catches a run that can go on only after its first regular checkpoint."""
    first, second = tiny(sources, tmp_path / "first"), tiny(sources, tmp_path / "second")

    def die():
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        train(first, Listening(step2=die))
    assert checkpoints(tmp_path / "first") == ["step-0"]
    first.output.resume = True
    assert train(first) == train(second)
    assert state(tmp_path / "first") == state(tmp_path / "second")


def test_after_a_stop_the_page_is_up_to_date_and_goes_on(sources, tmp_path, monkeypatch):
    """Catches a page that lacks the last steps."""
    pages = []
    monkeypatch.setattr(outputs, "live_page", lambda path: lambda records, *rest: pages.append(list(records)))
    settings = tiny(sources, tmp_path / "out", metrics="my page.html")
    with pytest.raises(Interrupted, match="stopped after step 6"):
        train(settings, Listening(step5=stop))
    assert [record["step"] for record in pages[-1] if "loss" in record] == list(range(6))


def test_samples_are_those_of_the_seed(sources, tmp_path):
    """Catches samples of no length, the same sample every time, and another one each run."""
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
def test_a_run_that_blows_up_stops_and_says_what_to_try(sources, tmp_path, changes):
    """Catches NaN that is trained on, saved, or written where JSON has no word for it, and a message without help."""
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


def test_a_run_that_blows_up_leaves_the_last_good_state(sources, tmp_path):
    """Catches a checkpoint or a model that the failure has overwritten."""
    out, good = tmp_path / "out", {"optimizer": "sgd", "lr": 0.1}
    with pytest.raises(Interrupted):
        train(tiny(sources, out, **good), Listening(step4=stop))
    before = content(out / "checkpoints") | {name: (out / name).read_bytes() for name in MODEL}
    states = f"the last good state is {out / 'checkpoints' / 'step-5'}, the best model is in {out}"
    with pytest.raises(TrainingFailed, match=re.escape(states) + "$"):
        train(tiny(sources, out, resume=True, **good | BLOW_UP))
    after = content(out / "checkpoints") | {name: (out / name).read_bytes() for name in MODEL}
    assert before == after
    # It can be taken up again, with a learning rate that works, and ends where it would have.
    train(tiny(sources, out, resume=True, **good))
    train(tiny(sources, tmp_path / "whole", **good))
    assert state(out) == state(tmp_path / "whole")


@pytest.mark.parametrize("pace", [{"eval_every": 100, "checkpoint_every": 3}, {"eval_every": 3}])
def test_weights_that_blow_up_in_the_last_step_are_not_saved(sources, tmp_path, monkeypatch, pace):
    """Catches an update after which nobody looks at the loss: the last one before an evaluation or a checkpoint."""
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
    """Catches a run that ends without a model because no evaluation was ever better than the first NaN."""
    monkeypatch.setattr(loop, "evaluate", lambda *args, **kwargs: Score(math.nan, 10, 1.0))
    with pytest.raises(TrainingFailed, match="validation loss nan"):
        train(tiny(sources, tmp_path / "out"))


def test_metrics_are_in_the_file_before_a_checkpoint_is(sources, tmp_path, monkeypatch):
    """Catches lines that a kill right after a checkpoint would lose: a run that goes on does not write them again."""
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
    """Catches a model that is lost because somebody trained another one."""
    out = tmp_path / "out"
    shutil.copytree(done[0], out)
    before, report = content(out), Listening()
    train(tiny(sources, out, seed=1), report)
    assert content(tmp_path / "out.previous") == before
    assert report.notes == [f"the earlier run in {out} was moved to {out}.previous"]
    assert (out / "model.safetensors").read_bytes() != before["model.safetensors"]


def test_a_directory_of_something_else_is_left_alone(sources, tmp_path):
    """Catches a check that comes after the work, or after the first write."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        train(tiny(sources, tmp_path / "out"))
    assert content(tmp_path) == {"out/thesis.txt": b"mine"}


def test_changed_data_is_noted(tmp_path):
    """Catches a run that goes on with other text as if nothing had happened, and a note where nothing has changed."""
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
    """Catches moments of another kind that are read, and a run directory that is spoiled by the attempt."""
    out = tmp_path / "out"
    shutil.copytree(done[0], out)
    before = content(out)
    with pytest.raises(ValueError, match=words):
        train(tiny(sources, out, resume=True, **changes))
    assert content(out) == before


def test_a_finished_run_has_nothing_left_to_do(done, sources, tmp_path):
    """Catches a run that trains on past its end, and one that cannot be scored again."""
    out, _, score = done
    copy = shutil.copytree(out, tmp_path / "out")
    report = Listening()
    assert train(tiny(sources, copy, resume=True), report) == score
    assert report.records == []
    assert read_metrics(copy / "metrics.jsonl") == read_metrics(out / "metrics.jsonl")


def test_a_finished_run_can_be_made_longer(done, sources, tmp_path):
    """Catches a count of steps that only the first call sets."""
    copy = shutil.copytree(done[0], tmp_path / "out")
    train(tiny(sources, copy, resume=True, steps=15))
    lines = [line["step"] for line in read_metrics(copy / "metrics.jsonl") if "loss" in line]
    assert lines == list(range(15))
    assert checkpoints(copy)[-1] == "step-15"


def test_kernels_and_threads_are_as_before(sources, tmp_path):
    """Catches a call that leaves its choice to everything that follows in the process."""
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
    """Catches a line that tells the rung of one op for that of all."""
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


def test_too_little_text_is_told_before_anything_is_written(tmp_path):
    """Catches a run directory of a run that could not begin."""
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "a.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match="one context of 16 needs 17"):
        train(tiny(tmp_path / "sources", tmp_path / "out"))
    assert not (tmp_path / "out").exists()
