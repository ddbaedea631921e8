"""Loss, perplexity and bits per byte, against sums written out in this file."""

import math

import numpy as np
import pytest

from tinygpt import GPT, GPTConfig
from tinygpt import evaluate as module
from tinygpt.data.discover import Document
from tinygpt.evaluate import Score, TokenText, evaluate, evaluate_files, score_tokens, usual_window
from tinygpt.tensor import no_grad
from tinygpt.tokenizers import CharTokenizer

CONTEXT, VOCABULARY = 5, 11


@pytest.fixture(scope="module")
def model():
    """A model whose predictions differ widely: ten times the usual weights."""
    model = GPT(GPTConfig(VOCABULARY, CONTEXT, 1, 2, 8), seed=1)
    for parameter in model.parameters():
        parameter.data *= 10
    return model


def text(n, seed=0):
    return np.random.default_rng(seed).integers(0, VOCABULARY, n).astype(np.int32)


def losses(model, tokens, window=CONTEXT, stride=None):
    """The loss of every token but the first, by the formula: each in the first window that predicts it."""
    found, stride = [], stride or window
    for place in range(1, len(tokens)):
        start = 0
        while start + window < place:
            start += stride
        with no_grad():
            logits = model(tokens[None, start:place]).data[0, -1].astype(np.float64)
        found.append(math.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[tokens[place]])
    return np.array(found)


@pytest.mark.parametrize("n", [2, CONTEXT, CONTEXT + 1, CONTEXT + 2, 3 * CONTEXT, 3 * CONTEXT + 1, 101])
@pytest.mark.parametrize("batch_tokens", [1, 2 * CONTEXT, 8192])
def test_every_token_counts_once(model, monkeypatch, n, batch_tokens):
    """Catches a last window that is dropped or overweighted, and a mean of batch means."""
    monkeypatch.setattr(module, "BATCH_TOKENS", batch_tokens)
    tokens = text(n)
    score = evaluate(model, tokens, n)
    assert score.tokens == n - 1
    assert score.loss == pytest.approx(losses(model, tokens).mean(), rel=1e-5)


def test_perplexity_and_bits_are_the_formulas():
    """Catches the wrong logarithm, and bytes counted as tokens.

    2 nats per token at 4 bytes per token are 0.5 / ln 2 bits per byte.
    """
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


def test_equal_logits_have_the_loss_of_guessing():
    """Catches a loss in the wrong unit: equal logits give ln V for any text."""
    model = GPT(GPTConfig(VOCABULARY, CONTEXT, 1, 2, 8))
    for parameter in model.parameters():
        parameter.data[...] = 0
    score = evaluate(model, text(40), 40)
    assert score.loss == pytest.approx(math.log(VOCABULARY), rel=1e-6)
    assert score.perplexity == pytest.approx(VOCABULARY, rel=1e-5)


@pytest.mark.parametrize("limit", [1, CONTEXT, 3 * CONTEXT, 3 * CONTEXT + 1, 20 * CONTEXT - 1])
def test_a_limit_selects_the_same_windows(model, limit):
    """Catches random windows, windows from the beginning only, and a wrong number of tokens."""
    tokens = text(20 * CONTEXT + 1)
    part = evaluate(model, tokens, len(tokens), limit)
    assert part == evaluate(model, tokens, len(tokens), limit)
    contexts = max(1, limit // CONTEXT)
    assert part.tokens == contexts * CONTEXT
    chosen = [round(i * 19 / max(1, contexts - 1) - 0.5 + 1e-9) for i in range(contexts)]  # evenly spaced, rounded down
    wanted = losses(model, tokens).reshape(20, CONTEXT)[chosen].mean()
    assert part.loss == pytest.approx(wanted, rel=1e-5)


def test_a_limit_above_the_text_takes_all(model):
    """Catches a limit that leaves tokens out although all would fit."""
    tokens = text(4 * CONTEXT + 1)
    whole = evaluate(model, tokens, 21)
    assert evaluate(model, tokens, 21, 4 * CONTEXT) == evaluate(model, tokens, 21, 10**6) == whole
    assert evaluate(model, tokens, 21, 4 * CONTEXT - 1) != whole


def test_progress_counts_up_to_its_total(model, monkeypatch):
    """Catches progress that never reaches its total, or exceeds it."""
    monkeypatch.setattr(module, "BATCH_TOKENS", 3 * CONTEXT)
    told = []
    evaluate(model, text(7 * CONTEXT + 1), 1, progress=lambda done, total: told.append((done, total)))
    assert told == [(3, 7), (6, 7), (7, 7)]


def test_nothing_is_recorded_or_changed(model):
    """Catches a recorded tape, a gradient left behind, active dropout, and a changed weight."""
    dropping = GPT(GPTConfig(VOCABULARY, CONTEXT, 1, 2, 8, dropout=0.5), seed=1)
    before = dropping.parameters()[0].arena.data.copy()
    assert evaluate(dropping, text(40), 40) == evaluate(dropping, text(40), 40)
    np.testing.assert_array_equal(dropping.parameters()[0].arena.data, before)
    assert all(parameter.grad is None for parameter in dropping.parameters())


def test_one_token_predicts_nothing(model):
    """Catches a division by zero where an error should say what is missing."""
    with pytest.raises(ValueError, match="at least 2 long"):
        evaluate(model, text(1), 1)


@pytest.mark.parametrize(("window", "stride"), [(5, 5), (5, 2), (5, 1), (4, 3), (3, None), (1, 1)])
@pytest.mark.parametrize("n", [2, 5, 6, 7, 40])
def test_windows_may_overlap(model, monkeypatch, window, stride, n):
    """Catches a token counted twice, one with the wrong context, and losses out of order."""
    monkeypatch.setattr(module, "BATCH_TOKENS", 3 * window)
    tokens = text(n)
    wanted = losses(model, tokens, window, stride)
    np.testing.assert_allclose(score_tokens(model, tokens, window, stride), wanted, rtol=1e-4, atol=1e-5)
    score = evaluate(model, tokens, n, window=window, stride=stride)
    assert score.tokens == n - 1
    assert score.loss == pytest.approx(wanted.mean(), rel=1e-5)


def test_a_limit_with_overlapping_windows(model):
    """Catches a limit that counts the tokens in windows instead of those predicted."""
    tokens = text(102)  # 5 targets in the first window, 2 in each of 48 more
    part = evaluate(model, tokens, len(tokens), 30, window=5, stride=2)
    assert part.tokens == 15 * 2 + 3  # 15 windows of 2 targets, and 3 more in the first


def test_few_logits_exist_at_a_time(model, monkeypatch):
    """Catches logits of a whole batch at once, which take gigabytes for 50,000 tokens, and a lost row."""
    whole, seen, plain = score_tokens(model, text(64)), [], module.head_logits
    monkeypatch.setattr(module, "LOGIT_BYTES", 4 * VOCABULARY * 7)
    monkeypatch.setattr(module, "head_logits", lambda model, x: seen.append(len(x)) or plain(model, x))
    np.testing.assert_allclose(score_tokens(model, text(64)), whole, rtol=1e-6)
    assert (max(seen), sum(seen)) == (7, 63)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": 0}, "'window' must be in 1..5, the context of the model, got 0"),
        ({"window": 6}, "'window' must be in 1..5, the context of the model, got 6"),
        ({"stride": 0}, "'stride' must be in 1..5, the window, got 0"),
        ({"window": 3, "stride": 4}, "'stride' must be in 1..3, the window, got 4"),
    ],
)
def test_windows_out_of_range_are_refused(model, options, words):
    """Catches positions beyond the model's context, and windows that leave tokens out."""
    with pytest.raises(ValueError, match=r"^\[evaluate\] ") as caught:
        score_tokens(model, text(9), **options)
    assert words in str(caught.value)


def test_the_default_window_is_the_context_up_to_a_limit():
    """Catches a window shorter than an ordinary context, and an unlimited one for a huge context."""
    for context, window in ((5, 5), (2048, 2048), (8192, 2048)):
        config = GPTConfig(VOCABULARY, context, 1, 2, 8, position="rope")
        assert usual_window(GPT(config)) == window


DOCUMENTS = [Document("a.py", "abcabcabd"), Document("b.py", "d"), Document("c.py", "aaaaé\n")]


@pytest.mark.parametrize("bos", [None, "separator", "its own"])
def test_files_make_up_the_total(bos):
    """Catches a token counted for no file or two, one predicted from another file, and files sorted by name."""
    tokenizer = CharTokenizer.train("".join(document.text for document in DOCUMENTS))
    tokenizer.bos_id = {None: None, "separator": tokenizer.eot_id, "its own": 3}[bos]
    model = GPT(GPTConfig(tokenizer.vocab_size, CONTEXT, 1, 2, 8), seed=2)
    for parameter in model.parameters():
        parameter.data *= 20
    text = TokenText.encode(DOCUMENTS, tokenizer)
    total, files = evaluate_files(model, text, window=4, stride=2)
    # By hand, the tokens of each document: its separator or begin token, its text, and the separator after it.
    first = {None: [], "separator": [tokenizer.eot_id], "its own": [3]}[bos]
    wanted = {}
    for i, document in enumerate(DOCUMENTS):
        before = [tokenizer.eot_id] if i and bos is None else first
        end = [tokenizer.eot_id] if i + 1 < len(DOCUMENTS) else []
        tokens = np.array([*before, *tokenizer.encode(document.text), *end], np.int32)
        wanted[document.path] = score_tokens(model, tokens, 4, 2)
    for name, score in files:
        assert score.tokens == len(wanted[name])
        assert score.loss == pytest.approx(wanted[name].mean(), rel=1e-6)
    every = np.concatenate(list(wanted.values()))
    assert total.tokens == len(every)
    assert total.loss == pytest.approx(every.mean(), rel=1e-6)
    worst = [score.bits_per_byte for _, score in files]
    assert worst == sorted(worst, reverse=True)
    assert sorted(name for name, _ in files) == ["a.py", "b.py", "c.py"]


def test_the_score_of_a_file_does_not_depend_on_the_one_before():
    """Catches a row of --per-file predicted from the end of the file before."""
    tokenizer = CharTokenizer.train("abcd")
    model = GPT(GPTConfig(tokenizer.vocab_size, 32, 1, 2, 8), seed=2)
    for parameter in model.parameters():
        parameter.data *= 20
    rows = []
    for before in ("aaaaaaaa", "dcbadcba"):
        documents = [Document("1", before), Document("2", "abcd")]
        rows.append(dict(evaluate_files(model, TokenText.encode(documents, tokenizer))[1])["2"])
    assert rows[0] == rows[1]


def test_a_document_begins_as_the_tokenizer_says():
    """Catches a missing begin token, bytes per token that count it, and one added for our own models."""
    tokenizer = CharTokenizer.train("ab")
    a, b = tokenizer.encode("ab").tolist()
    documents = [Document("1", "ab"), Document("2", "b")]
    plain = TokenText.encode(documents, tokenizer)
    assert (plain.tokens.tolist(), plain.lead) == ([a, b, tokenizer.eot_id, b], 0)
    tokenizer.bos_id = 7
    begun = TokenText.encode(documents, tokenizer)
    assert (begun.tokens.tolist(), begun.lead) == ([7, a, b, tokenizer.eot_id, 7, b], 1)
    one = TokenText.encode(documents[:1], tokenizer)
    model = GPT(GPTConfig(tokenizer.vocab_size, CONTEXT, 1, 2, 8), seed=2)
    for score in (evaluate_files(model, one)[0], evaluate_files(model, one)[1][0][1]):
        # Both bytes are predicted, so bits per byte are the mean over the two.
        assert score.bits_per_byte == pytest.approx(score_tokens(model, one.tokens).sum() / math.log(2) / 2)
    tokenizer.bos_id = tokenizer.eot_id
    assert TokenText.encode(documents, tokenizer).tokens.tolist() == [tokenizer.eot_id, a, b, tokenizer.eot_id, b]


def test_a_file_without_predictions_is_left_out():
    """Catches a row of NaN for a file skipped by --max-tokens."""
    tokenizer = CharTokenizer.train("ab")
    text = TokenText.encode([Document(str(i), "ab" * 20) for i in range(5)], tokenizer)
    model = GPT(GPTConfig(tokenizer.vocab_size, CONTEXT, 1, 2, 8), seed=2)
    total, files = evaluate_files(model, text, CONTEXT)
    assert total.tokens == CONTEXT
    assert [name for name, _ in files] == ["0"]
