"""Muon against its formulas in float64, and what an orthogonal update is."""

import math
import signal

import numpy as np
import pytest
from tiny_run import Listening, state, tiny, train_arrays, without_clock, write_sources

from tinygpt import GPT, GPTConfig, optim
from tinygpt.muon import Muon, orthogonal
from tinygpt.runs.metrics import read_metrics
from tinygpt.train.loop import Interrupted, train
from tinygpt.train.report import Report
from tinygpt.train.setup import prepare


def reference(matrix):
    """Newton-Schulz in float64, as Jordan's code has it."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = np.float64(matrix) / (np.linalg.norm(matrix) + 1e-7)
    transposed = x.shape[0] > x.shape[1]
    x = x.T if transposed else x
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if transposed else x


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (7, 3), (16, 16), (64, 33), (48, 16)])
def test_the_iteration_is_that_of_the_source(shape):
    """Catches another coefficient, a product in the wrong order, and a tall matrix that is not transposed."""
    matrix = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    np.testing.assert_allclose(orthogonal(matrix), reference(matrix), rtol=2e-4, atol=2e-5)


def test_an_update_moves_every_direction_alike():
    """Catches an update that keeps the few large singular values of a gradient."""
    rng = np.random.default_rng(1)
    u, _ = np.linalg.qr(rng.standard_normal((32, 32)))
    v, _ = np.linalg.qr(rng.standard_normal((48, 48)))
    skewed = (u * np.geomspace(1, 0.02, 32)) @ v[:32]
    values = np.linalg.svd(orthogonal(skewed.astype(np.float32)), compute_uv=False)
    assert 0.6 < values.min() < values.max() < 1.3
    assert not orthogonal(np.zeros((4, 6), np.float32)).any()


def models():
    config = GPTConfig(vocab_size=50, block_size=8, n_layer=1, n_head=2, n_embd=16)
    return GPT(config, seed=0), GPT(config, seed=0)


def matrices(model):
    return [p for name, p in model.named_parameters() if name.startswith("blocks.") and len(p.shape) == 2]


def test_steps_are_those_of_the_formulas():
    """Catches momentum without Nesterov, a missing scale or decay, and AdamW on the wrong parameters."""
    ours, plain = models()
    optimizer = Muon(ours.parameters(), matrices(ours), lr=0.01, weight_decay=0.1)
    adamw = optim.AdamW(plain.parameters(), lr=0.01, weight_decay=0.1)
    rng, expected, momentum = np.random.default_rng(2), {}, {}
    own = {id(p) for p in matrices(ours)}
    for p in matrices(ours):
        expected[id(p)], momentum[id(p)] = np.float64(p.data), 0.0
    for _ in range(3):
        x, y = rng.integers(0, 50, (2, 4, 8))
        optimizer.zero_grad()
        ours.loss(x, y).backward()
        adamw.zero_grad()
        for mine, other in zip(optimizer.parameters, adamw.parameters, strict=True):
            other.receive(mine.grad.copy())
        for p in matrices(ours):
            grad = 0.5 * np.float64(p.grad)
            momentum[id(p)] = 0.95 * momentum[id(p)] + grad
            update = reference(grad + 0.95 * momentum[id(p)])
            step = 0.01 * 0.2 * math.sqrt(max(p.shape)) * update
            expected[id(p)] = expected[id(p)] * (1 - 0.01 * 0.1) - step
        optimizer.step(0.5)
        adamw.step(0.5)
        for mine, other in zip(optimizer.parameters, adamw.parameters, strict=True):
            if id(mine) in own:
                np.testing.assert_allclose(mine.data, expected[id(mine)], rtol=1e-3, atol=1e-6)
            else:
                np.testing.assert_array_equal(mine.data, other.data)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"momentum": 1.0}, "'momentum'"),
        ({"matrices": "vectors"}, "two axes"),
        ({"matrices": "other"}, "among 'parameters'"),
    ],
)
def test_wrong_arguments_are_named(arguments, words):
    """Catches a vector that is orthogonalised, and a matrix that is never updated."""
    model, other = models()
    given = {"vectors": [p for p in model.parameters() if len(p.shape) == 1], "other": matrices(other)}
    if "matrices" in arguments:
        arguments = {"matrices": given[arguments["matrices"]]}
    with pytest.raises(ValueError, match=words):
        Muon(model.parameters(), **{"matrices": matrices(model)} | arguments)


def test_a_run_with_muon_resumes_to_the_bit_at_any_thread_count(tmp_path):
    """Catches momentum that a checkpoint forgets, and products whose order depends on the threads."""
    sources = write_sources(tmp_path / "sources")
    whole = tiny(sources, tmp_path / "whole", optimizer="muon")
    train(whole)
    with pytest.raises(Interrupted):
        train(whole.replace(out=str(tmp_path / "two")), Listening(step6=lambda: signal.raise_signal(signal.SIGINT)))
    train(whole.replace(out=str(tmp_path / "two"), resume=True, threads=2))
    one, two = tmp_path / "whole", tmp_path / "two"
    assert state(one / "checkpoints" / "step-12") == state(two / "checkpoints" / "step-12")
    assert without_clock(read_metrics(one / "metrics.jsonl")) == without_clock(read_metrics(two / "metrics.jsonl"))
    run = prepare(whole, Report())
    assert run.settings.peak_lr == 0.8 / 16
    assert isinstance(run.optimizer, Muon)
    assert len(run.optimizer.matrices) == 4
    assert train_arrays(run, 3)[2] < train_arrays(prepare(whole, Report()), 1)[0]
