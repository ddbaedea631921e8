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
        Number of the text in the batch, from 0.
    piece : str
        Text of the token. Empty if the token only begins a character, may be the beginning of a stop string, or ends
        the text.
    token : int or None
        Id of the token. None for a last piece that was held back until the end.
    logprob : float or None
        Logarithm of the probability that the model gave the token, at temperature 1 and before penalties and cuts. None
        unless requested.
    top : tuple of (int, float)
        The most likely tokens and their log-probabilities, the most likely first.
    forgot : int
        Number of tokens dropped from the context just before this token, because it was full.
    """

    text: int
    piece: str
    token: int | None = None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    forgot: int = 0


class StopStrings:
    """Filter that passes a text up to the first stop string, and holds back a possible beginning of one.

    The stop string that is complete first ends the text, the longest one if there are several. So the result does not
    depend on where the text is cut into pieces.

    Parameters
    ----------
    strings : sequence of str
        Stop strings. If there are none, everything passes at once.

    Attributes
    ----------
    stopped : bool
        True after a stop string.

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
        """End the text: return the part that was held back."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, string: str) -> int:
    """Return the length of the longest end of `text` with which `string` begins, without all of `string`."""
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
    """Continue rows of tokens as one batch, without sampling markers, and yield the texts in order, piece by piece.

    Parameters
    ----------
    model : GPT
    tokenizer : Tokenizer
    ids : int array, shape (B, T)
        See `Tokenizer.prompt`.
    length : int
        Number of tokens to sample for each text.
    sampler : Sampler
        A sampler for a batch of B. Each text has its own random numbers, so that it does not depend on B, up to the
        rounding of matmuls of another shape.
    stop : sequence of str
        Stop strings; a text ends before the first of them.
    top : int, optional
        Return log-probabilities: that of the token, and those of the `top` most likely tokens.
    progress : callable, optional
        Called with (tokens sampled for each text, `length`).

    Yields
    ------
    Piece
        Pieces of the first text come as they are sampled, those of a later text once all texts before it have ended.
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
        Text to continue; empty starts a new document.
    length : int
        Number of tokens to sample for each text.
    sampler : Sampler
        A sampler for a batch of `count`. Each text has its own random numbers, so that it does not depend on `count`,
        up to the rounding of matmuls of another shape.
    count : int
        Number of texts.
    stop : sequence of str
        Stop strings; a text ends before the first of them.

    Yields
    ------
    int, str
        Number of the text, from 0, and its next piece; empty for a token that only begins a character. Pieces of the
        first text come as they are sampled, those of a later text once all texts before it have ended. The last piece
        of a text is the rest that was held back. The tokens of `Tokenizer.end_ids` end a text.
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
        Text to continue; empty starts a new document.
    length : int
        Number of tokens to sample.
    sampler : Sampler
        A sampler for a batch of one.
    stop : sequence of str
        Stop strings; the text ends before the first of them.

    Yields
    ------
    str
        Piece of text; empty for a token that only begins a character. The tokens of `Tokenizer.end_ids` end the text.
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
        Number of tokens that can be sampled before the context is full.
    cut : int
        Number of tokens that did not fit: from the beginning of the prefix, and from the end of the suffix.
    """

    ids: npt.NDArray[np.int32]
    room: int
    cut: int


def gap(tokenizer: Tokenizer, prefix: str, suffix: str, length: int, context: int) -> Gap:
    """Make the prompt for the text between a prefix and a suffix; if they are too long, their far ends are cut off.

    Parameters
    ----------
    tokenizer : Tokenizer
        Tokenizer with the three fill-in-the-middle markers.
    prefix, suffix : str
        Text before and after the gap.
    length : int
        Largest number of tokens of the middle. The prompt leaves room for them, up to half of the context.
    context : int
        Context length of the model, in tokens.

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
    # The last token is sampled but not read, so it needs no place in the context.
    return Gap(ids, context - len(ids) + 1, cut)
