"""--watch: its statistics are right, warnings come once, and the run itself does not change."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from tiny_run import Listening, content, state, tiny, without_clock

from tinygpt import GPT, GPTConfig, ops
from tinygpt.runs.metrics import read_metrics
from tinygpt.runs.read import read_run
from tinygpt.runs.watch import HEALTHY, KINDS, QUANTILES, place
from tinygpt.tensor import no_grad
from tinygpt.train import watch as module
from tinygpt.train.loop import train
from tinygpt.train.watch import Watch, activations, figures, kinds_of, matrices, ratio, rms, spread

ALL = ",".join(KINDS)
TOKENS = np.random.default_rng(0).integers(0, 20, (3, 8)).astype(np.int32)


def model_of(**changes):
    shape = {"vocab_size": 20, "block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 16}
    return GPT(GPTConfig(**{**shape, **changes}), seed=1)


def watched(out):
    return read_metrics(out / "watch.jsonl")


@pytest.mark.parametrize(
    "changes", [{"dropout": 0.2, "grad_accum": 2}, {"recompute": True, "swiglu": True, "rope": True}]
)
def test_a_watched_run_learns_the_same(sources, tmp_path, changes):
    """Catches a watch that draws random numbers or changes weights, moments or losses by a single bit."""
    train(tiny(sources, tmp_path / "plain", **changes))
    train(tiny(sources, tmp_path / "watched", watch=ALL, watch_every=1, **changes))
    plain, seen = (without_clock(read_metrics(tmp_path / name / "metrics.jsonl")) for name in ("plain", "watched"))
    assert plain == seen
    for part in ("", "checkpoints/step-10", "checkpoints/step-12"):
        assert state(tmp_path / "plain" / part) == state(tmp_path / "watched" / part)
    extra = content(tmp_path / "watched").keys() - content(tmp_path / "plain").keys()
    assert extra == {"watch.jsonl"}


def test_a_resumed_run_has_the_same_records(sources, tmp_path):
    """Catches records that depend on the process, repeated lines, and a resume disturbed by watching."""
    train(tiny(sources, tmp_path / "whole", watch=ALL, watch_every=2))
    settings = tiny(sources, tmp_path / "again", watch=ALL, watch_every=2)

    def die():
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        train(settings, Listening(step8=die))
    settings.output.resume = True
    train(settings)
    assert watched(tmp_path / "again") == watched(tmp_path / "whole")
    assert [line["step"] for line in watched(tmp_path / "again")] == [0, 2, 4, 6, 8, 10, 11]


def test_a_run_resumed_without_watch_keeps_its_lines(sources, tmp_path):
    """Catches a watch.jsonl emptied by a run that does not write it."""
    settings = tiny(sources, tmp_path / "out", watch="weights", watch_every=1)

    def die():
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        train(settings, Listening(step6=die))
    settings.output.resume, settings.output.watch, settings.output.watch_every = True, None, None
    train(settings)
    assert [line["step"] for line in watched(tmp_path / "out")] == list(range(7))


@pytest.mark.parametrize(
    ("text", "kinds"),
    [("weights", KINDS[:1]), ("activations,weights", ("weights", "activations")), (" gradients , weights", KINDS[:2])],
)
def test_some_kinds_are_watched(sources, tmp_path, text, kinds):
    """Catches a kind that was not requested, and a missing one."""
    assert kinds_of(text) == kinds
    train(tiny(sources, tmp_path / "out", watch=text, watch_every=6))
    for line in watched(tmp_path / "out"):
        assert line.keys() == {"step", *kinds}


@pytest.mark.parametrize("text", ["", "weight", "weights,", "weights;gradients"])
def test_an_unknown_kind_is_named(sources, tmp_path, text):
    """Catches an unknown word that is ignored."""
    with pytest.raises(ValueError, match=r"^\[train\] 'watch' must name some of weights,gradients,activations, got '"):
        train(tiny(sources, tmp_path / "out", watch=text))
    assert content(tmp_path) == {}


def test_watch_every_needs_watch(sources, tmp_path):
    """Catches a flag without effect."""
    with pytest.raises(ValueError, match="'watch_every' needs 'watch'"):
        train(tiny(sources, tmp_path / "out", watch_every=2))
    with pytest.raises(ValueError, match="'watch_every' must be at least 1, got 0"):
        train(tiny(sources, tmp_path / "out", watch="weights", watch_every=0))


def watch_of(tmp_path, every, total):
    """A watch that has recorded nothing yet."""
    look = Watch(tmp_path / "watch.jsonl", KINDS, model_of(), every, total, 0, lambda text: None)
    look.close()
    return look


def test_a_run_has_about_a_hundred_records(tmp_path):
    """Catches a short run without records, and a long one with too many."""
    for total, steps in ((1, 1), (99, 99), (100, 100), (250, 126), (100_000, 101)):
        look = watch_of(tmp_path, None, total)
        assert len([step for step in range(total) if look.due(step)]) == steps
    look = watch_of(tmp_path, 7, 100)
    assert [step for step in range(30) if look.due(step)] == [0, 7, 14, 21, 28]


@pytest.mark.parametrize("cost", [0.001, 0.1, 1.0])
def test_records_take_a_bounded_share_of_the_time(tmp_path, cost):
    """Catches records that slow a small model down: one record may cost as much as a hundred steps."""
    total, spent = 20_000, 0.0
    look = watch_of(tmp_path, None, total)
    for step in range(total):
        spent += cost if look.due(step) else 0.0
        look.took(0.002, cost if look.due(step) else 0.0)
    assert spent <= 0.03 * 0.002 * total + 2 * cost  # the first and the last step are always recorded
    assert spent >= min(0.02 * 0.002 * total, 100 * cost)


def test_a_requested_interval_is_kept(tmp_path):
    """Catches an interval that is lengthened although it was requested."""
    look = watch_of(tmp_path, 5, 100)
    for step in range(20):
        assert look.due(step) == (step % 5 == 0)
        look.took(0.001, 1.0 if look.due(step) else 0.0)


@pytest.mark.parametrize("shape", [(1,), (7, 5), (300, 64)])
def test_figures_are_those_of_numpy(shape):
    """Catches a variance with cancellation, a signed maximum, uncounted zeros, and wrong quantiles."""
    values = np.random.default_rng(2).standard_normal(shape).astype(np.float32) + np.float32(3)
    values.reshape(-1)[::3] = 0
    values.reshape(-1)[-1] = -9
    found = figures(values)
    wide = values.astype(np.float64)
    expected = {"mean": wide.mean(), "std": wide.std(), "max": 9.0, "zeros": (wide == 0).mean()}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    if values.size > 100:
        np.testing.assert_allclose(found["q"], np.quantile(spread(values, module.MOST_SORTED), QUANTILES), atol=0.02)
    assert found["q"] == sorted(found["q"])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_give_none(value):
    """Catches NaN in the JSON file, which would end the run."""
    with np.errstate(all="ignore"):
        found = figures(np.array([[1.0, value]], np.float32))
    assert found["mean"] is None
    assert found["std"] is None
    assert ratio(1.0, 0.0) is None


@pytest.mark.parametrize("shape", [(5, 3), (64, 64), (300, 64), (1000, 48)])
def test_a_sample_of_a_tensor_covers_all_columns(shape):
    """Catches a sample that is too large, and one that takes the same few columns of every row."""
    columns = np.broadcast_to(np.arange(shape[1], dtype=np.float32), shape).copy()
    part = spread(columns, 500)
    assert len(part) <= 500
    assert len(part) == columns.size or columns.size > 500
    assert len(np.unique(part)) == min(shape[1], len(part))


def test_only_matrices_are_watched():
    """Catches a missing matrix, a tied one listed twice, and vectors."""
    names = [f"blocks.{i}.{part}" for i in (0, 1) for part in ("attn.qkv", "attn.out", "mlp.up", "mlp.down")]
    assert list(matrices(model_of())) == ["wte", "wpe", *names]
    assert list(matrices(model_of(tie_embeddings=False, position="rope"))) == ["wte", *names, "head"]


def widened(mlp, x):
    """The hidden activations of an MLP for an input."""
    return ops.swiglu(mlp.up(x)) if mlp.swiglu else mlp.up(x, activation="gelu")


@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
@pytest.mark.parametrize("position", ["learned", "rope"])
def test_activations_are_those_of_the_forward_pass(activation, position, monkeypatch):
    """Catches the activations of the wrong block, without attention or norm, and a wrong share of dead units.

    The input of every MLP is kept during a real forward pass, and its activations are recomputed from that input.
    """
    model = model_of(activation=activation, position=position)
    for block in model.blocks:  # some units that never activate
        block.mlp.up.bias.data[:5] = -100
    kept, mlp = [], type(model.blocks[0].mlp)
    call = mlp.__call__
    with monkeypatch.context() as patch, no_grad():
        patch.setattr(mlp, "__call__", lambda self, x, *rest: kept.append(x) or call(self, x, *rest))
        model(TOKENS)
    found = activations(model, TOKENS)
    for i, (block, x) in enumerate(zip(model.blocks, kept, strict=True)):
        statistics = dict(found[f"blocks.{i}.mlp"])
        with no_grad():
            wide = widened(block.mlp, x)
            on = (block.mlp.up(x).data[..., : wide.shape[-1]] > 0).reshape(-1, wide.shape[-1]).any(0)
        dead = statistics.pop("dead")
        assert dead == pytest.approx(1 - on.mean(), rel=1e-4)
        assert dead >= 5 / wide.shape[-1] - 1e-4
        assert statistics == figures(wide.data)
    stream = []
    with no_grad():
        model.hidden(TOKENS, stream=stream)
    assert found["embeddings"] == figures(stream[0].data)
    assert found["blocks.1.stream"] == figures(stream[2].data)


def test_ratios_are_those_of_the_step(tmp_path):
    """Catches an update compared with the weights after it, and a gradient after clipping."""
    model = model_of()
    look = Watch(tmp_path / "watch.jsonl", KINDS, model, 1, 10, 0, lambda text: None)
    model.loss(TOKENS, TOKENS).backward()
    before = {name: p.data.copy() for name, p in matrices(model).items()}
    look.before_update(0, TOKENS)
    for p in matrices(model).values():
        p.data = p.data * 1.5
    look.after_update()
    look.close()
    (line,) = read_metrics(tmp_path / "watch.jsonl")
    for name, p in matrices(model).items():
        assert line["weights"][name]["update"] == pytest.approx(0.5, rel=1e-4)
        assert line["weights"][name]["std"] == pytest.approx(p.data.std(), rel=1e-3)
        wanted = rms(p.grad) / rms(before[name])
        assert line["gradients"][name]["ratio"] == pytest.approx(wanted, rel=1e-3)
        assert rms(p.grad) == pytest.approx(math.sqrt(np.mean(p.grad.astype(np.float64) ** 2)), rel=1e-5)


def test_a_warning_comes_once_per_layer(sources, tmp_path):
    """Catches a warning in every record, none at all, and one that does not name its guide."""
    heard = Listening()
    train(tiny(sources, tmp_path / "out", watch="weights", watch_every=1, lr=0.3, warmup=0, layers=2), heard)
    warnings = [note for note in heard.notes if "update-to-weight" in note]
    layers = [place(re.search(r" ratio of (\S+) is ", note)[1])[0] for note in warnings]
    assert sorted(layers) == ["block 0", "block 1", "embeddings"]
    for note in warnings:
        assert "above 0.5" in note
        assert module.GUIDE in note
        assert "\n" not in note


def test_a_healthy_run_has_no_warning(sources, tmp_path):
    """Catches ranges too narrow for a run with the usual settings."""
    heard = Listening()
    train(tiny(sources, tmp_path / "out", watch=ALL, watch_every=1, steps=60, embed=32), heard)
    assert heard.notes == []


def test_weights_initialised_to_0_give_no_warning(tmp_path):
    """Catches a warning for every adapter, whose first updates are large relative to weights near 0."""
    said, model = [], model_of()
    model.blocks[0].mlp.up.weight.data[:] = 0
    look = Watch(tmp_path / "watch.jsonl", KINDS, model, 1, 10, 0, said.append)
    for name in ("blocks.0.mlp.up", "blocks.1.mlp.up"):
        look.record = {"step": 3, "weights": {name: {"update": 1.5}}}
        look._judge(HEALTHY[0])
    look.close()
    assert [re.search(r" of (\S+) is ", text)[1] for text in said] == ["blocks.1.mlp.up"]


def test_every_range_warns(tmp_path):
    """Catches a statistic that is never checked, and a bound in the wrong direction."""
    for one in HEALTHY:
        for value in (one.low / 2, one.high * 2):
            said = []
            look = Watch(tmp_path / "watch.jsonl", KINDS, model_of(), 1, 10, 0, said.append)
            look.record = {"step": 3, one.kind: {"blocks.0.mlp.up": {one.statistic: value}}}
            look._judge(one)
            look._judge(one)
            look.close()
            assert len(said) == (value > 0), (one, value)
            assert all(one.title in text for text in said)


def test_the_files_of_a_watched_run_are_read_back(sources, tmp_path):
    """Catches a writer and a reader of watch.jsonl that disagree."""
    train(tiny(sources, tmp_path / "out", watch=ALL, watch_every=5))
    found = read_run(tmp_path / "out")
    assert [line["step"] for line in found.watch] == [0, 5, 10, 11]
    assert found.watch == watched(tmp_path / "out")


def test_the_guide_exists():
    """Catches a warning that refers to a missing section of the docs."""
    page, _, section = module.GUIDE.partition(", ")
    text = (Path(__file__).parents[2] / page).read_text(encoding="utf-8")
    assert f"\n## {section.strip(chr(39))}\n" in text
