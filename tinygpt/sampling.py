"""Logits to the next token: penalties, top-k, top-p, min-p, temperature, and the draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinygpt.core import sampling as compiled
from tinygpt.deprecated import forward
from tinygpt.kernels import isa

isa.follow(compiled)


@dataclass(frozen=True)
class SamplingSettings:
    """Settings of the steps from logits to a distribution; their ranges are checked here alone.

    Parameters
    ----------
    temperature : float
        Divides the logits; 0 always takes the most likely token, and the lowest id among equals.
    top_k : int, optional
        Keep the k most likely tokens, and all that tie with the last of them (Fan et al. 2018). None or 0 keeps all.
    top_p : float, optional
        Keep the most likely tokens until together they have this probability (Holtzman et al. 2020); at least one.
    min_p : float, optional
        Keep the tokens whose probability is at least this share of the largest one (Nguyen et al. 2024). None or 0
        keeps all.
    repetition_penalty : float
        Positive logits of tokens in the context are divided by it, negative ones multiplied (Keskar et al. 2019,
        section 4.1). 1 turns it off; values below 1 favour repetition.
    presence_penalty : float
        Subtracted from the logits of tokens in the context. 0 turns it off; negative values favour repetition.
    frequency_penalty : float
        Subtracted once for each occurrence of the token in the context. 0 turns it off.

    Raises
    ------
    ValueError
        A value is out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    def __post_init__(self) -> None:
        finite, top_k, top_p, min_p = math.isfinite, self.top_k, self.top_p, self.min_p
        ranges = (
            ("temperature", finite(self.temperature) and self.temperature >= 0, "0 or more"),
            ("top_k", top_k is None or top_k >= 0, "0 (all) or more"),
            ("top_p", top_p is None or 0 < top_p <= 1, "more than 0 and at most 1"),
            ("min_p", min_p is None or 0 <= min_p <= 1, "at least 0 and at most 1"),
            ("repetition_penalty", finite(self.repetition_penalty) and self.repetition_penalty > 0, "more than 0"),
            ("presence_penalty", finite(self.presence_penalty), "finite"),
            ("frequency_penalty", finite(self.frequency_penalty), "finite"),
        )
        for name, inside, words in ranges:
            if not inside:
                raise ValueError(f"[sample] '{name}' must be {words}, got {getattr(self, name)}")


class Sampler:
    """Draw tokens from logits: penalties, then top-k, top-p, min-p, then temperature.

    Parameters
    ----------
    temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty
        See `SamplingSettings`.
    seed : int, optional
        Row i of a batch has its own random generator, seeded by (seed, i). None uses the system's entropy.
    batch : int or sequence of int
        Number of rows; or the number i of each row, if the rows are part of a larger batch.

    Raises
    ------
    ValueError
        A value is out of range.

    Notes
    -----
    Penalties apply to the context: the tokens given to `start` and all tokens drawn since. Without penalties, no tokens
    are counted.
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
        penalties = (repetition_penalty, presence_penalty, frequency_penalty)
        SamplingSettings(temperature, top_k, top_p, min_p, *penalties)
        if seed is not None and seed < 0:
            raise ValueError(f"[sample] 'seed' must be 0 or more, got {seed}")
        self.temperature, self.top_k, self.top_p, self.min_p = temperature, top_k or None, top_p, min_p or None
        entropy = np.random.SeedSequence(seed).entropy
        # The same seeds as those of SeedSequence.spawn, so that a row's seed depends on its number alone.
        children = (np.random.SeedSequence(entropy, spawn_key=(i,)) for i in _numbers(batch))
        self.generators = [np.random.default_rng(child) for child in children]
        self._chain = compiled.Chain(
            temperature, top_k or 0, 1 if top_p is None else top_p, min_p or 0, *penalties, len(self.generators)
        )

    def start(self, tokens: npt.ArrayLike) -> None:
        """Replace the contexts of all rows, to which penalties apply.

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
        """Compute the distribution that the next token is drawn from.

        Parameters
        ----------
        logits : float array, shape (V,)
        row : int
            Number of the row whose context the penalties apply to.

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
        """Draw one token for each row of logits (B, V); int32 (B,).

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
    """Return the number of each row."""
    numbers = range(int(batch)) if isinstance(batch, (int, np.integer)) else batch
    if any(i < 0 for i in numbers):
        raise ValueError(f"[sample] 'batch' must be numbers of rows, 0 or more, got {min(numbers)}")
    return numbers


def most_likely(logits: np.ndarray, n: int) -> list[tuple[int, float]]:
    """Return the most likely tokens and their log-probabilities.

    Parameters
    ----------
    logits : float array, shape (V,)
    n : int
        Number of tokens; at most V are returned.

    Returns
    -------
    list of (int, float)
        Most likely first; the lower id first among equals.
    """
    n = min(n, len(logits))
    if n < 1:
        return []
    values = logprobs(logits)
    # Several tokens may equal the last one; those with the lower ids are taken.
    least = np.partition(values, values.size - n)[values.size - n]
    ids = np.flatnonzero(values >= least)
    chosen = ids[np.argsort(-values[ids], kind="stable")][:n]
    return [(int(i), float(values[i])) for i in chosen]


def logprobs(logits: np.ndarray) -> np.ndarray:
    """Compute log-probabilities at temperature 1, without penalties or truncation.

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
