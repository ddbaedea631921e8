"""The endpoints over HTTP: what clients of OpenAI's API and of llama.cpp send and read."""

import json
import threading
import time

import numpy as np
import pytest

from tinygpt.chat.conversation import MessageEncoder
from tinygpt.chat.template import ChatTemplate
from tinygpt.data.infilling import NAMES
from tinygpt.generate import gap, stream_text
from tinygpt.sampling import Sampler
from tinygpt.serve.guard import MAX_BODY
from tinygpt.tokenizers import CharTokenizer

from .client import served, until
from .models import TEXT, TOKENIZER, small

TEMPLATE = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}a:"


@pytest.fixture(scope="module")
def client():
    encoder = MessageEncoder(TOKENIZER, ChatTemplate(TEMPLATE))
    with served(encoder=encoder) as client:
        yield client


@pytest.fixture(scope="module")
def filler():
    """A server of a model with fill-in-the-middle tokens."""
    tokenizer = CharTokenizer.train(TEXT, special_tokens=NAMES)
    model = small(vocab_size=tokenizer.vocab_size)
    with served(model, tokenizer) as client:
        yield client


def text_of(prompt, length, seed, number=0, **more):
    """The text that `tinygpt generate` would print."""
    sampler = Sampler(seed=seed, batch=[number], **more)
    return "".join(stream_text(small(), TOKENIZER, prompt, length, sampler))


def test_a_completion(client):
    """Catches another text than that of the seed, wrong counts and a wrong form."""
    found = client.get("/v1/completions", {"model": "tiny", "prompt": "def add", "max_tokens": 9, "seed": 3})
    assert found["object"] == "text_completion"
    assert found["model"] == "tiny"
    [choice] = found["choices"]
    assert choice["text"] == text_of("def add", 9, 3)
    assert choice["finish_reason"] == "length"
    assert found["usage"]["prompt_tokens"] == 7
    assert found["usage"]["completion_tokens"] == 9
    assert found["usage"]["total_tokens"] == 16


def test_several_prompts_and_choices(client):
    """Catches choices in another order, and generators that choices share."""
    body = {"prompt": ["def add", "for i"], "n": 2, "max_tokens": 5, "seed": 3}
    texts = [choice["text"] for choice in client.get("/v1/completions", body)["choices"]]
    assert texts == [text_of("def add" if i < 2 else "for i", 5, 3, i) for i in range(4)]
    ids = client.get("/v1/completions", {**body, "prompt": TOKENIZER.encode("def add").tolist(), "n": 1})
    assert ids["choices"][0]["text"] == texts[0]


def test_a_stream_is_the_whole_in_parts(client):
    """Catches a stream that loses text, log-probabilities, its end or its usage."""
    body = {"prompt": TEXT[:30], "max_tokens": 20, "seed": 1, "logprobs": 2, "n": 2}
    whole = client.get("/v1/completions", body)
    events = list(client.events("/v1/completions", {**body, "stream": True, "stream_options": {"include_usage": True}}))
    assert events.pop() == "[DONE]"
    last = events.pop()
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    for want in whole["choices"]:
        parts = [one["choices"][0] for one in events if one["choices"][0]["index"] == want["index"]]
        assert "".join(part["text"] for part in parts) == want["text"]
        assert [part["finish_reason"] for part in parts if part["finish_reason"]] == [want["finish_reason"]]
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            joined = [x for part in parts if part["logprobs"] for x in part["logprobs"][name]]
            assert joined == want["logprobs"][name]


def test_stop_and_greedy(client):
    """Catches stop strings or a temperature of 0 that do not arrive at the sampler."""
    text = text_of("def add", 30, 0, temperature=0)
    body = {"prompt": "def add", "max_tokens": 30, "temperature": 0}
    assert client.get("/v1/completions", body)["choices"][0]["text"] == text
    [choice] = client.get("/v1/completions", {**body, "stop": [text[4:6], "never"]})["choices"]
    assert choice["text"] == text[: text.index(text[4:6])]
    assert choice["finish_reason"] == "stop"


def test_a_chat(client):
    """Catches a template that is not applied, and another form than that of chats."""
    messages = [{"role": "user", "content": "hi"}]
    parts = [{"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]}]
    body = {"messages": messages, "max_tokens": 8, "seed": 5, "logprobs": True, "top_logprobs": 1, "temperature": 0.7}
    found = client.get("/v1/chat/completions", body)
    [choice] = found["choices"]
    assert found["object"] == "chat.completion"
    assert choice["message"]["content"] == text_of("u:hi\na:", 8, 5, temperature=0.7)
    assert choice["message"]["role"] == "assistant"
    assert len(choice["logprobs"]["content"]) == 8
    first = choice["logprobs"]["content"][0]
    assert first["logprob"] <= first["top_logprobs"][0]["logprob"]
    again = client.get("/v1/chat/completions", {**body, "messages": parts})
    assert again["choices"] == found["choices"]
    events = list(client.events("/v1/chat/completions", {**body, "stream": True}))
    assert events.pop() == "[DONE]"
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    said = "".join(one["choices"][0]["delta"].get("content", "") for one in events)
    assert said == choice["message"]["content"]


def test_an_answer_may_fill_the_context(client):
    """Catches a chat without a length that is refused, or that ends at another place than the context."""
    found = client.get("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "seed": 0})
    used = found["usage"]
    assert used["total_tokens"] == 97 or found["choices"][0]["finish_reason"] == "stop"


LLAMA_VIM = {
    "id_slot": 0,
    "input_prefix": "def add(a, b):\n",
    "input_suffix": "\n\nfor i in range(10):\n",
    "input_extra": [{"filename": "a.py", "text": "x"}],
    "prompt": "    return ",
    "n_predict": 12,
    "stop": [],
    "n_indent": 4,
    "top_k": 40,
    "top_p": 0.90,
    "samplers": ["top_k", "top_p", "infill"],
    "stream": False,
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 10000,
    "response_fields": [
        "content",
        "timings/prompt_n",
        "timings/prompt_ms",
        "timings/prompt_per_token_ms",
        "timings/prompt_per_second",
        "timings/predicted_n",
        "timings/predicted_ms",
        "timings/predicted_per_token_ms",
        "timings/predicted_per_second",
        "truncated",
        "tokens_cached",
    ],
}


def test_infill_as_llama_vim_speaks_it(filler):
    """Catches a field that the plug-in sends or reads, and another prompt than that of training."""
    found = filler.get("/infill", LLAMA_VIM)
    assert set(found) == set(LLAMA_VIM["response_fields"])
    engine = filler.engine
    asked = gap(engine.tokenizer, "def add(a, b):\n    return ", LLAMA_VIM["input_suffix"], 12, 96)
    model = small(vocab_size=engine.tokenizer.vocab_size)
    new = model.generate(asked.ids, 12, temperature=0)[len(asked.ids) :]
    assert found["content"] == engine.tokenizer.decode(new)
    assert found["timings/predicted_n"] == 12
    assert found["truncated"] is False
    whole = filler.get("/infill", {**LLAMA_VIM, "response_fields": None})
    assert whole["content"] == found["content"]
    assert whole["tokens_evaluated"] == len(asked.ids)
    events = list(filler.events("/infill", {**LLAMA_VIM, "stream": True}))
    assert "".join(one["content"] for one in events) == found["content"]
    assert [one["stop"] for one in events] == [False] * (len(events) - 1) + [True]


def test_infill_that_only_warms_the_cache(filler):
    """Catches a request for no tokens, which the plug-in sends ahead, that draws some or fails."""
    found = filler.get("/infill", {**LLAMA_VIM, "n_predict": 0, "response_fields": None})
    assert (found["content"], found["tokens_predicted"]) == ("", 0)
    nothing = {"input_extra": [], "n_predict": 0, "t_max_prompt_ms": 1, "t_max_predict_ms": 1, "response_fields": [""]}
    assert filler.get("/infill", nothing) == {}


def test_a_completion_with_a_suffix_fills_the_gap(filler, client):
    """Catches a suffix that is forgotten, and one that a model without markers seems to accept."""
    body = {"prompt": LLAMA_VIM["input_prefix"] + LLAMA_VIM["prompt"], "max_tokens": 12, "temperature": 0}
    found = filler.get("/v1/completions", {**body, "suffix": LLAMA_VIM["input_suffix"]})
    assert found["choices"][0]["text"] == filler.get("/infill", LLAMA_VIM)["content"]
    assert (
        "no tokens for fill-in-the-middle"
        in client.get("/v1/completions", {**body, "suffix": "x"}, 400)["error"]["message"]
    )
    assert "fim_rate" in client.get("/infill", LLAMA_VIM, 400)["error"]["message"]


def test_models_health_and_metrics(client):
    """Catches a model that is not listed, a health that cannot fail, and metrics that Prometheus cannot read."""
    [card] = client.get("/v1/models")["data"]
    assert (card["id"], card["object"]) == ("tiny", "model")
    assert client.get("/v1/models/tiny") == card
    assert client.get("/v1/models/other", status=404)["error"]["code"] == "model_not_found"
    assert client.get("/health") == {"status": "ok"}
    client.engine.failed = True
    assert client.get("/health", status=503) == {"status": "error"}
    client.engine.failed = False
    with client.send("/metrics") as response:
        lines = response.read().decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert int(values["tinygpt_generated_tokens_total"]) > 0
    assert int(values['tinygpt_requests_total{reason="length"}']) > 0
    assert all(line.split(" ")[1] in ("HELP", "TYPE") for line in lines if line.startswith("#"))


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"prompt": "x" * 97}, 400, "the prompt has 97 tokens, and the context of the model 96"),
        ({"prompt": [10**6]}, 400, "'prompt' must have token ids in 0 to"),
        ({"prompt": 5}, 400, "'prompt' must be a string, token ids, or a list"),
        ({"prompt": []}, 400, "'prompt' must be"),
        ({"prompt": "\ud800"}, 400, "'prompt' must be"),
        ({"max_tokens": 0}, 400, "'max_tokens' must be at least 1"),
        ({"max_tokens": True}, 400, "'max_tokens' must be an integer, got true"),
        ({"temperature": -1}, 400, "'temperature' must be 0 to 100, got -1"),
        ({"temperature": "hot"}, 400, "'temperature' must be a number, got 'hot'"),
        ({"top_p": 0}, 400, "'top_p' must be"),
        ({"n": 17}, 400, "'n' must be 1 to 16, got 17"),
        ({"n": 16, "prompt": ["x"] * 9}, 400, "the request asks for 144 texts, and the server takes at most 128"),
        ({"stop": ""}, 400, "'stop' must be a string or up to 16 strings"),
        ({"seed": -1}, 400, "'seed' must be"),
        ({"logit_bias": {"5": 1}}, 400, "unknown or unsupported field 'logit_bias'"),
        ({"model": "gpt-4"}, 404, "the model 'gpt-4' does not exist; this server has 'tiny'"),
    ],
)
def test_bad_bodies_are_refused(client, body, status, words):
    """Catches a wrong value that is accepted, that ends in a traceback, or whose error does not name it."""
    error = client.get("/v1/completions", {"max_tokens": 2, **body}, status)["error"]
    assert words in error["message"]
    assert "\n" not in error["message"]


def test_bad_requests_are_refused(client):
    """Catches a request that is no JSON, too large, or sent as a web page of another site could send it."""
    for raw in (b"", b"{", b"[1]", b'{"a": 1, "a": 2}', b'{"n": NaN}', b"\xff", b"[" * 10**5):
        client.get("/v1/completions", raw=raw, status=400)
    plain = {"Content-Type": "text/plain"}
    client.get("/v1/completions", {"prompt": "x"}, 415, headers=plain)
    assert client.get("/v1/completions", raw=b" " * (MAX_BODY + 1), status=413)["error"]["message"]
    assert client.get("/nothing", status=404)["error"]["message"] == "Not Found"
    client.get("/v1/completions", status=405)
    client.get("/v1/chat/completions", {"messages": [{"role": "king", "content": "x"}]}, 400)
    client.get("/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 200}]}, 400)


def test_an_unexpected_error_is_told(client, monkeypatch):
    """Catches a fault of the server whose answer is no JSON, or that ends the server."""
    monkeypatch.setattr(client.engine, "submit", lambda *_: 1 / 0)
    error = client.get("/v1/completions", {"prompt": "x"}, 500)["error"]
    assert error["message"] == "internal error; the server's output says why"
    monkeypatch.undo()
    client.get("/v1/completions", {"prompt": "x"})


def test_a_chat_needs_a_template():
    """Catches a chat with a model that has no template."""
    with served() as client:
        message = client.get("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}, 400)["error"]
        assert message["message"] == "the model has no chat template; use /v1/completions"


def test_api_key():
    """Catches an endpoint that is open without the key, and a key that is accepted in part."""
    with served(key="secret") as client:
        for headers in ({}, {"Authorization": "Bearer secre"}, {"Authorization": "Basic secret"}):
            for path in ("/v1/models", "/metrics", "/openapi.json", "/nothing"):
                assert client.get(path, status=401, headers=headers)["error"]["code"] == "invalid_api_key"
            client.get("/v1/completions", {"prompt": "x"}, 401, headers=headers)
        client.get("/v1/models", headers={"Authorization": "Bearer secret"})
        client.get("/health")
        with client.send("/") as response:
            assert response.status == 200


def test_other_host_names_are_refused():
    """Catches a page of another site that points its own name at this machine."""
    with served(hosts={"127.0.0.1", "localhost", "[::1]"}) as client:
        client.get("/health")
        client.get("/health", headers={"Host": "localhost:1"})
        client.get("/health", status=403, headers={"Host": "evil.example"})


@pytest.fixture
def slow(monkeypatch):
    """Make every pass of the engine take 20 ms more."""
    from tinygpt.serve.batch import Forward

    decode = Forward.decode
    monkeypatch.setattr(Forward, "decode", lambda self, parts: (time.sleep(0.02), decode(self, parts))[1])


@pytest.mark.parametrize("stream", [True, False])
def test_a_reader_who_leaves_stops_generation(slow, stream):
    """Catches a text that is generated to its end for nobody."""
    with served() as client:
        connection = client.connect()
        body = json.dumps({"prompt": "d", "max_tokens": 90, "stream": stream, "temperature": 100, "seed": 0})
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        until(lambda: client.engine.counters.generated >= 3)
        connection.close()
        until(lambda: client.engine.counters.finished["cancelled"] == 1)
        assert client.engine.counters.generated < 40


def test_a_full_queue_and_a_deadline(slow):
    """Catches a queue without bound and a request without end."""
    with served(batch=1, queue=0, timeout=0.3) as client:
        answers = []
        body = {"prompt": "d", "max_tokens": 90, "temperature": 100, "seed": 0}
        thread = threading.Thread(target=lambda: answers.append(client.get("/v1/completions", body, 504)))
        thread.start()
        until(lambda: client.engine.counters.running == 1)
        response = client.send("/v1/completions", body)
        assert (response.status, response.headers["Retry-After"]) == (429, "1")
        response.close()
        thread.join()
        assert answers[0]["error"]["code"] == "timeout"
        events = list(client.events("/v1/completions", {**body, "stream": True}))
        assert events[-2]["error"]["code"] == "timeout"
        assert client.engine.counters.finished["timeout"] == 2


def test_a_shutdown_lets_texts_finish(slow):
    """Catches a server that ends in the middle of a text although there was time."""
    with served() as client:
        events = client.events("/v1/completions", {"prompt": "d", "max_tokens": 12, "stream": True, "seed": 0})
        first = next(events)
        client.server.should_exit = True
        rest = list(events)
        assert rest[-1] == "[DONE]"
        parts = [first, *rest[:-1]]
        assert "".join(one["choices"][0]["text"] for one in parts) == text_of("d", 12, 0)


def test_a_shutdown_does_not_wait_for_ever(slow):
    """Catches a server that a long text keeps alive, and an end without a word."""
    with served(grace=0.2) as client:
        events = client.events(
            "/v1/completions", {"prompt": "d", "max_tokens": 90, "stream": True, "temperature": 100, "seed": 0}
        )
        next(events)
        client.server.should_exit = True
        assert [one for one in events if "error" in one][-1]["error"]["code"] == "shutdown"


def test_watching(client):
    """Catches predictions that do not add up: surprisal, probabilities before and after sampling, attention."""
    body = {"prompt": "def add", "max_tokens": 6, "seed": 0, "temperature": 0.5, "top_k": 3, "top": 5}
    first, *events, end = client.events("/watch", body)
    assert first["prompt"] == TOKENIZER.tokens(TOKENIZER.encode("def add"))
    assert end["end"] == "length"
    assert len(events) == 6
    assert "".join(one["text"] for one in events) + end["text"] == text_of("def add", 6, 0, temperature=0.5, top_k=3)
    for i, one in enumerate(events):
        assert one["bits"] == pytest.approx(-np.log2(one["p"]))
        assert sum(top["sampled"] for top in one["top"]) == pytest.approx(1)
        assert [top["sampled"] > 0 for top in one["top"]] == [True] * 3 + [False] * 2
        assert np.shape(one["attention"]) == (2, 7 + i)
        np.testing.assert_allclose(np.sum(one["attention"], 1), 1, atol=1e-2)
