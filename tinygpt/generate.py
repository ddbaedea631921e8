"""Generation of text from a prompt, one piece per token."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tinygpt.data.infilling import Markers, never_drawn
from tinygpt.decoding import Step, steps
from tinygpt.model import GPT
from tinygpt.sampling import Sampler, logprobs, most_likely
from tinygpt.tokenizers.base import Tokenizer


class Piece(NamedTuple):
    """Text added by one token.

    Parameters
    ----------
    text : int
        Which text, from 0.
    piece : str
        Empty for a token that only begins a character, for what may become a stop string, and for one that ends the
        text.
    token : int or None
        None for what was held back until the end.
    logprob : float or None
        Of the token: the logarithm of the probability that the model gave it, at temperature 1, before penalties and
        cuts. None unless it was asked for.
    top : tuple of (int, float)
        The most likely tokens with theirs, the most likely first.
    forgot : int
        Tokens that were left out of the context just before this one, since it was full.
    """

    text: int
    piece: str
    token: int | None = None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    forgot: int = 0


class StopStrings:
    """Pass a text through up to the first of some stop strings, holding back a possible beginning of one.

    Of several it is the one that is complete first, and of those the longest: so it does not matter where the text is
    cut into pieces.

    Parameters
    ----------
    strings : sequence of str
        None means that everything passes at once.

    Attributes
    ----------
    stopped : bool

    Raises
    ------
    TypeError
        `strings` is a str.
    ValueError
        A string is empty.
    """

    def __init__(self, strings: Sequence[str] = ()):
        if isinstance(strings, str):
            raise TypeError(f"[generate] 'stop' must be a collection of strings, got the str {strings!r}")
        if "" in strings:
            raise ValueError("[generate] 'stop' must not hold an empty string")
        self._strings = tuple(strings)
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """Take the next piece and return the text that is certain to come before any stop string."""
        if self.stopped:
            return ""
        if not self._strings:
            return text
        text = self._held + text
        places = [(text.find(one), one) for one in self._strings]
        found = [(at + len(one), at) for at, one in places if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)[1]]
        held = max((_overlap(text, one) for one in self._strings), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """Return the text that was held back, at the end of the text."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, string: str) -> int:
    """Length of the longest end of `text` that `string` begins with, shorter than all of it."""
    return next((n for n in range(min(len(text), len(string) - 1), 0, -1) if text.endswith(string[:n])), 0)


class _Text:
    """One text of a batch while it is generated."""

    def __init__(self, number: int, tokenizer: Tokenizer, stop: Sequence[str]):
        self.number, self.ends = number, tokenizer.end_ids
        self.decoder, self.stop = tokenizer.decoder(), StopStrings(stop)
        self.waiting: deque[Piece] = deque()
        self.open = True

    def take(self, step: Step, row: int, top: int | None) -> None:
        """Append the token of one step."""
        token = int(step.tokens[row])
        ended = token in self.ends
        text = self._rest() if ended else self.stop.feed(self.decoder.feed(token))
        self.open = not (ended or self.stop.stopped)
        piece = Piece(self.number, text, token, forgot=step.forgot)
        if top is not None:
            logits = step.logits[row]
            piece = piece._replace(logprob=float(logprobs(logits)[token]), top=tuple(most_likely(logits, top)))
        self.waiting.append(piece)

    def close(self) -> None:
        """Release the text that was held back, after the last step."""
        if self.open:
            self.waiting.append(Piece(self.number, self._rest()))
            self.open = False

    def _rest(self) -> str:
        """Return the text held back by the decoder and the stop strings."""
        return self.stop.feed(self.decoder.flush()) + self.stop.flush()


def stream_pieces(
    model: GPT,
    tokenizer: Tokenizer,
    ids: npt.ArrayLike,
    length: int,
    sampler: Sampler,
    *,
    stop: Sequence[str] = (),
    top: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Piece]:
    """Continue rows of tokens as one batch, without markers of gaps, and yield the texts in order, one piece per token.

    Parameters
    ----------
    model : GPT
    tokenizer : Tokenizer
    ids : int array, shape (B, T)
        See `Tokenizer.prompt`.
    length : int
        Tokens to sample for each.
    sampler : Sampler
        For a batch of B. Each text draws from a generator of its own, so that it does not depend on how many there are,
        up to the rounding of products of other shapes.
    stop : sequence of str
        A text ends before the first of them.
    top : int, optional
        Give log-probabilities, and those of so many most likely tokens.
    progress : callable, optional
        Is told (tokens sampled for each text, `length`).

    Yields
    ------
    Piece
        Those of the first text come as they are sampled, those of a later one once all before it have ended.
    """
    if top is not None and top < 0:
        raise ValueError(f"[generate] 'top' must be 0 or more, got {top}")
    rows, never = np.asarray(ids), never_drawn(tokenizer, model.config.vocab_size)
    texts = [_Text(i, tokenizer, stop) for i in range(len(rows))]
    shown = 0
    for done, step in enumerate(steps(model, rows, length, sampler, never=never), 1):
        if progress is not None:
            progress(done, length)
        for row, text in enumerate(texts):
            if text.open:
                text.take(step, row, top)
        while shown < len(texts):
            while texts[shown].waiting:
                yield texts[shown].waiting.popleft()
            if texts[shown].open:
                break
            shown += 1
        if not any(text.open for text in texts):
            return
    for text in texts[shown:]:
        text.close()
        yield from text.waiting


def stream_texts(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: str,
    length: int,
    sampler: Sampler,
    count: int,
    stop: Sequence[str] = (),
) -> Iterator[tuple[int, str]]:
    """Continue `prompt` several times, in one batch, and yield the texts in order, one piece per token.

    Parameters
    ----------
    model : GPT
    tokenizer : Tokenizer
    prompt : str
        An empty one stands for the beginning of a document.
    length : int
        Tokens to sample for each.
    sampler : Sampler
        For a batch of `count`. Each text draws from a generator of its own, so that it does not depend on how many
        there are, up to the rounding of products of other shapes.
    count : int
        Texts.
    stop : sequence of str
        A text ends before the first of them.

    Yields
    ------
    int, str
        The text that goes on, from 0, and its piece; empty for a token that only begins a character. The pieces of the
        first text come as they are sampled, those of a later one once all before it have ended. The last piece of each
        is what was still held back. The tokens of `Tokenizer.end_ids` end a text.
    """
    ids = np.repeat(tokenizer.prompt(prompt)[None], count, axis=0)
    pieces = stream_pieces(model, tokenizer, ids, length, sampler, stop=stop)
    return ((piece.text, piece.piece) for piece in pieces)


def stream_text(
    model: GPT, tokenizer: Tokenizer, prompt: str, length: int, sampler: Sampler, stop: Sequence[str] = ()
) -> Iterator[str]:
    """Continue `prompt` and yield the text as it comes, one piece per token.

    Parameters
    ----------
    model : GPT
    tokenizer : Tokenizer
    prompt : str
        An empty one stands for the beginning of a document.
    length : int
        Tokens to sample.
    sampler : Sampler
        For a batch of one.
    stop : sequence of str
        The text ends before the first of them.

    Yields
    ------
    str
        Empty for a token that only begins a character. The tokens of `Tokenizer.end_ids` end the text.
    """
    return (piece for _, piece in stream_texts(model, tokenizer, prompt, length, sampler, 1, stop))


def sample_text(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: str = "",
    length: int = 200,
    temperature: float = 0.8,
    seed: int = 0,
    stop: Sequence[str] = (),
) -> str:
    """Return one continuation of `prompt`, without the prompt itself."""
    return "".join(stream_text(model, tokenizer, prompt, length, Sampler(temperature, seed=seed), stop))


@dataclass(frozen=True, eq=False)
class Gap:
    """A prompt with a gap: prefix, suffix and the tokens around them.

    Parameters
    ----------
    ids : int32 array, shape (T,)
        The prompt: marker, prefix, marker, suffix, marker.
    room : int
        Tokens that may follow without any of the prompt being forgotten.
    cut : int
        Tokens of prefix and suffix that found no place: at the beginning of the one, at the end of the other.
    """

    ids: npt.NDArray[np.int32]
    room: int
    cut: int


def gap(tokenizer: Tokenizer, prefix: str, suffix: str, length: int, context: int) -> Gap:
    """Make the prompt that asks for the text between a prefix and a suffix; both are cut far from the gap to fit.

    Parameters
    ----------
    tokenizer : Tokenizer
        With the three markers of fill-in-the-middle.
    prefix, suffix : str
    length : int
        Tokens that the middle may have. Room is kept for them, up to half of the context.
    context : int

    Returns
    -------
    Gap

    Raises
    ------
    ValueError
        The tokenizer has no markers, or the context is too short to hold them.
    """
    markers = Markers.of(tokenizer)
    if markers is None:
        raise ValueError(
            "[gap] the tokenizer has no fill-in-the-middle tokens such as <|fim_prefix|>: train with 'fim_rate' 0.5"
        )
    bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    left, right = tokenizer.encode(prefix), tokenizer.encode(suffix)
    budget = context - len(bos) - 3 - max(0, min(length, context // 2) - 1)
    if budget < 0:
        raise ValueError(f"[gap] a context of {context} has no room for the three fill-in-the-middle tokens")
    n_right = min(len(right), max(budget // 2, budget - len(left)))
    n_left = min(len(left), budget - n_right)
    ids = np.concatenate([bos, markers.around(left[len(left) - n_left :], right[:n_right])]).astype(np.int32)
    cut = len(left) + len(right) - n_left - n_right
    # The last token is drawn and not read.
    return Gap(ids, context - len(ids) + 1, cut)
