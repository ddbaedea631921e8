"""The decoding loop and `GPT.generate`. Seeds are fixed, so that results are reproducible."""

import math

import numpy as np
import pytest

from tinygpt import GPT, GPTConfig
from tinygpt.decoding import steps, stream
from tinygpt.sampling import Sampler

CONFIG = GPTConfig(vocab_size=23, block_size=6, n_layer=1, n_head=2, n_embd=8)


@pytest.fixture(scope="module")
def model():
    """A model whose logits differ widely: 50 times the usual initial weights."""
    model = GPT(CONFIG, seed=1)
    for parameter in model.parameters():
        if parameter.decay:
            parameter.data = parameter.data * 50
    return model


def test_rows_do_not_depend_on_the_batch(model):
    """Catches one generator for all rows or one per step, which makes a row depend on its batch."""
    tokens = np.array([[1, 2, 3], [4, 5, 6], [1, 2, 3]])
    together = model.generate(tokens, 9, seed=7)
    assert (together[0] != together[2]).any()  # the same prompt, different random draws
    np.testing.assert_array_equal(model.generate(tokens[:2], 9, seed=7), together[:2])
    np.testing.assert_array_equal(model.generate(tokens[:1], 9, seed=7), together[:1])
    np.testing.assert_array_equal(model.generate(tokens[0], 9, seed=7), together[0])
    assert (model.generate(tokens, 9, seed=8) != together).any()


def test_without_a_seed_runs_differ(model):
    """Catches a constant default seed: generation is random unless a seed is given."""
    runs = {model.generate(np.array([[1]]), 30, temperature=5.0).tobytes() for _ in range(3)}
    assert len(runs) == 3


@pytest.mark.parametrize("prompt", [1, 3, 6, 9])
def test_overflow_keeps_the_newest_half(model, prompt):
    """Catches generation that stops at the context length, keeps the wrong tokens, or mixes old positions."""
    tokens = np.arange(prompt) % CONFIG.vocab_size
    seen = list(tokens[-6:])
    want = list(tokens)
    length = len(seen)
    for _ in range(15):
        if length > 6:
            seen = seen[-3:]
            length = 3
        token = int(model(np.array([seen])).data[0, -1].argmax())
        seen.append(token)
        want.append(token)
        length += 1
    np.testing.assert_array_equal(model.generate(tokens, 15, temperature=0), want)


def test_context_of_one():
    """Catches an empty context, which is half of one."""
    model = GPT(GPTConfig(vocab_size=5, block_size=1, n_layer=1, n_head=1, n_embd=4))
    assert model.generate(np.array([[1, 2]]), 4, seed=0).shape == (1, 6)


def test_stream_gives_a_token_at_a_time(model):
    """Catches a stream that computes everything before its first token, or records a tape for its consumer."""
    steps = stream(model, np.array([[1], [2]]), 10**9, Sampler(temperature=0))
    first = next(steps)
    assert first.shape == (2,)
    assert first.dtype == np.int32
    assert model(np.array([[1]])).requires_grad  # recording is on between two tokens


def test_result_holds_the_prompt(model):
    """Catches prompts that are truncated, changed, or kept in a type too small for new tokens."""
    for tokens in (np.array([[1, 2]]), np.array([[1, 2]], np.int32), np.array([1, 2], np.uint16), [[1, 2]], [1, 2]):
        out = model.generate(tokens, 3, seed=0)
        assert out.ndim == np.ndim(tokens)
        assert out.shape[-1] == 5
        assert out[..., :2].tolist() == np.asarray(tokens).tolist()
    np.testing.assert_array_equal(model.generate(np.array([[1, 2]]), 0), [[1, 2]])


def test_prompt_of_bytes_in_a_larger_vocabulary():
    """Catches new tokens above 255 that wrap around in a uint8 prompt."""
    model = GPT(GPTConfig(vocab_size=1000, block_size=8, n_layer=1, n_head=1, n_embd=4))
    prompt = np.frombuffer(b"def ", np.uint8)
    out = model.generate(prompt, 8, seed=0)
    np.testing.assert_array_equal(out, model.generate(prompt.astype(np.int64), 8, seed=0))
    assert out.max() > 255


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"temperature": -1.0}, "[sample] 'temperature' must be 0 or more, got -1.0"),
        ({"temperature": math.nan}, "[sample] 'temperature' must be 0 or more, got nan"),
        ({"temperature": math.inf}, "[sample] 'temperature' must be 0 or more, got inf"),
        ({"top_k": -1}, "[sample] 'top_k' must be 0 (all) or more, got -1"),
        ({"top_p": 0.0}, "[sample] 'top_p' must be more than 0 and at most 1, got 0.0"),
        ({"top_p": 1.5}, "[sample] 'top_p' must be more than 0 and at most 1, got 1.5"),
        ({"min_p": -0.1}, "[sample] 'min_p' must be at least 0 and at most 1, got -0.1"),
        ({"min_p": math.nan}, "[sample] 'min_p' must be at least 0 and at most 1, got nan"),
        ({"repetition_penalty": 0.0}, "[sample] 'repetition_penalty' must be more than 0, got 0.0"),
        ({"repetition_penalty": math.inf}, "[sample] 'repetition_penalty' must be more than 0, got inf"),
        ({"presence_penalty": math.nan}, "[sample] 'presence_penalty' must be finite, got nan"),
        ({"frequency_penalty": math.inf}, "[sample] 'frequency_penalty' must be finite, got inf"),
        ({"seed": -1}, "[sample] 'seed' must be 0 or more, got -1"),
        ({"max_new_tokens": -1}, "[generate] 'max_new_tokens' must be 0 or more, got -1"),
        (
            {"tokens": np.empty((2, 0), int)},
            "[generate] 'tokens' must hold at least one token per row, got shape (2, 0)",
        ),
        ({"tokens": []}, "[generate] 'tokens' must hold at least one token per row, got shape (1, 0)"),
    ],
    ids=str,
)
def test_invalid_settings(model, settings, text):
    """Catches settings that would give NaN, an empty set of tokens, or an error from deep inside."""
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the text is compared
        model.generate(**{"tokens": np.array([[1]]), "max_new_tokens": 1, **settings})
    assert str(error.value) == text


def test_invalid_tokens(model):
    """Catches floats truncated to ids, ids past the vocabulary, and a sampler for a different number of rows."""
    with pytest.raises(TypeError, match=r"^\[generate\] 'tokens' must be integers, got float64$"):
        model.generate(np.array([[1.5]]), 1)
    with pytest.raises(IndexError, match=r"^\[GPT\] 'tokens' must be in 0..22, got 23$"):
        model.generate(np.array([[23]]), 1)
    with pytest.raises(ValueError, match=r"^\[sample\] 'logits' must have 1 rows \('batch'\), got 3$"):
        list(stream(model, np.array([[1], [2], [3]]), 1, Sampler(seed=0)))


def test_a_cache_may_hold_the_beginning(model):
    """Catches tokens read twice, at the wrong position or never, and penalties that ignore them."""
    tokens = np.array([[1, 2, 3, 4]])
    for penalty in (0.0, 3.0):
        want = list(stream(model, tokens, 2, Sampler(0, frequency_penalty=penalty)))
        cache = model.new_cache(1)
        list(steps(model, tokens[:, :2], 1, Sampler(0), cache))
        assert cache.length == 2
        got = list(steps(model, tokens, 2, Sampler(0, frequency_penalty=penalty), cache))
        assert [step.tokens.tolist() for step in got] == [one.tolist() for one in want]
        assert cache.length == 5  # the last token was sampled but not read
    for wrong in (tokens[:, :2], np.arange(7)[None]):
        cache.length = 2
        with pytest.raises(
            ValueError, match="'tokens' must be more than the 2 in the cache and at most the context of 6"
        ):
            next(steps(model, wrong, 1, Sampler(0), cache))


def test_logits_come_with_the_tokens(model):
    """Catches logits of the wrong step, and logits after the penalties."""
    seen = [1, 2]
    for step in steps(model, np.array([seen]), 4, Sampler(0, presence_penalty=5.0)):
        np.testing.assert_allclose(step.logits[0], model(np.array([seen])).data[0, -1], rtol=1e-4, atol=1e-4)
        seen.append(int(step.tokens[0]))
