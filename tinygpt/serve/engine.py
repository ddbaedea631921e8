"""Continuous batching: requests join and leave a running batch between two tokens.

One thread runs the model. Between two forward passes it admits waiting requests, ends those that were cancelled or are
too late, reads the next part of new prompts, and draws one token for every other sequence.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np

from tinygpt.cache import SequenceCache, Span
from tinygpt.data.infilling import never_drawn
from tinygpt.kernels.adaptive import Adaptive
from tinygpt.model import GPT
from tinygpt.ops.embedding import inside
from tinygpt.serve.batch import LEAST, Forward
from tinygpt.serve.counters import Counters
from tinygpt.serve.prefix import PrefixCache
from tinygpt.serve.sequence import Event, Finished, Request, Running
from tinygpt.tokenizers.base import Tokenizer

CHUNK = 256  # tokens of prompts that are read between two decoded tokens; longer chunks make others wait longer
WATCHED = 2**24  # most attention probabilities recorded for one chunk of a prompt: 64 MB


class Busy(Exception):
    """The queue is full; try again later."""


class Closed(Exception):
    """The engine does not accept requests: it is shutting down, or it failed."""


class Engine:
    """Generates texts for many requests at once.

    Parameters
    ----------
    model : GPT
    tokenizer : Tokenizer
    batch : int
        Largest number of sequences in the running batch.
    queue : int
        Largest number of requests that wait for a place in it.
    cache_bytes : int
        Memory for keys and values of running sequences and shared prefixes. At least one whole context is allowed.

    Notes
    -----
    A seeded text depends on its request alone: `tinygpt.serve.batch` explains why. Close the engine to end its thread.
    """

    def __init__(self, model: GPT, tokenizer: Tokenizer, batch: int = 64, queue: int = 64, cache_bytes: int = 2**30):
        for name, value, least in (("batch", batch, 1), ("queue", queue, 0), ("cache_bytes", cache_bytes, 0)):
            if value < least:
                raise ValueError(f"[Engine] '{name}' must be at least {least}, got {value}")
        config = model.config
        self.model, self.tokenizer, self.batch, self.queue = model, tokenizer, batch, queue
        per_token = 2 * 4 * config.n_layer * config.kv_heads * config.head_dim
        self.cache_tokens = max(config.block_size, cache_bytes // per_token)
        self.counters = Counters()
        self.failed = False
        self._forward, self._prefixes = Forward(model), PrefixCache(config)
        self._barred = list(never_drawn(tokenizer, config.vocab_size))
        self._wake = threading.Condition()
        self._waiting: deque[Request] = deque()  # guarded by _wake, as the two flags
        self._running: list[Running] = []  # of the thread alone
        self._closing = self._stopping = False
        self._thread = threading.Thread(target=self._run, name="tinygpt-engine", daemon=True)
        self._thread.start()

    def submit(self, *requests: Request) -> None:
        """Queue requests; all of them or none.

        Raises
        ------
        ValueError
            A prompt is empty or does not fit the context, or `length` is less than 1.
        IndexError
            A token of a prompt is not in the vocabulary.
        Busy
            The queue has no room.
        Closed
            The engine is closed.
        """
        context, V = self.model.config.block_size, self.model.config.vocab_size
        for request in requests:
            if not 1 <= len(request.ids) <= context:
                raise ValueError(f"[Engine] 'ids' must be 1 to {context} tokens, got {len(request.ids)}")
            if not inside(request.ids, V):
                raise IndexError(f"[Engine] 'ids' must be in 0..{V - 1}")
            if request.length < 1:
                raise ValueError(f"[Engine] 'length' must be at least 1, got {request.length}")
        with self._wake:
            if self._closing or self.failed:
                raise Closed("the server is shutting down" if self._closing else "the model failed")
            free = max(0, self.batch - len(self._running) - len(self._waiting))
            if len(requests) > self.queue - len(self._waiting) + free:
                self.counters.rejected += len(requests)
                raise Busy(f"{len(self._waiting)} requests are waiting")
            self._waiting.extend(requests)
            self.counters.waiting = len(self._waiting)
            self._wake.notify()

    def close(self, grace: float = 0.0) -> None:
        """Accept no more requests, let the others finish for `grace` seconds, and end the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(grace)
        self.stop()
        self._thread.join()

    def stop(self) -> None:
        """End all requests before their next token, and the thread with them; does not wait for it."""
        with self._wake:
            self._closing = self._stopping = True
            self._wake.notify()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _run(self) -> None:
        reason = "error"
        try:
            with Adaptive() as threads:
                while self._has_work():
                    self._drop()
                    self._admit()
                    self._read()
                    with threads.step():
                        self._decode()
            reason = "shutdown"
        finally:
            with self._wake:
                self.failed = reason == "error"
                waiting, running = list(self._waiting), self._running
                self._waiting.clear()
                self._running = []
            message = "the model failed; the server's output says why" if self.failed else ""
            for request in waiting:
                self._emit(request, Finished(reason, prompt=len(request.ids), message=message))
            for one in running:
                self._emit(one.request, one.end(reason, message))
            self._count()

    def _has_work(self) -> bool:
        """Wait for requests; False at the end."""
        with self._wake:
            while not (self._waiting or self._running or self._closing or self._stopping):
                self._wake.wait()
            return not self._stopping and bool(self._waiting or self._running or not self._closing)

    def _drop(self) -> None:
        """End the requests that were cancelled or are past their deadline."""
        now = time.monotonic()
        with self._wake:
            late = [(one, reason) for one in self._waiting if (reason := _over(one, now))]
            for request, _ in late:
                self._waiting.remove(request)
        for request, reason in late:
            self._emit(request, Finished(reason, prompt=len(request.ids)))
        for one in list(self._running):
            over = _over(one.request, now)
            if over:
                self._finish(one, one.end(over))

    def _admit(self) -> None:
        """Give places to the requests that waited longest, as long as there is memory for keys and values."""
        config, held = self.model.config, self._held()
        while self._waiting and len(self._running) < self.batch:
            request = self._waiting[0]
            need = min(config.block_size, len(request.ids) + request.length - 1)
            if request.after is not None and not request.after.prompt_read:
                break
            while held + need > self.cache_tokens and self._prefixes.evict():
                held = self._held()
            if held + need > self.cache_tokens:
                break
            with self._wake:
                self._waiting.popleft()
            cache, n = SequenceCache(config, need), len(request.ids)
            cached = self._prefixes.fill(cache, request.ids, n - LEAST) if n > LEAST else 0
            self.counters.prompt += n
            self.counters.cached += cached
            self._running.append(Running(request, self.tokenizer, cache, cached))
            held += need
        self._count()

    def _held(self) -> int:
        """Positions whose keys and values have memory."""
        return sum(one.cache.k.shape[1] for one in self._running) + self._prefixes.tokens

    def _read(self) -> None:
        """Read up to CHUNK tokens of prompts, and draw the first token after those that are complete."""
        parts: list[tuple[Running, Span, np.ndarray]] = []
        left = CHUNK
        for one in self._running[:]:
            unread = one.unread
            if not len(unread) or len(parts) == self._forward.most:
                continue
            n = len(unread) if len(unread) < left + LEAST else left
            if n < min(LEAST, len(unread)):
                break
            parts.append((one, self._span(one, n), unread[:n]))
            left -= n
        if not parts:
            return
        logits = self._forward.read([(span, ids) for _, span, ids in parts])
        for (one, span, _), row in zip(parts, logits, strict=True):
            if one.cache.length == len(one.request.ids):
                one.request.prompt_read = True
                self._prefixes.add(one.request.ids, one.cache)
                self._report(one, one.draw(row, self._barred, span.weights))

    def _decode(self) -> None:
        """Read the token that was drawn last in every sequence, and draw the next one."""
        ready = [one for one in self._running if one.request.prompt_read and one.generated]
        for group in _groups(ready, self._forward.most):
            spans = [self._span(one, 1) for one in group]
            logits = self._forward.decode([(span, one.next) for span, one in zip(spans, group, strict=True)])
            for one, span, row in zip(group, spans, logits, strict=True):
                self._report(one, one.draw(row, self._barred, span.weights))

    def _span(self, one: Running, n: int) -> Span:
        """Describe the next n tokens of a sequence, with room for attention probabilities if somebody watches."""
        config, keys = self.model.config, one.cache.length + n
        shape = (config.n_layer, 1, config.n_head, n, keys)
        watch = one.request.watch and np.prod(shape) <= WATCHED and keys >= len(one.request.ids)
        return Span(one.cache, n, np.empty(shape, np.float32) if watch else None)

    def _report(self, one: Running, events: Sequence[Event]) -> None:
        self.counters.generated += 1
        for event in events:
            if isinstance(event, Finished):
                self._finish(one, event)
            else:
                one.request.emit(event)

    def _finish(self, one: Running, event: Finished) -> None:
        """Take a sequence out of the batch."""
        self._running.remove(one)
        self._prefixes.release(one.cache)
        self._count()
        self._emit(one.request, event)

    def _emit(self, request: Request, event: Finished) -> None:
        """Tell a request that it has ended."""
        request.prompt_read = True  # whoever waits for its prompt must not wait for ever
        self.counters.finished[event.reason] += 1
        request.emit(event)

    def _count(self) -> None:
        """Update the gauges."""
        self.counters.running, self.counters.waiting = len(self._running), len(self._waiting)
        self.counters.cache_tokens, self.counters.prefixes = self._held(), len(self._prefixes)


def _over(request: Request, now: float) -> str:
    """Return why a request must end now, or an empty string."""
    if request.cancelled:
        return "cancelled"
    return "timeout" if request.deadline is not None and now >= request.deadline else ""


def _groups(ready: Sequence[Running], most: int | None) -> Iterator[Sequence[Running]]:
    """Split sequences into groups of at most `most`."""
    size = most or max(1, len(ready))
    return (ready[i : i + size] for i in range(0, len(ready), size))
