"""Loss, perplexity and bits per byte against sums that are written out here."""

import math

import numpy as np
import pytest

from tinygpt import GPT, GPTConfig
from tinygpt import evaluate as module
from tinygpt.evaluate import Score, evaluate
from tinygpt.tensor import no_grad

CONTEXT, VOCABULARY = 5, 11


@pytest.fixture(scope="module")
def model():
    """A model whose predictions differ much: weights ten times the usual."""
    model = GPT(GPTConfig(VOCABULARY, CONTEXT, 1, 2, 8), seed=1)
    for parameter in model.parameters():
        parameter.data *= 10
    return model


def text(n, seed=0):
    return np.random.default_rng(seed).integers(0, VOCABULARY, n).astype(np.int32)


def losses(model, tokens):
    """The loss of every token but the first, by the formula: each seen from its own context of CONTEXT tokens."""
    found = []
    for place in range(1, len(tokens)):
        start = (place - 1) // CONTEXT * CONTEXT
        with no_grad():
            logits = model(tokens[None, start:place]).data[0, -1].astype(np.float64)
        found.append(math.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[tokens[place]])
    return np.array(found)


@pytest.mark.parametrize("n", [2, CONTEXT, CONTEXT + 1, CONTEXT + 2, 3 * CONTEXT, 3 * CONTEXT + 1, 101])
@pytest.mark.parametrize("batch_tokens", [1, 2 * CONTEXT, 8192])
def test_every_token_counts_once(model, monkeypatch, n, batch_tokens):
    """Catches a last context that is dropped, or weighs as a whole one, and a mean of means over batches."""
    monkeypatch.setattr(module, "BATCH_TOKENS", batch_tokens)
    tokens = text(n)
    score = evaluate(model, tokens, n)
    assert score.tokens == n - 1
    assert score.loss == pytest.approx(losses(model, tokens).mean(), rel=1e-5)


def test_perplexity_and_bits_are_the_formulas():
    """Catches another logarithm, and bytes for tokens. 2 nats per token at 4 bytes per token: 0.5 / ln 2 bits."""
    score = Score(loss=2.0, tokens=10, bytes_per_token=4.0)
    assert score.perplexity == pytest.approx(math.e**2)
    assert score.bits_per_byte == pytest.approx(0.5 / math.log(2))
    assert math.isfinite(Score(1e6, 1, 1.0).perplexity)
    assert math.isnan(Score(math.nan, 1, 1.0).perplexity)


def test_bytes_per_token_are_those_of_the_text(model):
    """Catches bits per byte that count tokens as bytes: 30 tokens of 45 bytes have 1.5 each."""
    score = evaluate(model, text(30), 45)
    assert score.bytes_per_token == pytest.approx(1.5)
    assert score.bits_per_byte == pytest.approx(score.loss / math.log(2) / 1.5)


def test_guessing_has_the_loss_of_guessing():
    """Catches a loss in other units: equal logits give ln V for any text."""
    model = GPT(GPTConfig(VOCABULARY, CONTEXT, 1, 2, 8))
    for parameter in model.parameters():
        parameter.data[...] = 0
    score = evaluate(model, text(40), 40)
    assert score.loss == pytest.approx(math.log(VOCABULARY), rel=1e-6)
    assert score.perplexity == pytest.approx(VOCABULARY, rel=1e-5)


@pytest.mark.parametrize("limit", [1, CONTEXT, 3 * CONTEXT, 3 * CONTEXT + 1, 20 * CONTEXT - 1])
def test_a_part_is_always_the_same_one(model, limit):
    """Catches a part that is drawn anew each time, one from the beginning alone, and one of another size."""
    tokens = text(20 * CONTEXT + 1)
    part = evaluate(model, tokens, len(tokens), limit)
    assert part == evaluate(model, tokens, len(tokens), limit)
    contexts = max(1, limit // CONTEXT)
    assert part.tokens == contexts * CONTEXT
    chosen = [round(i * 19 / max(1, contexts - 1) - 0.5 + 1e-9) for i in range(contexts)]  # evenly, rounded down
    wanted = losses(model, tokens).reshape(20, CONTEXT)[chosen].mean()
    assert part.loss == pytest.approx(wanted, rel=1e-5)


def test_a_limit_above_the_text_takes_all(model):
    """Catches a part where there is room for all."""
    tokens = text(4 * CONTEXT + 1)
    whole = evaluate(model, tokens, 21)
    assert evaluate(model, tokens, 21, 4 * CONTEXT) == evaluate(model, tokens, 21, 10**6) == whole
    assert evaluate(model, tokens, 21, 4 * CONTEXT - 1) != whole


def test_progress_goes_from_batch_to_batch_to_the_end(model, monkeypatch):
    """Catches a bar that never arrives, and one that goes past its end."""
    monkeypatch.setattr(module, "BATCH_TOKENS", 3 * CONTEXT)
    told = []
    evaluate(model, text(7 * CONTEXT + 1), 1, progress=lambda done, total: told.append((done, total)))
    assert told == [(3, 7), (6, 7), (7, 7)]


def test_nothing_is_recorded_or_changed(model):
    """Catches a tape that grows, a gradient that is left, dropout that acts, and a weight that moves."""
    dropping = GPT(GPTConfig(VOCABULARY, CONTEXT, 1, 2, 8, dropout=0.5), seed=1)
    before = dropping.parameters()[0].arena.data.copy()
    assert evaluate(dropping, text(40), 40) == evaluate(dropping, text(40), 40)
    np.testing.assert_array_equal(dropping.parameters()[0].arena.data, before)
    assert all(parameter.grad is None for parameter in dropping.parameters())


def test_one_token_predicts_nothing(model):
    """Catches a division by zero where a line should say what is missing."""
    with pytest.raises(ValueError, match="at least 2 long"):
        evaluate(model, text(1), 1)
