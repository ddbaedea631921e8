"""The distribution that tokens are sampled from. Seeds are fixed, so that results are reproducible."""

import math

import numpy as np
import pytest

from tinygpt.sampling import Sampler, logprobs, most_likely

LOGITS = np.log(np.array([0.4, 0.05, 0.25, 0.3], np.float32))


@pytest.mark.parametrize(
    ("settings", "want"),
    [
        ({}, [0.4, 0.05, 0.25, 0.3]),
        ({"temperature": 0.5}, [0.16, 0.0025, 0.0625, 0.09]),
        ({"temperature": 2.0}, [0.4**0.5, 0.05**0.5, 0.25**0.5, 0.3**0.5]),
        ({"top_k": 1}, [1, 0, 0, 0]),
        ({"top_k": 2}, [0.4, 0, 0, 0.3]),
        ({"top_k": 9}, [0.4, 0.05, 0.25, 0.3]),
        ({"top_k": 0}, [0.4, 0.05, 0.25, 0.3]),
        ({"top_p": 0.01}, [1, 0, 0, 0]),
        ({"top_p": 0.39}, [1, 0, 0, 0]),
        ({"top_p": 0.41}, [0.4, 0, 0, 0.3]),
        ({"top_p": 0.69}, [0.4, 0, 0, 0.3]),
        ({"top_p": 0.71}, [0.4, 0, 0.25, 0.3]),
        ({"top_p": 1.0}, [0.4, 0.05, 0.25, 0.3]),
        # top-k comes first: of the remaining 0.4 and 0.3, the first has 4/7
        ({"top_k": 2, "top_p": 0.55}, [1, 0, 0, 0]),
        ({"top_k": 2, "top_p": 0.58}, [0.4, 0, 0, 0.3]),
        ({"min_p": 0.0}, [0.4, 0.05, 0.25, 0.3]),
        ({"min_p": 0.6}, [0.4, 0, 0.25, 0.3]),
        ({"min_p": 0.7}, [0.4, 0, 0, 0.3]),
        ({"min_p": 1.0}, [1, 0, 0, 0]),
        ({"min_p": 0.7, "temperature": 100.0}, [0.4**0.01, 0, 0, 0.3**0.01]),
        # temperature comes last: top-p filters the model's own probabilities
        ({"top_p": 0.69, "temperature": 0.1}, [0.4**10, 0, 0, 0.3**10]),
        ({"top_p": 0.41, "temperature": 100.0}, [0.4**0.01, 0, 0, 0.3**0.01]),
    ],
    ids=str,
)
def test_distribution(settings, want):
    """Catches filters in the wrong order, a set that is one too small or large, and missing renormalisation."""
    got = Sampler(**settings, seed=0).probabilities(LOGITS)
    np.testing.assert_allclose(got, np.array(want) / np.sum(want), atol=1e-6)
    assert got.dtype == np.float64


def test_ties_of_top_k():
    """Catches a tie broken by position: equal logits are equally likely."""
    logits = np.array([1, 3, 2, 2, 2, 0], np.float32)
    kept = Sampler(top_k=2, seed=0).probabilities(logits) > 0
    assert kept.tolist() == [False, True, True, True, True, False]


def test_top_p_is_the_smallest_set():
    """Catches a set below the probability, and one that reaches it without its last member."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        logits = rng.standard_normal(30).astype(np.float32) * 3
        p = np.sort(np.exp(logits.astype(float)))[::-1]
        p /= p.sum()
        top_p = rng.uniform(0.01, 0.99)
        count = int((Sampler(top_p=top_p, seed=0).probabilities(logits) > 0).sum())
        assert p[:count].sum() >= top_p - 1e-12
        assert count == 1 or p[: count - 1].sum() < top_p + 1e-12


def test_top_p_with_equal_probabilities():
    """Catches a set with all of several equal tokens where some are enough."""
    kept = Sampler(top_p=0.5, seed=0).probabilities(np.zeros(8, np.float32)) > 0
    assert kept.tolist() == [True] * 4 + [False] * 4


def test_samples_follow_the_distribution():
    """Catches a shifted index and biased sampling, by a chi-square test of 20,000 samples.

    With 3 degrees of freedom, 16.3 is exceeded for one seed in a thousand; the seed is fixed.
    """
    n = 20_000
    sampler = Sampler(seed=3, batch=1)
    counts = np.bincount([int(sampler.draw(LOGITS[None])[0]) for _ in range(n)], minlength=4)
    want = n * np.exp(LOGITS.astype(float))
    assert ((counts - want) ** 2 / want).sum() < 16.3


class Fixed:
    """A generator whose next number is given."""

    def __init__(self, number):
        self.random = lambda: number


@pytest.mark.parametrize("number", [0.0, 0.25, 0.5, 0.75, 1 - 2.0**-53])
def test_filtered_tokens_are_never_sampled(number):
    """Catches a sample with probability zero: before, between or after the remaining tokens."""
    logits = np.full(9, -np.inf, np.float32)
    logits[[2, 6]] = 0
    sampler = Sampler(seed=0, batch=1)
    sampler.generators = [Fixed(number)]
    assert sampler.draw(logits[None]).tolist() == [2 if number < 0.5 else 6]


def test_temperature_zero_takes_the_first_of_the_largest():
    """Catches greedy decoding that divides by zero, samples, or takes the last of equal logits."""
    logits = np.array([[0, 5, 5, 1], [9, 0, 0, 0]], np.float32)
    drawn = Sampler(temperature=0).draw(logits)
    assert drawn.tolist() == [1, 0]
    assert drawn.dtype == np.int32


@pytest.mark.parametrize("temperature", [1e-5, 1e-200, 1e-310])
def test_tiny_temperature_is_greedy(temperature):
    """Catches inf - inf, which gives NaN instead of probabilities."""
    np.testing.assert_array_equal(Sampler(temperature, seed=0).probabilities(LOGITS), [1, 0, 0, 0])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("row", [[0, np.nan, 1, 2], [0, np.inf, 1, 2], [-np.inf] * 4, [-np.inf, 0, np.nan, 1]], ids=str)
@pytest.mark.filterwarnings("error")
def test_invalid_logits(temperature, row):
    """Catches a diverged model that still gives tokens, even one past the vocabulary."""
    sampler = Sampler(temperature, top_k=2, seed=0, batch=2)
    with pytest.raises(ValueError, match=r"^\[sample\] 'logits' must be finite at their largest, got .* in row 1$"):
        sampler.draw(np.array([[0, 1, 2, 3], row], np.float32))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_impossible_tokens(temperature):
    """Catches a mask of -inf that is refused, or whose tokens are sampled."""
    sampler = Sampler(temperature, seed=0)
    logits = np.array([[-np.inf, 0, -np.inf, 0.5]], np.float32)
    assert {int(sampler.draw(logits)[0]) for _ in range(50)} <= {1, 3}


def test_rows_may_have_numbers():
    """Catches a row that uses its place in the batch instead of its own number."""
    logits = np.zeros((3, 50), np.float32)
    rows = [Sampler(seed=4, batch=9).draw(np.zeros((9, 50), np.float32))[i] for i in (7, 0, 2)]
    np.testing.assert_array_equal(Sampler(seed=4, batch=[7, 0, 2]).draw(logits), rows)
    with pytest.raises(ValueError, match="'batch' must be numbers of rows, 0 or more, got -1"):
        Sampler(batch=[0, -1])


def test_logprobs_by_hand():
    """Catches a logarithm of the wrong base, a sum that overflows, and unordered ties."""
    np.testing.assert_allclose(logprobs(LOGITS), np.log([0.4, 0.05, 0.25, 0.3]), rtol=1e-6)
    np.testing.assert_allclose(logprobs(np.array([1e30, 1e30, -np.inf])), [-math.log(2), -math.log(2), -np.inf])
    assert [token for token, _ in most_likely(LOGITS, 3)] == [0, 3, 2]
    assert [token for token, _ in most_likely(np.array([1, 3, 2, 3, 2, 2.0]), 4)] == [1, 3, 2, 4]
    assert len(most_likely(LOGITS, 9)) == 4
    assert most_likely(LOGITS, 0) == []
