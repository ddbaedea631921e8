"""Guards and averages of the training loop: spikes, tensors that are not finite, EMA, tokens, one batch by heart."""

import math
import re
import signal

import numpy as np
import pytest
from tiny_run import Listening, state, tiny, train_arrays, without_clock

import tinygpt
from tinygpt import optim
from tinygpt.kernels import threads
from tinygpt.model import GPT
from tinygpt.runs.metrics import read_metrics
from tinygpt.runs.read import read_run
from tinygpt.train import loop
from tinygpt.train.average import Average
from tinygpt.train.guards import FEWEST, MOST_IN_A_ROW, SpikeGuard, first_bad
from tinygpt.train.loop import Interrupted, TrainingFailed, train
from tinygpt.train.report import Report
from tinygpt.train.setup import prepare


def test_a_spike_is_found_and_a_new_level_accepted():
    """Catches noise taken for a spike, a spike that is learned from, and a guard that never lets go."""
    rng, guard = np.random.default_rng(0), SpikeGuard(6.0)
    assert not guard.spike(50.0)  # the first losses are high
    assert not any(guard.spike(2 + 0.05 * rng.standard_normal()) for _ in range(10 * FEWEST))
    mean = guard.mean
    assert guard.spike(4.0)
    assert guard.mean == mean
    assert not guard.spike(2.0)
    assert sum(guard.spike(4.0) for _ in range(MOST_IN_A_ROW + 5)) == MOST_IN_A_ROW
    assert guard.skipped == MOST_IN_A_ROW + 1
    assert not SpikeGuard(None).spike(1e9)


@pytest.mark.parametrize("damage", [{"mean": None}, {"seen": -1}, {"row": 0.5}, []])
def test_a_damaged_state_is_refused(damage):
    """Catches numbers of a file that are trusted."""
    guard = SpikeGuard(3.0)
    good = guard.state()
    guard.restore(good)
    with pytest.raises(ValueError, match="'spikes' of the checkpoint"):
        guard.restore(good | damage if damage else [1])


@pytest.fixture
def spiky(monkeypatch):
    """Losses of the guard that jump in steps 57 and 60."""
    spike = SpikeGuard.spike
    monkeypatch.setattr(
        SpikeGuard, "spike", lambda self, loss: spike(self, 1e3 if self.seen + self.skipped in (57, 60) else loss)
    )


def test_spikes_are_left_out_counted_and_told(sources, tmp_path, spiky):
    """Catches an update with the gradient of a spike, a count that a resumed run loses, and a run that is silent."""
    report = Listening()
    settings = tiny(sources, tmp_path / "whole", steps=70, spike_sigma=6.0, ema=0.9, eval_every=35, checkpoint_every=35)
    train(settings, report)
    assert [record["step"] for record in report.records if record.get("spike")] == [57, 60]
    assert "2 of 70 updates were left out: their loss was a spike (6 sigma)" in report.notes
    for step in (58, 61):
        with pytest.raises(Interrupted):
            train(settings.replace(out=str(tmp_path / f"at-{step}")), Listening(**{f"step{step}": _stop}))
        train(settings.replace(out=str(tmp_path / f"at-{step}"), resume=True))
        _the_same(tmp_path / "whole", tmp_path / f"at-{step}")
    assert state(tmp_path / "whole" / "checkpoints" / "step-70")["optimizer.safetensors"][0]["steps"] == "68"


def _stop():
    signal.raise_signal(signal.SIGTERM)


def _the_same(one, two):
    assert state(one) == state(two)
    last = max(path.name for path in (one / "checkpoints").iterdir())
    assert state(one / "checkpoints" / last) == state(two / "checkpoints" / last)
    assert without_clock(read_metrics(one / "metrics.jsonl")) == without_clock(read_metrics(two / "metrics.jsonl"))


@pytest.mark.parametrize(
    ("name", "told"),
    [("blocks.0.mlp.up.weight", "the weight blocks.0.mlp.up.weight"), ("norm.weight", "the weight norm.weight")],
)
def test_the_first_bad_weight_is_named(sources, tmp_path, monkeypatch, name, told):
    """Catches a message that leaves the search to the user."""
    prepared = loop.prepare

    def broken(*args):
        run = prepared(*args)
        dict(run.model.named_parameters())[name].data[0] = np.nan
        return run

    monkeypatch.setattr(loop, "prepare", broken)
    with pytest.raises(TrainingFailed, match=re.escape(f"(first: {told})")):
        train(tiny(sources, tmp_path / "out"))


def test_the_first_bad_tensor_is_the_first_in_order(sources, tmp_path):
    """Catches a gradient blamed for an activation, an activation blamed for a later one, and moments left out."""
    with threads.fixed(1):
        _bad_tensors(prepare(tiny(sources, tmp_path / "out", layers=2), Report()))


def _bad_tensors(run):
    tokens, targets = run.windows.batch(0, 4)
    run.model.loss(tokens, targets).backward()
    named = dict(run.model.named_parameters())
    assert first_bad(run.model, run.optimizer, tokens) == ""
    named["blocks.0.attn.qkv.weight"].grad[0] = np.inf
    named["blocks.1.mlp.down.weight"].grad[0] = np.nan
    assert first_bad(run.model, run.optimizer, tokens) == "the gradient of blocks.1.mlp.down.weight"
    named["blocks.1.mlp.up.weight"].data[...] = 3e38
    with np.errstate(all="ignore"):
        assert first_bad(run.model, run.optimizer, tokens) == "the hidden activations of blocks.1.mlp"
    run.optimizer.state_of(named["norm.weight"])["v"][0] = np.inf
    assert first_bad(run.model, run.optimizer) == "the optimizer state v of norm.weight"


def test_the_average_is_that_of_the_formula():
    """Catches another decay, a bias to the first weights, and an average of some parameters alone."""
    from tinygpt import GPTConfig

    model = GPT(GPTConfig(vocab_size=40, block_size=8, n_layer=1, n_head=2, n_embd=16), seed=0)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    average, rng = Average(optimizer, 0.6), np.random.default_rng(0)
    expected = optimizer.arena.data.astype(np.float64)
    for step in range(1, 20):
        optimizer.zero_grad()
        model.loss(*rng.integers(0, 40, (2, 2, 8))).backward()
        optimizer.step()
        average.update()
        expected += (1 - min(0.6, (1 + step) / (10 + step))) * (optimizer.arena.data - expected)
    before = optimizer.arena.data.copy()
    with average.in_place():
        np.testing.assert_allclose(optimizer.arena.data, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(optimizer.arena.data, before)


def test_the_averaged_weights_are_evaluated_and_saved_and_the_run_goes_on_without_them(sources, tmp_path):
    """Catches training on the average, a best model of the raw weights, and an average that a checkpoint forgets."""
    plain, averaged = tiny(sources, tmp_path / "plain"), tiny(sources, tmp_path / "ema", ema=0.9)
    train(plain)
    train(averaged)
    losses = [
        [r["loss"] for r in read_metrics(tmp_path / n / "metrics.jsonl") if "loss" in r] for n in ("plain", "ema")
    ]
    assert losses[0] == losses[1]
    assert state(tmp_path / "plain")["model.safetensors"] != state(tmp_path / "ema")["model.safetensors"]
    with pytest.raises(Interrupted):
        train(averaged.replace(out=str(tmp_path / "two")), Listening(step5=_stop))
    train(averaged.replace(out=str(tmp_path / "two"), resume=True))
    _the_same(tmp_path / "ema", tmp_path / "two")
    tinygpt.load(tmp_path / "ema")


def test_tokens_replace_steps(sources, tmp_path):
    """Catches tokens that count sequences, forget accumulation, or are rounded down; and a page without a total."""
    settings = tiny(sources, tmp_path / "out", tokens=1000, batch=2, grad_accum=3, steps=5000)
    assert prepare(settings, Report()).total_steps == 11  # 96 tokens each
    train(settings)
    assert read_run(tmp_path / "out").total_steps == 11
    assert "steps" not in settings.table()


def test_one_batch_is_learned_by_heart(sources, tmp_path):
    """Catches another batch in any step, and a loss that does not approach zero."""
    settings = tiny(sources, tmp_path / "out", overfit_one_batch=True, lr=1e-2, warmup=5, steps=150, embed=32)
    run = prepare(settings, Report())
    batches = []
    read = run.windows.batch
    run.windows.batch = lambda *args: batches.append(args) or read(*args)
    with threads.fixed(1):
        losses = train_arrays(run, 150)
    assert set(batches) == {(0, 4)}
    assert losses[-1] < 0.1 < math.log(run.tokenizer.vocab_size) - 1 < losses[0]


def test_a_run_with_wsd_has_its_rates(sources, tmp_path):
    """Catches a schedule that the settings do not reach."""
    train(tiny(sources, tmp_path / "out", schedule="wsd", steps=40, decay=0.25, lr=1e-3, min_lr=0.0))
    rates = [record["lr"] for record in read_metrics(tmp_path / "out" / "metrics.jsonl") if "lr" in record]
    assert rates[4:29] == [1e-3] * 25
    assert rates[-1] == 0.0
    assert 0 < rates[-2] < rates[-3] < 1e-3


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"ema": 0.9, "sync_every": 2}, "'ema' cannot be combined with 'sync_every'"),
     ({"spike_sigma": 4.0, "sync_every": 2}, "'spike_sigma' cannot"),
     ({"optimizer": "muon", "shard_optimizer": True}, "'optimizer' cannot be combined with 'shard_optimizer'")],
)  # fmt: skip
def test_what_the_ranks_of_a_job_cannot_do_is_refused(sources, tmp_path, changes, words):
    """Catches ranks that wait for each other for ever, and half of a matrix that is made orthogonal."""
    with pytest.raises(ValueError, match=re.escape(words)):
        tiny(sources, tmp_path, checkpoint_every=4, **changes).validate()
