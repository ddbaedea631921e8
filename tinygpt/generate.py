"""A prompt and a model to text, piece by piece."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np

from tinygpt.model import GPT
from tinygpt.sampling import Sampler, stream
from tinygpt.tokenizers.base import Tokenizer


def stream_texts(
    model: GPT, tokenizer: Tokenizer, prompt: str, length: int, sampler: Sampler, count: int
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

    Yields
    ------
    int, str
        The text that goes on, from 0, and its piece; empty for a token that only begins a character. The pieces of the
        first text come as they are sampled, those of a later one once all before it have ended. The last piece of each
        is what its decoder still held. A document separator ends a text.
    """
    ids = tokenizer.encode(prompt) if prompt else np.array([tokenizer.eot_id], np.int32)
    decoders = [tokenizer.decoder() for _ in range(count)]
    waiting: list[deque[str]] = [deque() for _ in range(count)]
    open_texts, shown = set(range(count)), 0
    for drawn in stream(model, np.repeat(ids[None], count, axis=0), length, sampler):
        for i in sorted(open_texts):
            if int(drawn[i]) == tokenizer.eot_id:
                open_texts.remove(i)
                waiting[i].append(decoders[i].flush())
            else:
                waiting[i].append(decoders[i].feed(drawn[i]))
        while shown < count:
            while waiting[shown]:
                yield shown, waiting[shown].popleft()
            if shown in open_texts:
                break
            shown += 1
        if not open_texts:
            return
    for i in range(shown, count):
        if i in open_texts:
            waiting[i].append(decoders[i].flush())
        yield from ((i, piece) for piece in waiting[i])


def stream_text(model: GPT, tokenizer: Tokenizer, prompt: str, length: int, sampler: Sampler) -> Iterator[str]:
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

    Yields
    ------
    str
        Empty for a token that only begins a character. A document separator ends the text.
    """
    return (piece for _, piece in stream_texts(model, tokenizer, prompt, length, sampler, 1))


def sample_text(
    model: GPT, tokenizer: Tokenizer, prompt: str = "", length: int = 200, temperature: float = 0.8, seed: int = 0
) -> str:
    """One continuation of `prompt`, without the prompt itself."""
    return "".join(stream_text(model, tokenizer, prompt, length, Sampler(temperature, seed=seed)))
