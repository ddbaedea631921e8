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

    def text(self) -> str:
        """Return the counts in the text format of Prometheus."""
        reasons = {f'tinygpt_requests_total{{reason="{name}"}}': n for name, n in sorted(self.finished.items())}
        groups = (
            ("tinygpt_requests_total", "counter", "Texts that have ended, by reason.", reasons),
            ("tinygpt_rejected_total", "counter", "Texts refused because the queue was full.", self.rejected),
            ("tinygpt_prompt_tokens_total", "counter", "Tokens of prompts.", self.prompt),
            ("tinygpt_cached_tokens_total", "counter", "Prompt tokens that the prefix cache held.", self.cached),
            ("tinygpt_generated_tokens_total", "counter", "Tokens that were drawn.", self.generated),
            ("tinygpt_running", "gauge", "Texts in the running batch.", self.running),
            ("tinygpt_waiting", "gauge", "Texts in the queue.", self.waiting),
            ("tinygpt_cache_tokens", "gauge", "Positions whose keys and values have memory.", self.cache_tokens),
            ("tinygpt_prefixes", "gauge", "Prompts in the prefix cache.", self.prefixes),
        )
        lines = []
        for name, kind, words, value in groups:
            lines += [f"# HELP {name} {words}", f"# TYPE {name} {kind}"]
            samples = value if isinstance(value, dict) else {name: value}
            lines += [f"{sample} {n}" for sample, n in samples.items()]
        return "\n".join(lines) + "\n"
