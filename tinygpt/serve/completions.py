"""`/v1/completions` and `/v1/chat/completions` in the form of OpenAI's API."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from tinygpt.data.infilling import Markers
from tinygpt.generate import gap
from tinygpt.serve.fields import Json, Refused
from tinygpt.serve.sequence import Event, Finished, Piece
from tinygpt.serve.service import Ask, Job, Service, check_finished

LEAST_LOGPROB = -9999.0  # JSON has no infinity; OpenAI writes the same number


async def prompts(service: Service, body: Json) -> list[Ask]:
    """Encode the prompts of a completion: `n` texts for each."""
    tokenizer, asks = service.tokenizer, list[Ask]()
    for number, prompt in enumerate(body["prompt"]):
        if body["suffix"]:
            if not isinstance(prompt, str):
                raise Refused("'prompt' must be a text if there is a 'suffix'", param="prompt")
            if Markers.of(tokenizer) is None:
                raise Refused(
                    "the model has no tokens for fill-in-the-middle, so 'suffix' must be empty", param="suffix"
                )
            ids = (await service.encode(lambda p=prompt: _gap(service, p, body))).ids  # type: ignore[misc]
        elif isinstance(prompt, str):
            ids = await service.encode(lambda p=prompt: tokenizer.prompt(p))  # type: ignore[misc]
        else:
            ids = np.array(prompt, np.int32)
        service.check_ids(ids, "prompt")
        first = len(asks)
        asks += [Ask(ids, number * body["n"] + i, first if i else None) for i in range(body["n"])]
    return asks


def _gap(service: Service, prompt: str, body: Json):
    return gap(service.tokenizer, prompt, body["suffix"], body["max_tokens"], service.context)


async def conversation(service: Service, body: Json) -> list[Ask]:
    """Encode the messages of a chat: `n` answers."""
    encoder = service.encoder
    if encoder is None:
        raise Refused("the model has no chat template; use /v1/completions", param="messages")
    ids = await service.encode(lambda: encoder(body["messages"]))
    service.check_ids(ids, "messages")
    return [Ask(ids, i, 0 if i else None) for i in range(body["n"])]


@dataclass
class Shape:
    """The form of the responses of one request.

    Parameters
    ----------
    service : Service
    chat : bool
        Messages instead of texts.
    logprobs : bool
    usage : bool
        Whether a stream ends with the usage.
    """

    service: Service
    chat: bool
    logprobs: bool
    usage: bool
    id: str = field(init=False)
    created: int = field(init=False)

    def __post_init__(self) -> None:
        self.id = ("chatcmpl-" if self.chat else "cmpl-") + secrets.token_hex(12)
        self.created = int(time.time())

    def _head(self, streams: bool) -> Json:
        kind = ("chat.completion.chunk" if streams else "chat.completion") if self.chat else "text_completion"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.service.name}

    async def whole(self, job: Job) -> Json:
        """Return the response once all texts have ended."""
        texts = [_Text() for _ in job.requests]
        async for index, event in job:
            texts[index].take(event)
        for end in job.ends.values():
            check_finished(end)
        choices = [self._choice(i, text, job.ends[i].reason) for i, text in enumerate(texts)]
        return {**self._head(False), "choices": choices, "usage": usage(job)}

    def _choice(self, index: int, text: _Text, reason: str) -> Json:
        said = "".join(text.parts)
        content: Json = {"message": {"role": "assistant", "content": said, "refusal": None}}
        logprobs = self._logprobs(text.pieces, 0) if self.logprobs else None
        return {"index": index, **(content if self.chat else {"text": said}), "logprobs": logprobs,
                "finish_reason": reason}  # fmt: skip

    async def chunks(self, job: Job) -> AsyncIterator[Json]:
        """Yield the parts of a streamed response."""
        offsets = [0] * len(job.requests)
        if self.chat:
            for i in range(len(job.requests)):
                yield self._chunk(i, {"delta": {"role": "assistant", "content": ""}}, None, None)
        async for index, event in job:
            if isinstance(event, Finished):
                check_finished(event)
            logprobs = None
            if self.logprobs and isinstance(event, Piece):
                logprobs = self._logprobs([event], offsets[index])
            if event.text or logprobs or isinstance(event, Finished):
                offsets[index] += len(event.text)
                reason = event.reason if isinstance(event, Finished) else None
                delta = {"content": event.text} if event.text else {}
                yield self._chunk(index, {"delta": delta} if self.chat else {"text": event.text}, logprobs, reason)
        if self.usage:
            yield {**self._head(True), "choices": [], "usage": usage(job)}

    def _chunk(self, index: int, content: Json, logprobs: Json | None, reason: str | None) -> Json:
        choice = {"index": index, **content, "logprobs": logprobs, "finish_reason": reason}
        return {**self._head(True), "choices": [choice], **({"usage": None} if self.usage else {})}

    def _logprobs(self, pieces: Sequence[Piece], offset: int) -> Json:
        """Return log-probabilities in the form of the endpoint; `offset` is the length of the text before them."""
        if self.chat:
            return {"content": [self._token(piece.token, piece.logprob, piece.top) for piece in pieces]}
        offsets = []
        for piece in pieces:
            offsets.append(offset)
            offset += len(piece.text)
        return {
            "tokens": [self._name(piece.token) for piece in pieces],
            "token_logprobs": [_finite(piece.logprob) for piece in pieces],
            "top_logprobs": [{self._name(i): _finite(value) for i, value in piece.top} for piece in pieces],
            "text_offset": offsets,
        }

    def _token(self, token: int, logprob: float | None, top: Sequence[tuple[int, float]] | None) -> Json:
        found: Json = {
            "token": self._name(token),
            "logprob": _finite(logprob),
            "bytes": list(self.service.tokenizer.token_bytes(token)),
        }
        return found if top is None else {**found, "top_logprobs": [self._token(i, value, None) for i, value in top]}

    def _name(self, token: int) -> str:
        """Return a token as text; a special token by its name."""
        tokenizer = self.service.tokenizer
        data = tokenizer.token_bytes(token)
        return data.decode("utf-8", "replace") if data else tokenizer.token_text(token)


class _Text:
    """One text of a response that is not streamed."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.pieces: list[Piece] = []

    def take(self, event: Event) -> None:
        """Append an event."""
        self.parts.append(event.text)
        if isinstance(event, Piece):
            self.pieces.append(event)


def usage(job: Job) -> Json:
    """Count the tokens of a request; a prompt that several texts share counts once."""
    first = [i for i, request in enumerate(job.requests) if request.after is None]
    read = sum(len(job.requests[i].ids) for i in first)
    cached = sum(job.ends[i].cached for i in first)
    generated = sum(end.generated for end in job.ends.values())
    return {
        "prompt_tokens": read,
        "completion_tokens": generated,
        "total_tokens": read + generated,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def _finite(logprob: float | None) -> float:
    return logprob if logprob is not None and math.isfinite(logprob) else LEAST_LOGPROB
