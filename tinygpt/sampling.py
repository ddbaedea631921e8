"""Logits to the next token: penalties, top-k, top-p, min-p, temperature, and the draw."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tinygpt.core import sampling as compiled
from tinygpt.deprecated import forward
from tinygpt.kernels import isa

isa.follow(compiled)


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
    batch : int or sequence of int
        Rows; or the number i of each of them, for rows that are a part of something larger.
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
        batch: int | Sequence[int] = 1,
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
        entropy = np.random.SeedSequence(seed).entropy
        # What SeedSequence.spawn gives as its child i.
        children = (np.random.SeedSequence(entropy, spawn_key=(i,)) for i in _numbers(batch))
        self.generators = [np.random.default_rng(child) for child in children]
        penalties = (repetition_penalty, presence_penalty, frequency_penalty)
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


def _numbers(batch: int | Sequence[int]) -> Sequence[int]:
    """The number of each row."""
    numbers = range(int(batch)) if isinstance(batch, (int, np.integer)) else batch
    if any(i < 0 for i in numbers):
        raise ValueError(f"[sample] 'batch' must be numbers of rows, 0 or more, got {min(numbers)}")
    return numbers


def most_likely(logits: np.ndarray, n: int) -> list[tuple[int, float]]:
    """The tokens with the highest probabilities, and the logarithms of these.

    Parameters
    ----------
    logits : float array, shape (V,)
    n : int
        How many; all for more than there are.

    Returns
    -------
    list of (int, float)
        The most likely first, of equals the one with the lower id.
    """
    n = min(n, len(logits))
    if n < 1:
        return []
    values = logprobs(logits)
    # Not all that equal the last one may fit: the lower ids go first.
    least = np.partition(values, values.size - n)[values.size - n]
    ids = np.flatnonzero(values >= least)
    chosen = ids[np.argsort(-values[ids], kind="stable")][:n]
    return [(int(i), float(values[i])) for i in chosen]


def logprobs(logits: np.ndarray) -> np.ndarray:
    """Logarithms of the probabilities that a model gives: temperature 1, no penalties, nothing cut.

    Parameters
    ----------
    logits : float array, shape (V,)

    Returns
    -------
    float64 array, shape (V,)
        logits - log(sum(exp(logits))).
    """
    values = np.asarray(logits, np.float64)
    values = values - values.max()
    return values - math.log(np.exp(values).sum())


__getattr__ = forward(
    __name__,
    {
        "Step": "tinygpt.decoding.Step",
        "steps": "tinygpt.decoding.steps",
        "stream": "tinygpt.decoding.stream",
    },
)
