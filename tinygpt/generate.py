"""A prompt and a model to text, piece by piece."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tinygpt.model import GPT
from tinygpt.sampling import Sampler, stream
from tinygpt.tokenizers.base import Tokenizer


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
    ids = tokenizer.encode(prompt) if prompt else np.array([tokenizer.eot_id], np.int32)
    decoder = tokenizer.decoder()
    for drawn in stream(model, ids[None], length, sampler):
        if int(drawn[0]) == tokenizer.eot_id:
            break
        yield decoder.feed(drawn)
    yield decoder.flush()


def sample_text(
    model: GPT, tokenizer: Tokenizer, prompt: str = "", length: int = 200, temperature: float = 0.8, seed: int = 0
) -> str:
    """One continuation of `prompt`, without the prompt itself."""
    return "".join(stream_text(model, tokenizer, prompt, length, Sampler(temperature, seed=seed)))
