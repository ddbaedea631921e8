"""csrc/sampling.pyx against NumPy formulas that sort: filters, penalties, instruction sets."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tinygpt import GPT, GPTConfig
from tinygpt.core import sampling as compiled
from tinygpt.kernels import isa
from tinygpt.sampling import Sampler

NAMES = ("repetition_penalty", "presence_penalty", "frequency_penalty")


class Fixed:
    """A generator whose next number is given."""

    def __init__(self, number):
        self.random = lambda: number


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def penalised(logits, context, repetition=1.0, presence=0.0, frequency=0.0):
    """Logits (V,) after the penalties over a list of tokens, in float32."""
    counts = np.bincount(np.array(context, int), minlength=len(logits))
    x = logits.astype(np.float64)
    changed = np.where(x > 0, x / repetition, x * repetition) - presence - frequency * counts
    return np.where(counts > 0, changed, x).astype(np.float32)


def reference(logits, temperature=1.0, top_k=None, top_p=None, min_p=None):
    """The distribution (V,) in float64."""
    x = logits.astype(np.float64)
    if top_k and top_k < len(x):
        x[x < np.sort(x)[-top_k]] = -np.inf
    if top_p is not None and top_p < 1:
        p = softmax(x)
        order = np.argsort(-p, kind="stable")
        before = np.cumsum(p[order]) - p[order]
        x[order[before >= top_p]] = -np.inf
    if min_p:
        e = np.exp(x - x.max())
        x[e < min_p] = -np.inf
    if temperature == 0:
        return (np.arange(len(x)) == x.argmax()).astype(np.float64)
    with np.errstate(over="ignore"):
        return softmax((x - x.max()) / temperature)


@st.composite
def rows_of_logits(draw):
    """Logits of any spread, with or without ties, some of them -inf; sizes around the block sizes of the code."""
    size = draw(st.sampled_from([1, 2, 7, 15, 16, 17, 255, 256, 257, 1023, 1024, 1025, 2049, 3001]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = rng.standard_normal(size) * draw(st.sampled_from([1e-3, 0.3, 3.0, 300.0]))
    if draw(st.booleans()):
        x = np.round(x * 2) / 2
    x[rng.random(size) < draw(st.sampled_from([0.0, 0.1, 0.99]))] = -np.inf
    x[rng.integers(size)] = rng.standard_normal()
    return x.astype(np.float32)


@settings(max_examples=300, deadline=None)
@example(np.zeros(2049, np.float32), 0.8, 5, 0.5, 0.5)
@example(np.arange(3001, dtype=np.float32), 1.0, 1024, 0.999999, None)
@example(np.full(1025, 3e38, np.float32), 1.0, None, 1e-12, 1.0)
@given(
    rows_of_logits(),
    st.sampled_from([0.0, 1e-3, 0.8, 1.0, 50.0]),
    st.sampled_from([None, 1, 2, 40, 255, 1024, 1025, 3000, 10**12]),
    st.sampled_from([None, 1e-12, 0.1, 0.5, 0.95, 0.999999, 1.0]),
    st.sampled_from([None, 1e-9, 0.05, 0.5, 1.0]),
)
def test_equals_the_formulas(logits, temperature, top_k, top_p, min_p):
    """Catches a pivot, pruning or tail that loses a token, and a tie decided differently.

    Where a sum of probabilities equals top_p up to rounding, either result would be right, so top_p is moved off such
    points.
    """
    if top_p is not None and top_p < 1:
        sums = np.cumsum(np.sort(reference(logits, 1.0, top_k))[::-1])
        while np.abs(sums - top_p).min() < 1e-9 * top_p:
            top_p *= 0.999
    sampler = Sampler(temperature, top_k, top_p, seed=0, min_p=min_p)
    want = reference(logits, temperature, top_k, top_p, min_p)
    got = sampler.probabilities(logits)
    np.testing.assert_array_equal(got > 1e-300, want > 1e-300)
    np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-300)
    sampler.generators = [Fixed(0.37)]
    drawn = int(sampler.draw(logits[None])[0])
    assert want[drawn] > 0
    if temperature > 0:
        below = want[:drawn].sum()
        assert below - 1e-9 <= 0.37 <= below + want[drawn] + 1e-9


@pytest.fixture(params=isa.available())
def each_isa(request):
    """Every instruction set of this machine in turn."""
    before = isa.get()
    isa.use(request.param)
    yield request.param
    isa.use(before)


def test_every_isa_gives_the_same_bits(each_isa):
    """Catches a sum or an exponential whose rounding depends on the instruction set."""
    logits = np.random.default_rng(1).standard_normal(5003).astype(np.float32) * 8
    options = [{}, {"temperature": 0.7}, {"top_k": 40}, {"top_p": 0.9}, {"min_p": 0.01, "temperature": 1.5}]
    got = [Sampler(seed=0, **option).probabilities(logits) for option in options]
    isa.use("scalar")
    for option, bits in zip(options, got, strict=True):
        np.testing.assert_array_equal(Sampler(seed=0, **option).probabilities(logits), bits)


def test_the_exponential(each_isa):
    """Catches a wrong coefficient, part of ln 2 or limit, against NumPy's exp over its whole range."""
    x = np.concatenate([-np.linspace(0, 707.9, 20_011), [-708.1, -1e4, -3e38, -np.inf], -np.logspace(-30, 2, 501)])
    x = x.astype(np.float32)
    want = np.exp(x.astype(np.float64))
    want[x < -708] = 0
    # About ten roundings, and those of the sum. The smallest quotients are subnormal, hence the absolute tolerance.
    np.testing.assert_allclose(Sampler(seed=0).probabilities(x), want / want.sum(), rtol=4e-15, atol=1e-323)


def test_samplers_follow_the_isa_switch(monkeypatch):
    """Catches a module that keeps its first instruction set, for existing samplers."""
    told = []
    monkeypatch.setattr(compiled, "set_isa", told.append)
    Sampler()
    assert told == []
    isa.use(isa.get())
    assert told == [isa.get()]
    isa.follow(compiled)
    isa.use(isa.get())
    assert len(told) == 2, "each switch must arrive once"


def test_an_unknown_isa_is_refused():
    """Catches a null pointer in place of the kernels."""
    with pytest.raises(ValueError, match=r"^\[set_isa\] 'name' must be an instruction set of this build, got 'x'$"):
        compiled.set_isa("x")


@pytest.mark.parametrize("size", [3, 255, 256, 257, 700])
@pytest.mark.parametrize("number", [0.0, 0.5, 1 - 2.0**-53])
def test_the_largest_random_number_gives_a_token(size, number):
    """Catches a sample past the vocabulary, or with probability 0, when rounding affects the end of the sum."""
    rng = np.random.default_rng(size)
    for _ in range(200):
        logits = rng.standard_normal(size).astype(np.float32)
        logits[rng.integers(0, size, size // 2)] = -np.inf
        logits[size - 1] = -np.inf if rng.random() < 0.5 else -700
        logits[1] = 0
        sampler = Sampler(seed=0)
        sampler.generators = [Fixed(number)]
        assert np.isfinite(logits[sampler.draw(logits[None])[0]])


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("context", [[], [0], [3, 3, 1], [2] * 50 + [0] * 3])
@pytest.mark.parametrize(
    "penalties",
    [(1.3, 0.0, 0.0), (0.5, 0.0, 0.0), (1.0, 0.7, 0.0), (1.0, 0.0, 0.3), (1.0, -2.0, 0.5), (1.2, 0.4, 0.1)],
    ids=str,
)
def test_penalties(context, penalties, temperature):
    """Catches a penalty with the wrong sign, order or count, on absent tokens, or after the filters."""
    logits = np.array([1.5, -0.5, 2.0, 0.0, 1.75], np.float32)
    sampler = Sampler(temperature, 3, seed=0, **dict(zip(NAMES, penalties, strict=True)))
    sampler.start(np.array([context], int).reshape(1, -1))
    want = reference(penalised(logits, context, *penalties), temperature, 3)
    np.testing.assert_allclose(sampler.probabilities(logits), want, rtol=1e-12)


def test_penalties_by_hand():
    """Catches a fault that code and reference share: 2 halved and -2 doubled, minus 1, minus n times 0.25."""
    sampler = Sampler(repetition_penalty=2.0, presence_penalty=1.0, frequency_penalty=0.25, seed=0)
    sampler.start([[0, 1, 0]])
    p = sampler.probabilities(np.array([2, -2, 0], np.float32))
    np.testing.assert_allclose(np.log(p / p[2]), [1 - 1 - 0.5, -4 - 1 - 0.25, 0], rtol=1e-12)


def test_sampled_tokens_are_counted():
    """Catches samples that are not counted, counts of the wrong row, and counts kept after `start`."""
    rng = np.random.default_rng(0)
    sampler = Sampler(seed=1, batch=2, repetition_penalty=1.1, frequency_penalty=0.2)
    contexts = [[1, 2], [2, 2]]
    sampler.start(np.array(contexts))
    for _ in range(300):
        logits = (3 * rng.standard_normal((2, 200))).astype(np.float32)
        for row in (0, 1):
            want = reference(penalised(logits[row], contexts[row], 1.1, 0, 0.2))
            np.testing.assert_allclose(sampler.probabilities(logits[row], row), want, rtol=1e-11)
        for row, token in enumerate(sampler.draw(logits)):
            contexts[row].append(int(token))
    assert min(len(set(context)) for context in contexts) > 64  # more than the initial capacity of the list
    sampler.start(np.array([[5], [6]]))
    want = reference(penalised(logits[1], [6], 1.1, 0, 0.2))
    np.testing.assert_allclose(sampler.probabilities(logits[1], 1), want, rtol=1e-11)


def test_a_failed_sample_counts_nothing():
    """Catches a token counted although the call failed and returned none."""
    sampler = Sampler(0.0, batch=2, presence_penalty=9.0)
    with pytest.raises(ValueError, match=r"in row 1$"):
        sampler.draw(np.array([[1, 0], [np.nan, 0]], np.float32))
    assert sampler.draw(np.array([[1, 0], [1, 0]], np.float32)).tolist() == [0, 0]
    assert sampler.draw(np.array([[1, 0], [1, 0]], np.float32)).tolist() == [1, 1]


@pytest.mark.parametrize("penalty", [1e300, -1e300])
def test_penalties_keep_the_limits_of_float32(penalty):
    """Catches a penalty that makes a logit infinite, and a token of -inf that a penalty brings back."""
    sampler = Sampler(seed=0, presence_penalty=penalty)
    sampler.start([[0, 1, 2]])
    assert sampler.probabilities(np.array([1, 2, -np.inf], np.float32)).tolist() == [0.5, 0.5, 0]


@pytest.mark.parametrize("prompt", [1, 4, 6, 9])
def test_penalties_cover_the_visible_context(prompt):
    """Catches a prompt that is not counted, and tokens counted twice or after they left the context."""
    model = GPT(GPTConfig(vocab_size=23, block_size=6, n_layer=1, n_head=2, n_embd=8), seed=1)
    tokens = np.arange(prompt) % 4
    seen, want = list(tokens[-6:]), list(tokens)
    for _ in range(15):
        seen = seen[-3:] if len(seen) > 6 else seen
        logits = model(np.array([seen])).data[0, -1]
        want.append(int(penalised(logits, seen, 1.5, 0.02, 0.05).argmax()))
        seen.append(want[-1])
    got = model.generate(tokens, 15, 0.0, repetition_penalty=1.5, presence_penalty=0.02, frequency_penalty=0.05)
    np.testing.assert_array_equal(got, want)
    assert (model.generate(tokens, 15, 0.0) != want).any()


def test_without_penalties_nothing_is_counted():
    """Catches a context kept without need, which would refuse tokens beyond the logits."""
    sampler = Sampler(seed=0)
    sampler.start([[99]])
    assert sampler.draw(np.zeros((1, 4), np.float32)).shape == (1,)


@pytest.mark.parametrize("token", [-1, 4, 2**40])
def test_a_context_of_another_vocabulary(token):
    """Catches reads and writes outside the logits."""
    sampler = Sampler(seed=0, presence_penalty=1.0)
    sampler.start([[0, token]])
    with pytest.raises(IndexError, match=rf"^\[sample\] 'tokens' must be in 0..3, got {token}$"):
        sampler.draw(np.zeros((1, 4), np.float32))


def test_wrong_numbers_of_rows():
    """Catches a context without a row, and a row without a context."""
    sampler = Sampler(0.0, presence_penalty=1.0)
    with pytest.raises(
        ValueError, match=r"^\[sample\] 'tokens' must have shape \(1, T\), 1 for 'batch', got \(2, 1\)$"
    ):
        sampler.start([[1], [2]])
    with pytest.raises(TypeError, match=r"^\[sample\] 'tokens' must be integers, got float64$"):
        sampler.start([[1.5]])
    with pytest.raises(ValueError, match=r"^\[sample\] 'logits' must have 1 rows \('batch'\), got 2$"):
        sampler.draw(np.zeros((2, 4), np.float32))
    with pytest.raises(IndexError, match=r"^\[sample\] 'row' must be in 0..0, got 1$"):
        sampler.probabilities(np.zeros(4, np.float32), 1)


def test_logits_of_other_shapes():
    """Catches a read past the end of an array with other axes, type or strides, and an empty array."""
    sampler = Sampler(seed=0)
    with pytest.raises(ValueError, match=r"^\[sample\] 'logits' must have shape \(V,\), got \(1, 4\)$"):
        sampler.probabilities(np.zeros((1, 4), np.float32))
    with pytest.raises(ValueError, match=r"^\[sample\] 'logits' must have shape \(B, V\), got \(4,\)$"):
        sampler.draw(np.zeros(4, np.float32))
    with pytest.raises(ValueError, match=r"^\[sample\] 'logits' must be finite at their largest, got -inf in row 0$"):
        sampler.draw(np.empty((1, 0), np.float32))
    wide = np.zeros((2, 8))[:, ::2]
    wide[:, 2] = 1e4
    assert Sampler(seed=0, batch=2).draw(wide).tolist() == [2, 2]
