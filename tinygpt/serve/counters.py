"""Counts of the server, and their text for Prometheus."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Counters:
    """Counts since the start, and gauges of this moment.

    Attributes
    ----------
    prompt, cached, generated : int
        Tokens of admitted prompts, those of them that the prefix cache held, and tokens that were drawn.
    rejected : int
        Requests that found the queue full.
    finished : Counter
        Requests that ended, by reason.
    running, waiting : int
        Requests in the batch and in the queue.
    cache_tokens, prefixes : int
        Positions whose keys and values have memory, and prompts in the prefix cache.
    """

    prompt: int = 0
    cached: int = 0
    generated: int = 0
    rejected: int = 0
    finished: Counter[str] = field(default_factory=Counter)
    running: int = 0
    waiting: int = 0
    cache_tokens: int = 0
    prefixes: int = 0
