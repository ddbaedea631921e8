"""The engine: continuous batching that no request notices, limits, and the end of a server."""

import threading
import time

import numpy as np
import pytest

from tinygpt.decoding import steps
from tinygpt.kernels import isa, registry
from tinygpt.sampling import Sampler
from tinygpt.serve.engine import CHUNK, Busy, Closed, Engine
from tinygpt.serve.sequence import Finished

from .models import KINDS, TEXT, TOKENIZER, ask, small

PROMPTS = ["d", "def", "def add(a, b", TEXT[:40], TEXT[:41], TEXT, "for i in", TEXT[20:70], "\n", "    return a + b"]


def asked(i, **more):
    return ask(PROMPTS[i % len(PROMPTS)], length=5 + i % 13, seed=i, top=2, **more)


def alone(model, i, **more):
    """The events of one request that has an engine to itself."""
    with Engine(model, TOKENIZER) as engine:
        request, heard = asked(i, **more)
        engine.submit(request)
        return heard.until_end()


@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_request_does_not_notice_the_others(kind, weights):
    """Catches a path of a kernel, a position, or a cached prefix that depends on the company, in any bit."""
    model = small(kind, weights)
    want = [alone(model, i) for i in range(22)]
    with Engine(model, TOKENIZER, batch=20) as engine:
        both = []
        for i in range(22):
            request, heard = asked(i)
            engine.submit(request)
            both.append(heard)
            time.sleep(0.001 * (i % 3))
        got = [heard.until_end() for heard in both]
        again = [asked(i) for i in range(22)]  # now their prompts are in the prefix cache
        engine.submit(*[request for request, _ in again])
        later = [heard.until_end() for _, heard in again]
        assert engine.counters.cached > 0
    for i in range(22):
        assert got[i][:-1] == want[i][:-1], PROMPTS[i % len(PROMPTS)]
        assert later[i][:-1] == want[i][:-1], PROMPTS[i % len(PROMPTS)]


@pytest.fixture
def restored_isa():
    """The instruction set as it was."""
    before = isa.get()
    yield
    isa.use(before)


@pytest.mark.parametrize("name", isa.available())
@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_on_every_instruction_set(restored_isa, name, weights):
    """Catches kernels of an instruction set that change their path at other numbers of rows."""
    isa.use(name)
    model = small("llama", weights)
    want = [alone(model, i) for i in range(18)]
    with Engine(model, TOKENIZER) as engine:
        both = [asked(i) for i in range(18)]
        engine.submit(*[request for request, _ in both])
        assert [heard.until_end()[:-1] for _, heard in both] == [one[:-1] for one in want]


@pytest.mark.parametrize("rung", ["naive", "blocked"])
def test_other_rungs_too(rung):
    """Catches a rung whose rows depend on each other."""
    model = small("llama")
    with registry.use(rung):
        test = [alone(model, i) for i in (1, 5, 7)]
        with Engine(model, TOKENIZER) as engine:
            both = [asked(i) for i in (1, 5, 7)]
            engine.submit(*[request for request, _ in both])
            assert [heard.until_end()[:-1] for _, heard in both] == [one[:-1] for one in test]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_same_tokens_as_one_text_at_a_time(kind):
    """Catches other tokens than those of `tinygpt generate` with the same seed and settings, up to the full context."""
    model = small(kind)
    with Engine(model, TOKENIZER) as engine:
        for i, prompt in enumerate(PROMPTS):
            ids = TOKENIZER.prompt(prompt)
            request, heard = ask(prompt, length=200, seed=i)
            engine.submit(request)
            room = model.config.block_size - len(ids) + 1
            want = []
            for step in steps(model, ids[None], room, Sampler(1.0, seed=i)):
                if int(step.tokens[0]) in TOKENIZER.end_ids:
                    break
                want.append(int(step.tokens[0]))
            assert heard.tokens == want
            assert heard.end.reason == ("length" if len(want) == room else "stop")
            assert heard.text == TOKENIZER.decode(want)


def test_long_prompts_are_read_in_chunks():
    """Catches chunks that lose, repeat or misplace tokens, and a last chunk on another path of attention."""
    model = small("llama", block_size=3 * CHUNK)
    rng = np.random.default_rng(0)
    for n in (CHUNK - 1, CHUNK + 1, CHUNK + 4, CHUNK + 5, 2 * CHUNK + 3):
        ids = rng.integers(0, TOKENIZER.vocab_size - 1, n)
        with Engine(model, TOKENIZER) as engine:
            request, heard = ask(ids, length=3, temperature=0)
            other, theirs = ask(TEXT, length=30)
            engine.submit(other, request)
            theirs.until_end()
            want = model.generate(ids, len(heard.tokens), temperature=0)[n:]
            assert heard.tokens == want.tolist()


def test_stop_strings_and_lengths():
    """Catches a stop string in the text, text after it, and a length that is one off."""
    with Engine(small(), TOKENIZER) as engine:
        request, heard = ask("def add", length=40)
        engine.submit(request)
        text = heard.text
        stop = text[10:13]
        request, stopped = ask("def add", length=40, stop=(stop,))
        short, five = ask("def add", length=5)
        engine.submit(request, short)
        assert stopped.text == text[: text.index(stop)]
        assert stopped.end.reason == "stop"
        assert (len(five.tokens), five.end.reason, five.end.generated) == (5, "length", 5)


def test_several_choices_share_their_prompt():
    """Catches choices that read the same prompt again."""
    with Engine(small(), TOKENIZER) as engine:
        first, one = ask(TEXT, length=3)
        second, two = ask(TEXT, length=3, seed=1, after=first)
        engine.submit(first, second)
        assert (one.end.cached, two.end.cached) == (0, len(first.ids) - 5)


def blocked(engine):
    """Fill the batch of an engine with one request that runs until it is cancelled."""
    release = threading.Event()

    def wait(event):
        heard(event)
        release.wait(20)

    request, heard = ask(length=90)
    request.emit = wait
    engine.submit(request)
    heard.pieces(1)
    return request, heard, release


def test_a_full_queue_refuses():
    """Catches a queue without bound, and a part of several requests that is accepted."""
    with Engine(small(), TOKENIZER, batch=1, queue=2) as engine:
        request, _, release = blocked(engine)
        waiting = [ask(length=1) for _ in range(4)]
        with pytest.raises(Busy, match="0 requests are waiting"):
            engine.submit(*[one for one, _ in waiting[:3]])
        engine.submit(*[one for one, _ in waiting[:2]])
        with pytest.raises(Busy, match="2 requests are waiting"):
            engine.submit(waiting[2][0])
        assert engine.counters.rejected == 4
        request.cancel()
        release.set()
        assert [heard.end.reason for _, heard in waiting[:2]] == ["length", "length"]


def test_cancelled_within_a_token():
    """Catches generation that goes on for a reader who is gone, while running or while waiting."""
    with Engine(small(), TOKENIZER, batch=1) as engine:
        request, heard, release = blocked(engine)
        waiting, never = ask()
        engine.submit(waiting)
        waiting.cancel()
        request.cancel()
        release.set()
        assert heard.end.reason == never.end.reason == "cancelled"
        assert heard.end.generated <= 2
        assert never.end.generated == 0


def test_deadlines():
    """Catches a deadline that does not end a text, or one that waits for a place first."""
    with Engine(small(), TOKENIZER, batch=1) as engine:
        request, heard, release = blocked(engine)
        request.deadline = time.monotonic() + 0.05
        waiting, never = ask(deadline=request.deadline)
        engine.submit(waiting)
        time.sleep(0.1)
        release.set()
        assert heard.end.reason == never.end.reason == "timeout"
        assert never.end.generated == 0


def test_close_lets_texts_finish_or_ends_them():
    """Catches a shutdown that drops running texts at once, hangs, or accepts more."""
    engine = Engine(small(), TOKENIZER)
    request, heard = ask(length=10)
    engine.submit(request)
    engine.close(grace=20)
    assert heard.end.reason in ("length", "stop")
    with pytest.raises(Closed):
        engine.submit(request)
    engine = Engine(small(), TOKENIZER)
    request, heard, release = blocked(engine)
    threading.Timer(0.1, release.set).start()
    engine.close(grace=0.01)
    assert heard.end.reason == "shutdown"


def test_memory_is_bounded():
    """Catches caches that are admitted beyond the limit, and prefixes that are never dropped for new requests."""
    model = small()
    with Engine(model, TOKENIZER, cache_bytes=0) as engine:
        assert engine.cache_tokens == 96
        most, both = 0, []
        for i in range(12):
            request, heard = ask(TEXT[i : i + 50], length=30, seed=i)
            held = []
            request.emit = lambda event, heard=heard, held=held: (held.append(engine._held()), heard(event))
            engine.submit(request)
            both.append((heard, held))
        for heard, held in both:
            heard.until_end()
            most = max(most, *held)
        assert 79 <= most <= 96
        assert engine.counters.finished.total() == 12


def test_logits_that_are_not_finite_end_one_text():
    """Catches a broken model that ends the server, and an error without words."""
    model = small()
    model.wte.weight.data[TOKENIZER.encode("x")[0] if "x" in TEXT else 0] = np.nan
    with Engine(model, TOKENIZER) as engine:
        request, heard = ask()
        engine.submit(request)
        assert heard.end == Finished("error", "", len(request.ids), 0, 0, "the model's logits are NaN or infinite")
        assert not engine.failed


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_model_that_raises_ends_all_texts():
    """Catches requests that wait for ever when the thread of the engine has died."""
    engine = Engine(small(), TOKENIZER)
    engine.model.norm = None
    request, heard = ask()
    engine.submit(request)
    assert heard.end.reason == "error"
    engine._thread.join()
    assert engine.failed
    with pytest.raises(Closed, match="the model failed"):
        engine.submit(request)


def test_watched():
    """Catches attention or probabilities of another token, and bits that change because somebody watches."""
    model = small("llama")
    plain = alone(model, 2)
    watched = alone(model, 2, watch=True)
    ids = TOKENIZER.prompt(PROMPTS[2])
    assert [(one.token, one.logprob, one.top) for one in watched[:-1]] == [
        (one.token, one.logprob, one.top) for one in plain[:-1]
    ]
    seen = np.concatenate([ids, [one.token for one in watched[:-1]]])
    shape = (1, 4, len(seen), len(seen))
    weights = [np.empty(shape, np.float32) for _ in range(2)]
    model.hidden(seen[None], weights=weights)
    for i, piece in enumerate(watched[:-1]):
        n = len(ids) + i
        want = [w[0, :, n - 1, :n].mean(0) for w in weights]
        np.testing.assert_allclose(piece.watched.attention, want, atol=1e-4)
        np.testing.assert_allclose(piece.watched.chosen, np.exp(piece.logprob), rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prompt": []}, r"\[Engine\] 'ids' must be 1 to 96 tokens, got 0"),
        ({"prompt": [0] * 97}, r"\[Engine\] 'ids' must be 1 to 96 tokens, got 97"),
        ({"prompt": [10**6]}, r"\[Engine\] 'ids' must be in 0\.\.\d+"),
        ({"length": 0}, r"\[Engine\] 'length' must be at least 1, got 0"),
    ],
)
def test_requests_are_checked(fields, words):
    """Catches a request that fails in the thread of the engine, where it would end all others."""
    with Engine(small(), TOKENIZER) as engine, pytest.raises((ValueError, IndexError), match=words):
        engine.submit(ask(**fields)[0])
