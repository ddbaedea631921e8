"""The lessons for beginners: a whole GPT, its training, and byte-pair encoding in their plainest form."""

import ast
import inspect
import math
import sys

import numpy as np
import pytest
from gpt_reference import TOKENS, spread
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

import tinygpt
from tinygpt.reference import bpe, gpt, one_file


def weights_of(model):
    return {name: parameter.data.astype(np.float64) for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("row", [0, 1])
def test_the_plain_forward_pass_is_that_of_the_model(row):
    """Catches a formula in the lesson that differs from the model."""
    model = spread("gpt2")
    expected = model(TOKENS[row : row + 1]).data[0]
    logits = gpt.forward(weights_of(model), TOKENS[row], model.config.n_head)
    np.testing.assert_allclose(logits, expected, rtol=2e-4, atol=2e-5)


def test_no_token_sees_a_later_one():
    """Catches a mask that is off by one."""
    weights = weights_of(spread("gpt2"))
    whole = gpt.forward(weights, TOKENS[0], 2)
    for n in range(1, len(TOKENS[0])):
        np.testing.assert_allclose(gpt.forward(weights, TOKENS[0][:n], 2), whole[:n], rtol=1e-12)


def test_generated_text_follows_the_probabilities():
    """Catches sampling from a position other than the last, and a context that is exceeded."""
    weights = weights_of(spread("gpt2"))
    tokens = gpt.generate(weights, [1], 2, 30, np.random.default_rng(0))
    assert tokens[0] == 1
    assert len(tokens) == 31
    sharp = dict(weights) | {"norm.weight": 100 * weights["norm.weight"], "norm.bias": 0 * weights["norm.bias"]}
    tokens = gpt.generate(sharp, [1], 2, 5, np.random.default_rng(0))
    assert tokens[1:] == [gpt.forward(sharp, tokens[:n], 2)[-1].argmax() for n in range(1, 6)]


def test_the_plain_bpe_by_hand():
    """Catches an example in the lesson that the code does not reproduce."""
    merges = bpe.train(["low", "lower", "lowest"], 2)
    assert merges == [(b"l", b"o"), (b"lo", b"w")]
    assert bpe.encode(merges, "slow") == [115, 257]
    assert bpe.decode(merges, [115, 257]) == "slow"


@given(st.lists(st.text("abé ", max_size=20), max_size=5), st.text(max_size=30), st.integers(0, 10))
def test_decoding_gives_the_text_back(words, text, n):
    """Catches a merge that loses a byte."""
    merges = bpe.train(words, n)
    assert bpe.decode(merges, bpe.encode(merges, text)) == text


def test_invalid_utf8_is_decoded_with_a_replacement_character():
    """Catches a sampled byte with which decoding fails."""
    assert bpe.decode([], [0xC3]) == "\ufffd"


def test_one_file_has_the_loss_and_the_gradients_of_the_model():
    """Catches a wrong hand-written gradient, such as a tied table counted once instead of twice."""
    model = spread("gpt2")
    targets = np.roll(TOKENS, -1, axis=1)
    loss = model.loss(TOKENS, targets)
    loss.backward()
    plain, gradients = one_file.loss_and_gradients(weights_of(model), TOKENS, targets, model.config.n_head)
    assert plain == pytest.approx(float(loss.data), rel=1e-5)
    wanted = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert set(gradients) == set(wanted)
    for name, gradient in gradients.items():
        # The tolerance is relative to the largest element, because small elements come from large terms that cancel.
        np.testing.assert_allclose(gradient, wanted[name], rtol=0, atol=2e-5 * np.abs(gradient).max(), err_msg=name)


def test_one_file_trains_to_the_weights_of_the_framework():
    """Catches a bias correction counted from 0, a moment that is lost, and an update with the wrong sign."""
    model = spread("gpt2")
    weights, targets = weights_of(model), np.roll(TOKENS, -1, axis=1)
    optimizer = tinygpt.optim.Adam(model.parameters(), lr=1e-2, betas=(0.9, 0.95), eps=1e-8)
    m, v = ({name: np.zeros_like(x) for name, x in weights.items()} for _ in range(2))
    for step in range(1, 6):
        optimizer.zero_grad()
        loss = model.loss(TOKENS, targets)
        loss.backward()
        optimizer.step()
        plain, gradients = one_file.loss_and_gradients(weights, TOKENS, targets, model.config.n_head)
        one_file.adam(weights, gradients, m, v, step, lr=1e-2)
        assert plain == pytest.approx(float(loss.data), rel=1e-4)
    # Biases of keys are left out: the loss does not depend on them, so that Adam follows the sign of rounding errors.
    for name, parameter in model.named_parameters():
        width = model.config.n_embd
        rows = np.r_[:width, 2 * width : 3 * width] if name.endswith("qkv.bias") else slice(None)
        np.testing.assert_allclose(weights[name][rows], parameter.data[rows], atol=1e-3, err_msg=name)


def test_one_file_learns_and_writes(tmp_path, capsys, monkeypatch):
    """Catches a program that does not learn: the loss must start near ln V and end far below."""
    (tmp_path / "text.txt").write_text("abcdefgh" * 50)
    monkeypatch.setattr(sys, "argv", ["one_file.py", str(tmp_path / "text.txt")])
    monkeypatch.setattr(one_file, "STEPS", 40)
    with threadpool_limits(1):  # with two threads, matmuls this small spend their time waiting
        one_file.main()
    lines = capsys.readouterr().out.splitlines()
    first, last = (float(line.split()[-1]) for line in (lines[0], lines[9]))
    assert first == pytest.approx(math.log(8), abs=0.2)
    assert last < 0.2
    assert lines[-1].startswith("abcdefghabcdefgh")


def test_one_file_has_the_weights_of_the_model():
    """Catches a missing weight, and residual projections that are not scaled down."""
    weights = one_file.new_weights(np.random.default_rng(0), 13, context=8, layers=2, width=12)
    model = spread("gpt2")
    assert {name: x.shape for name, x in weights.items()} == {
        name: parameter.shape for name, parameter in model.named_parameters()
    }
    wide = one_file.new_weights(np.random.default_rng(0), 50, context=8, layers=8, width=64)
    assert wide["blocks.0.attn.out.weight"].std() == pytest.approx(0.02 / 4, rel=0.1)
    assert wide["blocks.0.attn.qkv.weight"].std() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize(("module", "lines"), [(gpt, 120), (bpe, 120), (one_file, 250)])
def test_lessons_stand_alone_and_are_short(module, lines):
    """Catches a lesson that imports the package, or that has become too long."""
    source = inspect.getsource(module)
    imported = {
        alias.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import) for alias in node.names
    }
    imported |= {node.module for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)}
    assert imported <= {"math", "numpy", "collections", "itertools", "pathlib", "sys"}
    assert len(source.splitlines()) < lines
    assert not hasattr(tinygpt, module.__name__.rpartition(".")[2])
