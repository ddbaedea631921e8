"""`/infill` in the wire format of llama.cpp's server, which editors' plug-ins such as llama.vim speak."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from tinygpt.data.infilling import Markers
from tinygpt.generate import Gap, gap
from tinygpt.serve.fields import Json, Refused
from tinygpt.serve.sequence import Finished
from tinygpt.serve.service import Ask, Job, Service, check_finished

SHARE = 4  # the text may take up to a quarter of the context when n_predict is -1


@dataclass
class Fill:
    """One gap to fill, and the time that it took."""

    service: Service
    body: Json
    gap: Gap
    started: float = field(default_factory=time.perf_counter)

    @classmethod
    async def of(cls, service: Service, body: Json) -> Fill:
        """Encode the texts around a gap; both are cut far from it to fit the context.

        Raises
        ------
        Refused
            The model cannot fill gaps.
        """
        if Markers.of(service.tokenizer) is None:
            raise Refused("the model has no fill-in-the-middle tokens; train one with a fim_rate of 0.5")
        length = body["n_predict"] if body["n_predict"] >= 0 else service.context // SHARE
        before = body["input_prefix"] + body["prompt"]
        made = await service.encode(
            lambda: gap(service.tokenizer, before, body["input_suffix"], max(1, length), service.context)
        )
        return cls(service, body, made)

    @property
    def length(self) -> int:
        """Largest number of tokens to draw; 0 only reads the prompt."""
        asked = self.body["n_predict"]
        return self.gap.room if asked < 0 else min(asked, self.gap.room)

    def start(self) -> Job:
        """Queue the request."""
        soft = self._soft
        body = self.body | {"seed": None if self.body["seed"] < 0 else self.body["seed"]}
        seconds, streams = soft / 1000 or None, bool(body["stream"])
        return self.service.start([Ask(self.gap.ids)], body, max(1, self.length), seconds=seconds, streams=streams)

    @property
    def _soft(self) -> float:
        """Milliseconds after which the text so far is the answer; 0 means no limit."""
        return self.body["t_max_predict_ms"] and self.body["t_max_predict_ms"] + self.body["t_max_prompt_ms"]

    async def whole(self, job: Job) -> Any:
        """Return the response once the text has ended."""
        parts = list[str]()
        async for _, event in job:
            parts.append(event.text)
            if isinstance(event, Finished):
                return self._chosen(self._response(job, "".join(parts) if self.length else "", event))
        raise RuntimeError("a text did not end")

    async def chunks(self, job: Job) -> AsyncIterator[Json]:
        """Yield the parts of a streamed response; the last one has no text, but all other fields."""
        async for _, event in job:
            if event.text and self.length:
                yield {"content": event.text, "stop": False}
            if isinstance(event, Finished):
                yield self._response(job, "", event)

    def _response(self, job: Job, content: str, end: Finished) -> Json:
        if end.reason != "timeout" or not self._soft:
            check_finished(end)
        now, cached = time.perf_counter(), end.cached
        first = job.requests[0].first_at or now
        read, drawn = len(self.gap.ids) - cached, end.generated if self.length else 0
        prompt, predicted = 1000 * (first - self.started), 1000 * (now - first)
        return {
            "content": content,
            "stop": True,
            "model": self.service.name,
            "stop_type": {"stop": "eos"}.get(end.reason, "limit"),
            "truncated": self.gap.cut > 0,
            "has_new_line": "\n" in content,
            "tokens_predicted": drawn,
            "tokens_evaluated": len(self.gap.ids),
            "tokens_cached": cached,
            "timings": {**_rates("prompt", read, prompt), **_rates("predicted", drawn, predicted)},
        }

    def _chosen(self, response: Json) -> Json:
        """Return the fields that the request asked for; a/b becomes a field of that name."""
        names = self.body["response_fields"]
        if names is None:
            return response
        found: Json = {}
        for name in names:
            value: Any = response
            for part in name.split("/"):
                value = value.get(part) if isinstance(value, dict) else None
            if value is not None:
                found[name] = value
        return found


def _rates(name: str, tokens: int, ms: float) -> Json:
    return {
        f"{name}_n": tokens,
        f"{name}_ms": round(ms, 3),
        f"{name}_per_token_ms": round(ms / max(1, tokens), 3),
        f"{name}_per_second": round(1000 * tokens / max(ms, 1e-3), 3),
    }
