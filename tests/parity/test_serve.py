"""The server with the official client of OpenAI, and requests made from its OpenAPI description by schemathesis."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from serve.client import served
from serve.models import TEXT, TOKENIZER, small

from tinygpt.chat.conversation import MessageEncoder
from tinygpt.chat.template import ChatTemplate
from tinygpt.data.infilling import NAMES
from tinygpt.generate import stream_text
from tinygpt.sampling import Sampler
from tinygpt.tokenizers import CharTokenizer

TEMPLATE = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}a:"
KEY = "secret"
# The phase `coverage` sends hundreds of requests, one for every bound of every field; ci/full asks for it.
PHASES = "coverage,fuzzing" if os.environ.get("TINYGPT_LONG") == "1" else "fuzzing"


@pytest.fixture(scope="module")
def server():
    encoder = MessageEncoder(TOKENIZER, ChatTemplate(TEMPLATE))
    with served(encoder=encoder, key=KEY) as client:
        yield client


@pytest.fixture
def filler():
    """A server of a model that fills gaps too."""
    tokenizer = CharTokenizer.train(TEXT, special_tokens=NAMES)
    encoder = MessageEncoder(tokenizer, ChatTemplate(TEMPLATE))
    with served(small(vocab_size=tokenizer.vocab_size, block_size=32), tokenizer, KEY, encoder=encoder) as client:
        yield client


@pytest.fixture
def openai(require, server):
    """The official client."""
    module = require("openai")
    with module.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def text_of(prompt, length, seed):
    return "".join(stream_text(small(), TOKENIZER, prompt, length, Sampler(seed=seed)))


def test_completions(openai):
    """Catches a response that the client cannot read, whole or streamed."""
    body = {"model": "tiny", "prompt": TEXT[:9], "max_tokens": 12, "seed": 2, "logprobs": 3}
    found = openai.completions.create(**body)
    assert found.choices[0].text == text_of(TEXT[:9], 12, 2)
    assert found.usage.completion_tokens == 12
    assert len(found.choices[0].logprobs.top_logprobs[0]) == 3
    parts = list(openai.completions.create(**body, stream=True, stream_options={"include_usage": True}))
    assert "".join(part.choices[0].text for part in parts[:-1]) == found.choices[0].text
    assert parts[-1].usage == found.usage


def test_chats(openai):
    """Catches a message, a delta or log-probabilities that the client cannot read."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9, "seed": 1}
    found = openai.chat.completions.create(**body, logprobs=True, top_logprobs=2)
    message = found.choices[0].message
    assert (message.role, message.content) == ("assistant", text_of("u:hi\na:", 9, 1))
    assert len(found.choices[0].logprobs.content) == 9
    assert len(found.choices[0].logprobs.content[0].top_logprobs) == 2
    parts = list(openai.chat.completions.create(**body, stream=True))
    assert "".join(part.choices[0].delta.content or "" for part in parts) == message.content
    assert parts[-1].choices[0].finish_reason == "length"


def test_models_and_errors(openai, require):
    """Catches a list that the client cannot read, and statuses that become the wrong exception."""
    module = require("openai")
    assert [model.id for model in openai.models.list()] == ["tiny"]
    assert openai.models.retrieve("tiny").object == "model"
    with pytest.raises(module.NotFoundError, match="does not exist"):
        openai.completions.create(model="gpt-4", prompt="x")
    with pytest.raises(module.BadRequestError, match="the prompt has 200 tokens") as caught:
        openai.completions.create(model="tiny", prompt="x" * 200)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(module.AuthenticationError):
        openai.with_options(api_key="wrong").models.list()


def test_requests_made_from_the_description(require, filler, tmp_path):
    """Catches a body that is valid and refused, one that is invalid and accepted, and a response of another form."""
    require("schemathesis")
    found = shutil.which("schemathesis", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    program = [found, "run", f"http://127.0.0.1:{filler.port}/openapi.json"]
    options = [
        "-H", f"Authorization: Bearer {KEY}", "--max-examples", "10", "--seed", "1", "--generation-database", "none",
        "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
        "negative_data_rejection,unsupported_method",
        "--exclude-path", "/watch", "--phases", PHASES, "--no-color",
    ]  # fmt: skip
    done = subprocess.run(program + options, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
