"""Logits to the next token, and the loop that does it again and again."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tinygpt.core import sampling as compiled
from tinygpt.kernels import isa
from tinygpt.tensor import no_grad

if TYPE_CHECKING:
    from tinygpt.model import GPT


class Sampler:
    """Draw tokens from logits: penalties, then top-k, top-p, min-p, then temperature.

    Parameters
    ----------
    temperature : float
        Logits are divided by it; 0 takes the most likely token, the first of equals.
    top_k : int, optional
        Keep the k most likely tokens, and all that tie with the last of them (Fan et al. 2018). None or 0: all.
    top_p : float, optional
        Keep the most likely tokens until together they have this probability (Holtzman et al. 2020); at least one.
    seed : int, optional
        Row i of a batch has a generator of its own, by (seed, i). None: entropy of the system.
    batch : int
        Rows.
    min_p : float, optional
        Keep the tokens that have this share of the probability of the most likely one (Nguyen et al. 2024). None or
        0: all.
    repetition_penalty : float
        Positive logits of tokens in the context are divided by it, negative ones multiplied (Keskar et al. 2019,
        section 4.1). 1: off; below 1 repetition is favoured.
    presence_penalty : float
        Is subtracted from the logits of tokens in the context. 0: off; negative values favour repetition.
    frequency_penalty : float
        The same once for each time that the token is in the context.

    Raises
    ------
    ValueError
        A value is out of range.

    Notes
    -----
    The context, which penalties are over, is what `start` was given and what `draw` has drawn since. Without penalties
    nothing is counted.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        batch: int = 1,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
    ):
        if not (math.isfinite(temperature) and temperature >= 0):
            raise ValueError(f"[sample] 'temperature' must be 0 or more, got {temperature}")
        if top_k is not None and top_k < 0:
            raise ValueError(f"[sample] 'top_k' must be 0 (all) or more, got {top_k}")
        if top_p is not None and not 0 < top_p <= 1:
            raise ValueError(f"[sample] 'top_p' must be more than 0 and at most 1, got {top_p}")
        if min_p is not None and not 0 <= min_p <= 1:
            raise ValueError(f"[sample] 'min_p' must be at least 0 and at most 1, got {min_p}")
        if not (math.isfinite(repetition_penalty) and repetition_penalty > 0):
            raise ValueError(f"[sample] 'repetition_penalty' must be more than 0, got {repetition_penalty}")
        for name, value in (("presence_penalty", presence_penalty), ("frequency_penalty", frequency_penalty)):
            if not math.isfinite(value):
                raise ValueError(f"[sample] '{name}' must be finite, got {value}")
        if seed is not None and seed < 0:
            raise ValueError(f"[sample] 'seed' must be 0 or more, got {seed}")
        self.temperature, self.top_k, self.top_p, self.min_p = temperature, top_k or None, top_p, min_p or None
        self.generators = [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(batch)]
        penalties = (repetition_penalty, presence_penalty, frequency_penalty)
        compiled.set_isa(isa.get())
        self._chain = compiled.Chain(
            temperature, top_k or 0, 1 if top_p is None else top_p, min_p or 0, *penalties, len(self.generators)
        )

    def start(self, tokens: npt.ArrayLike) -> None:
        """Forget the contexts of all rows and take others, which penalties will be over.

        Parameters
        ----------
        tokens : int array, shape (B, T)

        Raises
        ------
        TypeError
            Tokens are not integers.
        ValueError
            A wrong number of rows.
        """
        if not self._chain.counts:
            return
        tokens = np.asarray(tokens)
        if tokens.size and tokens.dtype.kind not in "iu":
            raise TypeError(f"[sample] 'tokens' must be integers, got {tokens.dtype}")
        if tokens.ndim != 2 or len(tokens) != len(self.generators):
            rows = len(self.generators)
            raise ValueError(f"[sample] 'tokens' must have shape ({rows}, T), {rows} for 'batch', got {tokens.shape}")
        self._chain.start(tokens.astype(np.int64, copy=False))

    def probabilities(self, logits: np.ndarray, row: int = 0) -> np.ndarray:
        """The distribution that is drawn from.

        Parameters
        ----------
        logits : float array, shape (V,)
        row : int
            Of the batch, whose context penalties are over.

        Returns
        -------
        float64 array, shape (V,)

        Raises
        ------
        ValueError
            The largest logit is not finite.
        IndexError
            There is no such row.
        """
        if not 0 <= row < len(self.generators):
            raise IndexError(f"[sample] 'row' must be in 0..{len(self.generators) - 1}, got {row}")
        values = np.ascontiguousarray(logits, np.float32)
        if values.ndim != 1:
            raise ValueError(f"[sample] 'logits' must have shape (V,), got {values.shape}")
        out = np.empty(len(values))
        self._chain.probabilities(values[None], row, out)
        return out

    def draw(self, logits: np.ndarray) -> np.ndarray:
        """One token for each row of logits (B, V); int32 (B,).

        Raises
        ------
        ValueError
            The largest logit of a row is not finite; -inf elsewhere is a token that is never drawn. Or a wrong number
            of rows.
        IndexError
            With penalties: the context of a row has a token that the logits do not have.
        """
        logits = np.ascontiguousarray(logits, np.float32)
        if logits.ndim != 2:
            raise ValueError(f"[sample] 'logits' must have shape (B, V), got {logits.shape}")
        rows = len(logits)
        if rows != len(self.generators) and (self.temperature or self._chain.counts):
            raise ValueError(f"[sample] 'logits' must have {len(self.generators)} rows ('batch'), got {rows}")
        tokens = np.empty(rows, np.int32)
        self._chain.draw(logits, [rng.random() for rng in self.generators] if self.temperature else [], tokens)
        return tokens


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
        Its penalties are over what the model sees: the tokens in its context.

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
    new = tokens[:, -context:]  # as given: the model says so if one is not in the vocabulary
    rows, length = new.shape
    seen = np.empty((rows, context + 1), np.int32)
    seen[:, :length] = new
    cache = model.new_cache(rows)
    sampler.start(new)
    for _ in range(count):
        if length > context:
            length = max(1, context // 2)
            seen[:, :length] = seen[:, -length:]
            new, cache.length = seen[:, :length], 0
            sampler.start(new)
        with no_grad():
            logits = model(new, cache, last=True).data[:, 0]
        drawn = sampler.draw(logits)
        new = seen[:, length : length + 1]
        new[:, 0] = drawn
        length += 1
        yield drawn
