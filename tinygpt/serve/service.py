"""The served model, and requests whose events reach the event loop of the web server."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from tinygpt.chat.conversation import MessageEncoder
from tinygpt.sampling import Sampler
from tinygpt.serve.engine import Busy, Closed, Engine
from tinygpt.serve.fields import Json, Refused
from tinygpt.serve.sequence import Event, Finished, Request
from tinygpt.tokenizers.base import Tokenizer

T = TypeVar("T")
FAILURES = {"timeout": 504, "shutdown": 503, "error": 500, "cancelled": 499}
WORDS = {"timeout": "the request took too long", "shutdown": "the server is shutting down"}


@dataclass(frozen=True)
class Ask:
    """One text to generate, before it has a place in a job.

    Parameters
    ----------
    ids : int array, shape (n,)
        The prompt.
    number : int
        Number of the text: with the seed, it determines the random generator.
    shares : int, optional
        Index of an earlier text in the job that has the same prompt.
    """

    ids: np.ndarray
    number: int = 0
    shares: int | None = None


class Service:
    """The model that a server serves.

    Parameters
    ----------
    engine : Engine
    name : str
        Name of the model in the API.
    encoder : MessageEncoder, optional
        For chats; None if the model has no chat template.
    timeout : float
        Longest time of a request, in seconds.
    """

    def __init__(self, engine: Engine, name: str, encoder: MessageEncoder | None = None, timeout: float = 600.0):
        self.engine, self.name, self.encoder, self.timeout = engine, name, encoder, timeout
        self.created = int(time.time())
        # One thread, so that a long prompt neither stops the server nor is encoded at the same time as another.
        self._encoding = ThreadPoolExecutor(1, "tinygpt-encoding")

    @property
    def tokenizer(self) -> Tokenizer:
        """Tokenizer of the model."""
        return self.engine.tokenizer

    @property
    def context(self) -> int:
        """Context length of the model, in tokens."""
        return self.engine.model.config.block_size

    async def encode(self, function: Callable[[], T]) -> T:
        """Run a function that encodes text outside the loop; its ValueError becomes a Refused."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._encoding, function)
        except ValueError as error:
            raise Refused(str(error)) from None

    def check_model(self, name: str | None) -> None:
        """Raise Refused if a request names another model."""
        if name not in (None, "", self.name):
            raise Refused(f"the model '{name[:100]}' does not exist; this server has '{self.name}'", 404, "model",
                          "model_not_found")  # fmt: skip

    def check_ids(self, ids: np.ndarray, param: str) -> None:
        """Raise Refused if a prompt does not fit the context or the vocabulary."""
        if len(ids) > self.context:
            raise Refused(
                f"the prompt has {len(ids):,} tokens, and the context of the model {self.context:,}",
                param=param,
                code="context_length_exceeded",
            )
        size = self.tokenizer.vocab_size
        if int(ids.min()) < 0 or int(ids.max()) >= size:
            raise Refused(f"'{param}' must have token ids in 0 to {size - 1}", param=param)

    def start(
        self,
        asks: Sequence[Ask],
        body: Json,
        length: int,
        *,
        top: int | None = None,
        watch: bool = False,
        seconds: float | None = None,
        streams: bool = True,
    ) -> Job:
        """Queue one or several texts.

        Parameters
        ----------
        asks : sequence of Ask
        body : dict
            Checked fields: those of the sampler, and `stop`.
        length : int
            Largest number of tokens of each text.
        top, watch
            See `Request`.
        seconds : float, optional
            Time for the request, if it is less than that of the server.
        streams : bool
            See `Job`.

        Raises
        ------
        Refused
            There are more texts than the server can hold, the queue is full, or the server is shutting down.
        """
        most = self.engine.batch + self.engine.queue
        if len(asks) > most:
            raise Refused(f"the request asks for {len(asks):,} texts, and the server takes at most {most:,} at a time")
        seed = secrets.randbelow(2**63) if body["seed"] is None else body["seed"]
        names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty",
                 "frequency_penalty")  # fmt: skip
        settings = {name: body[name] for name in names}
        deadline = time.monotonic() + min(self.timeout, seconds or self.timeout)
        job = Job(streams)
        for i, ask in enumerate(asks):
            sampler = Sampler(seed=seed, batch=[ask.number], **settings)
            request = Request(ask.ids, length, sampler, job.listener(i), tuple(body.get("stop") or ()), top, watch)
            request.deadline = deadline
            request.after = None if ask.shares is None else job.requests[ask.shares]
            job.requests.append(request)
        try:
            self.engine.submit(*job.requests)
        except Busy as error:
            raise Refused(f"the queue is full: {error}", 429, code="queue_full") from None
        except Closed as error:
            raise Refused(str(error), 503) from None
        return job

    def close(self, grace: float) -> None:
        """End the threads, after `grace` seconds for running requests."""
        self.engine.close(grace)
        self._encoding.shutdown()


class Job:
    """Texts of one HTTP request; iterate over it for (index of the text, event).

    Parameters
    ----------
    streams : bool
        Whether every event is wanted at once. Otherwise the event loop is woken only when a text ends: on few cores,
        waking it takes a processor from the threads that compute the next token.

    Attributes
    ----------
    requests : list of Request
    ends : dict of int to Finished
        The texts that have ended, by index.
    """

    def __init__(self, streams: bool = True) -> None:
        self.requests: list[Request] = []
        self.ends: dict[int, Finished] = {}
        self._streams = streams
        self._events: deque[tuple[int, Event]] = deque()  # appended by the engine, taken by the loop
        self._ready = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def listener(self, index: int) -> Callable[[Event], None]:
        """Return the function that takes the events of one text in the thread of the engine."""

        def emit(event: Event) -> None:
            self._events.append((index, event))
            if (self._streams or isinstance(event, Finished)) and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._ready.set)

        return emit

    def cancel(self) -> None:
        """Stop all texts before their next token."""
        for request in self.requests:
            request.cancel()

    async def __aiter__(self) -> AsyncIterator[tuple[int, Event]]:
        while len(self.ends) < len(self.requests):
            if not self._events:
                self._ready.clear()
                await self._ready.wait()
                continue
            index, event = self._events.popleft()
            if isinstance(event, Finished):
                self.ends[index] = event
            yield index, event


def check_finished(event: Finished) -> None:
    """Raise Refused if a text did not end by itself."""
    if event.reason in FAILURES:
        raise Refused(event.message or WORDS.get(event.reason, event.reason), FAILURES[event.reason], code=event.reason)
