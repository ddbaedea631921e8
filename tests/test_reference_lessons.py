"""The two files that a beginner reads first: a whole GPT and byte-pair encoding in their plainest form."""

import ast
import inspect

import numpy as np
import pytest
from gpt_reference import TOKENS, spread
from hypothesis import given
from hypothesis import strategies as st

import tinygpt
from tinygpt.reference import bpe, gpt


def weights_of(model):
    return {name: parameter.data.astype(np.float64) for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("row", [0, 1])
def test_the_plain_forward_pass_is_that_of_the_model(row):
    """Catches a formula in the file that teaches which the model does not compute."""
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
    """Catches a draw from another position than the last, and a context that is exceeded."""
    weights = weights_of(spread("gpt2"))
    tokens = gpt.generate(weights, [1], 2, 30, np.random.default_rng(0))
    assert tokens[0] == 1
    assert len(tokens) == 31
    sharp = dict(weights) | {"norm.weight": 100 * weights["norm.weight"], "norm.bias": 0 * weights["norm.bias"]}
    tokens = gpt.generate(sharp, [1], 2, 5, np.random.default_rng(0))
    assert tokens[1:] == [gpt.forward(sharp, tokens[:n], 2)[-1].argmax() for n in range(1, 6)]


def test_the_plain_bpe_by_hand():
    """Catches an example in the file that is not what the code does."""
    merges = bpe.train(["low", "lower", "lowest"], 2)
    assert merges == [(b"l", b"o"), (b"lo", b"w")]
    assert bpe.encode(merges, "slow") == [115, 257]
    assert bpe.decode(merges, [115, 257]) == "slow"


@given(st.lists(st.text("abé ", max_size=20), max_size=5), st.text(max_size=30), st.integers(0, 10))
def test_decoding_gives_the_text_back(words, text, n):
    """Catches a merge that loses a byte."""
    merges = bpe.train(words, n)
    assert bpe.decode(merges, bpe.encode(merges, text)) == text


def test_bytes_that_are_no_text_are_shown_as_such():
    """Catches a sampled byte that ends decoding with an error."""
    assert bpe.decode([], [0xC3]) == "\ufffd"


@pytest.mark.parametrize("module", [gpt, bpe])
def test_lessons_stand_alone_and_are_short(module):
    """Catches a beginner's file that needs the package, or that has grown."""
    source = inspect.getsource(module)
    imported = {
        alias.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import) for alias in node.names
    }
    imported |= {node.module for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)}
    assert imported <= {"math", "numpy", "collections", "itertools"}
    assert len(source.splitlines()) < 120
    assert not hasattr(tinygpt, module.__name__.rpartition(".")[2])
