"""One text while it is generated: what was asked, the state of its sampling, and the events that report on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from tinygpt.cache import SequenceCache
from tinygpt.generate import StopStrings
from tinygpt.sampling import Sampler, logprobs, most_likely
from tinygpt.tokenizers.base import Tokenizer


class Watched(NamedTuple):
    """The prediction of one token, as the live page shows it.

    Parameters
    ----------
    sampled : tuple of float
        Probability of each token of `Piece.top` after penalties, truncation and temperature.
    chosen : float
        The same for the token that was drawn.
    attention : list of lists of float
        For each layer, the attention to every earlier position, averaged over the heads. Empty if a prompt was too
        long to record it.
    """

    sampled: tuple[float, ...]
    chosen: float
    attention: list[list[float]]


class Piece(NamedTuple):
    """Text added by one token.

    Parameters
    ----------
    text : str
        Empty while a character or a possible stop string is incomplete.
    token : int
    logprob : float or None
        Log-probability at temperature 1, before penalties and truncation; None unless it was asked for.
    top : tuple of (int, float)
        The most likely tokens and their log-probabilities.
    watched : Watched or None
    """

    text: str
    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    watched: Watched | None = None


class Finished(NamedTuple):
    """The end of a text.

    Parameters
    ----------
    reason : str
        ``stop`` (end of document or a stop string), ``length``, ``cancelled``, ``timeout``, ``shutdown`` or ``error``.
    text : str
        The rest that was held back.
    prompt : int
        Tokens of the prompt.
    cached : int
        Tokens of the prompt that the prefix cache held.
    generated : int
        Tokens that were drawn.
    message : str
        Description of an error.
    """

    reason: str
    text: str = ""
    prompt: int = 0
    cached: int = 0
    generated: int = 0
    message: str = ""


Event = Piece | Finished


@dataclass(eq=False)
class Request:
    """One text to generate.

    Parameters
    ----------
    ids : int32 array, shape (n,)
        The prompt; it must fit the context.
    length : int
        Largest number of tokens to draw, at least 1. A full context ends the text earlier.
    sampler : Sampler
        For a batch of one.
    emit : callable
        Receives the events, in the thread of the engine; it must return at once. The last one is a Finished.
    stop : sequence of str
        The text ends before the first of them.
    top : int, optional
        Report log-probabilities, and those of this many most likely tokens.
    watch : bool
        Also report probabilities after sampling settings, and attention.
    deadline : float, optional
        Time of `time.monotonic` at which the text ends unfinished.
    after : Request, optional
        Start only when the prompt of this request is in the prefix cache.

    Raises
    ------
    TypeError, ValueError
        `stop` is not a sequence of strings that are not empty.
    """

    ids: np.ndarray
    length: int
    sampler: Sampler
    emit: Callable[[Event], None]
    stop: Sequence[str] = ()
    top: int | None = None
    watch: bool = False
    deadline: float | None = None
    after: Request | None = None
    cancelled: bool = field(default=False, init=False)
    prompt_read: bool = field(default=False, init=False)  # or ended before
    first_at: float = field(default=0.0, init=False)  # time.perf_counter() of the first token

    def __post_init__(self) -> None:
        StopStrings(self.stop)  # raises for an empty one

    def cancel(self) -> None:
        """Stop generation before the next token; from any thread."""
        self.cancelled = True


class Running:
    """A request that has memory in the engine.

    Attributes
    ----------
    next : int array, shape (1,)
        The token that was drawn last.
    held : bool
        Whether the whole prompt was read.
    """

    def __init__(self, request: Request, tokenizer: Tokenizer, cache: SequenceCache, cached: int):
        self.request, self.cache, self.cached = request, cache, cached
        self.length = cache.k.shape[1] - len(request.ids) + 1  # the last token is drawn but not read
        self.generated, self.next = 0, request.ids[:0]
        self._ends, self._decoder, self._stop = tokenizer.end_ids, tokenizer.decoder(), StopStrings(request.stop)
        request.sampler.start(request.ids[None])

    @property
    def unread(self) -> np.ndarray:
        """Tokens of the prompt that the model has not read."""
        return self.request.ids[self.cache.length :] if not self.request.prompt_read else self.request.ids[:0]

    def draw(self, logits: np.ndarray, barred: Sequence[int], weights: np.ndarray | None) -> tuple[Event, ...]:
        """Draw the next token from logits (V,).

        Returns
        -------
        tuple of Piece or Finished
            The last event of a text is a Finished.
        """
        allowed = logits[None]
        if barred:
            allowed = allowed.copy()
            allowed[0, barred] = -np.inf
        request = self.request
        try:
            p = request.sampler.probabilities(allowed[0]) if request.watch else None
            token = int(request.sampler.draw(allowed)[0])
        except ValueError:
            return (self.end("error", "the model's logits are NaN or infinite"),)
        likely = tuple(most_likely(logits, request.top)) if request.top is not None else ()
        if not self.generated:
            request.first_at = time.perf_counter()
        self.generated += 1
        self.next = np.array([token], np.int32)
        if token in self._ends:
            return (self.end("stop"),)
        value = float(logprobs(logits)[token]) if request.top is not None else None
        watched = None if p is None else _watched(p, token, likely, weights)
        piece = Piece(self._stop.feed(self._decoder.feed(token)), token, value, likely, watched)
        if self._stop.stopped:
            return (piece, self.end("stop"))
        return (piece, self.end("length")) if self.generated >= self.length else (piece,)

    def end(self, reason: str, message: str = "") -> Finished:
        """Describe the end of the text, with the text that was held back."""
        rest = self._stop.feed(self._decoder.flush()) + self._stop.flush()
        if self._stop.stopped and reason == "length":
            reason = "stop"
        return Finished(reason, rest, len(self.request.ids), self.cached, self.generated, message)


def _watched(p: np.ndarray, token: int, likely: Sequence[tuple[int, float]], weights: np.ndarray | None) -> Watched:
    """Describe a prediction; weights (n_layer, 1, H, T, S) are those of the forward pass."""
    attention = [] if weights is None else weights[:, 0, :, -1].mean(1).round(4).tolist()
    return Watched(tuple(float(p[i]) for i, _ in likely), float(p[token]), attention)
