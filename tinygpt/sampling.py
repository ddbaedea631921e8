"""Logits to the next token, and the loop that does it again and again."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from tinygpt.tensor import no_grad

if TYPE_CHECKING:
    from tinygpt.model import GPT


class Sampler:
    """Draw tokens from logits: top-k, then top-p, then temperature.

    Parameters
    ----------
    temperature : float
        Logits are divided by it; 0 takes the most likely token, the first of equals.
    top_k : int, optional
        Keep the k most likely tokens, and all that tie with the last of them. None or 0: all.
    top_p : float, optional
        Keep the most likely tokens until together they have this probability (Holtzman et al. 2020); at least one.
    seed : int, optional
        Row i of a batch has a generator of its own, by (seed, i). None: entropy of the system.
    batch : int
        Rows.

    Raises
    ------
    ValueError
        A value is out of range.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        batch: int = 1,
    ):
        if not (math.isfinite(temperature) and temperature >= 0):
            raise ValueError(f"[sample] 'temperature' must be 0 or more, got {temperature}")
        if top_k is not None and top_k < 0:
            raise ValueError(f"[sample] 'top_k' must be 0 (all) or more, got {top_k}")
        if top_p is not None and not 0 < top_p <= 1:
            raise ValueError(f"[sample] 'top_p' must be more than 0 and at most 1, got {top_p}")
        if seed is not None and seed < 0:
            raise ValueError(f"[sample] 'seed' must be 0 or more, got {seed}")
        self.temperature, self.top_k, self.top_p = temperature, top_k or None, top_p
        root = np.random.SeedSequence(seed)
        self.generators = [np.random.default_rng(child) for child in root.spawn(batch)]

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """The distribution that is drawn from: (V,) logits to (V,) float64. Not defined at temperature 0."""
        x = logits.astype(np.float64)
        if self.top_k is not None and self.top_k < len(x):
            x[x < np.partition(x, -self.top_k)[-self.top_k]] = -np.inf
        if self.top_p is not None and self.top_p < 1:
            x[~_nucleus(_softmax(x), self.top_p)] = -np.inf
        with np.errstate(over="ignore"):  # under a tiny temperature all but the largest go to -inf
            return _softmax((x - x.max()) / self.temperature)

    def draw(self, logits: np.ndarray) -> np.ndarray:
        """One token for each row of logits (B, V); int32 (B,).

        Raises
        ------
        ValueError
            The largest logit of a row is not finite; -inf elsewhere is a token that is never drawn. Or a wrong number
            of rows.
        """
        for row, largest in enumerate(logits.max(-1)):
            if not math.isfinite(largest):
                raise ValueError(f"[sample] 'logits' must be finite at their largest, got {largest} in row {row}")
        if self.temperature == 0:
            return logits.argmax(-1).astype(np.int32)
        if len(logits) != len(self.generators):
            raise ValueError(f"[sample] 'logits' must have {len(self.generators)} rows ('batch'), got {len(logits)}")
        tokens = np.empty(len(logits), np.int32)
        for row, rng in enumerate(self.generators):
            cumulative = np.cumsum(self.probabilities(logits[row]))
            # The scale takes up that the sum is 1 to rounding only; side="right" never lands on a probability of 0.
            tokens[row] = np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")
        return tokens


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def _nucleus(p: np.ndarray, top_p: float) -> np.ndarray:
    """The mask of the smallest set of most likely tokens whose probabilities reach `top_p`; ties go by token id."""
    order = np.argsort(-p, kind="stable")
    keep = np.cumsum(p[order]) - p[order] < top_p
    mask = np.zeros(len(p), bool)
    mask[order[keep]] = True
    return mask


def stream(model: GPT, tokens: np.ndarray, count: int, sampler: Sampler) -> Iterator[np.ndarray]:
    """Yield `count` new tokens for each row of `tokens`, one step at a time.

    Parameters
    ----------
    model : GPT
    tokens : int array, shape (B, T)
        T at least 1; of more than the context the last ones are used.
    count : int
        Steps.
    sampler : Sampler

    Yields
    ------
    int32 array, shape (B,)

    Notes
    -----
    Once the context is full, its newest half is kept and goes through the model again with an empty cache.
    """
    if tokens.size and tokens.dtype.kind not in "iu":
        raise TypeError(f"[generate] 'tokens' must be integers, got {tokens.dtype}")
    if tokens.ndim != 2 or tokens.shape[1] < 1:
        raise ValueError(f"[generate] 'tokens' must hold at least one token per row, got shape {tokens.shape}")
    if count < 0:
        raise ValueError(f"[generate] 'max_new_tokens' must be 0 or more, got {count}")
    context = model.config.block_size
    seen = np.array(tokens[:, -context:], np.int64)
    cache, new = model.new_cache(len(seen)), seen
    for _ in range(count):
        if cache.length + new.shape[1] > context:
            seen = new = seen[:, -max(1, context // 2) :]
            cache = model.new_cache(len(seen))
        with no_grad():
            logits = model(new, cache, last=True).data[:, 0]
        drawn = sampler.draw(logits)
        yield drawn
        new = drawn[:, None]
        seen = np.concatenate([seen, new], axis=1)
