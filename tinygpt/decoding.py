"""Decoding: the loop that runs a model, draws a token from its logits and feeds it back.

The loop knows a model by three things alone (`Decoder`), so that `GPT.generate` can call it and it need not know `GPT`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import NamedTuple, Protocol

import numpy as np

from tinygpt.cache import KVCache
from tinygpt.config import GPTConfig
from tinygpt.kernels.adaptive import Adaptive
from tinygpt.sampling import Sampler
from tinygpt.tensor import Tensor, no_grad


class Decoder(Protocol):
    """A model that predicts the next token and keeps keys and values of earlier ones in a cache; `GPT` is one."""

    config: GPTConfig

    def __call__(self, tokens: np.ndarray, cache: KVCache | None = None, last: bool = False) -> Tensor:
        """Compute logits (B, T, V) of tokens (B, T) that follow those in the cache; with `last`, (B, 1, V)."""

    def new_cache(self, batch: int = 1) -> KVCache:
        """Make an empty cache for `batch` sequences."""


class Step(NamedTuple):
    """One token for every row.

    Parameters
    ----------
    tokens : int32 array, shape (B,)
    logits : float32 array, shape (B, V)
        Output of the model, before penalties and truncation.
    forgot : int
        Number of oldest tokens dropped from the context just before this step, because the context was full.
    """

    tokens: np.ndarray
    logits: np.ndarray
    forgot: int


def stream(model: Decoder, tokens: np.ndarray, count: int, sampler: Sampler) -> Iterator[np.ndarray]:
    """Yield `count` new tokens for each row of `tokens`, one step at a time.

    Parameters
    ----------
    model : GPT
    tokens : int array, shape (B, T)
        At least one token per row. Only the last ones that fit the context are used.
    count : int
        Number of steps.
    sampler : Sampler
        Its penalties apply to the tokens in the model's context.

    Yields
    ------
    int32 array, shape (B,)

    Notes
    -----
    When the context is full, its newest half is kept and prefilled again into an empty cache.
    """
    return (step.tokens for step in steps(model, tokens, count, sampler))


def steps(
    model: Decoder,
    tokens: np.ndarray,
    count: int,
    sampler: Sampler,
    cache: KVCache | None = None,
    never: Sequence[int] = (),
) -> Iterator[Step]:
    """Yield `count` new tokens for each row of `tokens`, with the logits that each was drawn from.

    Parameters
    ----------
    model : GPT
    tokens : int array, shape (B, T)
        At least one token per row. Without a cache, only the last ones that fit the context are used.
    count : int
        Number of steps.
    sampler : Sampler
        Its penalties apply to the tokens in the model's context.
    cache : KVCache, optional
        Keys and values of the first `cache.length` tokens, which are not computed again. There must be fewer of them
        than T, and T must then fit the context. The cache is extended by every token but the last one drawn.
    never : sequence of int
        Tokens that are never drawn.

    Yields
    ------
    Step
    """
    _check_given(tokens, count, cache, model.config.block_size)
    context = model.config.block_size
    barred = list(never)
    given = tokens[:, -context:]  # unconverted: the model checks that every token is in the vocabulary
    forgot = 0
    rows, length = given.shape
    seen = np.empty((rows, context + 1), np.int32)
    seen[:, :length] = given
    cache = model.new_cache(rows) if cache is None else cache
    new = given[:, cache.length :]
    sampler.start(given)
    with Adaptive() as threads:
        for _ in range(count):
            if length > context:
                forgot, length = length, max(1, context // 2)
                forgot -= length
                seen[:, :length] = seen[:, -length:]
                new, cache.length = seen[:, :length], 0
                sampler.start(new)
            # Only decoding one token is a step that takes equally long each time; a prefill is much longer.
            with no_grad(), threads.step() if new.shape[1] == 1 else nullcontext():
                logits = model(new, cache, last=True).data[:, 0]
            drawn = sampler.draw(_without(logits, barred) if barred else logits)
            new = seen[:, length : length + 1]
            new[:, 0] = drawn
            length += 1
            yield Step(drawn, logits, forgot)
            forgot = 0


def _without(logits: np.ndarray, barred: list[int]) -> np.ndarray:
    """Copy logits (B, V) with those of the barred tokens at minus infinity: probability 0."""
    allowed = logits.copy()
    allowed[:, barred] = -np.inf
    return allowed


def _check_given(tokens: np.ndarray, count: int, cache: KVCache | None, context: int) -> None:
    """Check the arguments of `steps` before its first forward pass."""
    if tokens.size and tokens.dtype.kind not in "iu":
        raise TypeError(f"[generate] 'tokens' must be integers, got {tokens.dtype}")
    if tokens.ndim != 2 or tokens.shape[1] < 1:
        raise ValueError(f"[generate] 'tokens' must hold at least one token per row, got shape {tokens.shape}")
    if count < 0:
        raise ValueError(f"[generate] 'max_new_tokens' must be 0 or more, got {count}")
    if cache is not None and not cache.length < tokens.shape[1] <= context:
        raise ValueError(
            f"[generate] 'tokens' must be more than the {cache.length} in the cache and at most the context of "
            f"{context}, got {tokens.shape[1]}"
        )
