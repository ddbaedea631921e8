"""How well a model predicts a text: loss, perplexity, bits per byte."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tinygpt.data.windows import evaluation_windows
from tinygpt.model import GPT
from tinygpt.tensor import no_grad

BATCH_TOKENS = 8192


@dataclass(frozen=True)
class Score:
    """The result of an evaluation.

    Attributes
    ----------
    loss : float
        Mean over the predicted tokens, in nats.
    tokens : int
        Predicted tokens.
    bytes_per_token : float
        Of the text that was evaluated.
    """

    loss: float
    tokens: int
    bytes_per_token: float

    @property
    def perplexity(self) -> float:
        """exp(loss): the number of equally likely tokens that would be as hard to predict."""
        return math.exp(min(self.loss, 700))

    @property
    def bits_per_byte(self) -> float:
        """Loss per byte of text, in bits: comparable between tokenizers."""
        return self.loss / math.log(2) / self.bytes_per_token


def evaluate(
    model: GPT,
    tokens: np.ndarray,
    n_bytes: int,
    max_tokens: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Score:
    """Let a model predict every token of a text from those before it, one context at a time.

    Parameters
    ----------
    model : GPT
    tokens : int array, shape (N,)
        At least two.
    n_bytes : int
        Length of the text in UTF-8.
    max_tokens : int, optional
        Evaluate about so many, in contexts spread evenly over the text: always the same ones.
    progress : callable, optional
        Is told (contexts done, contexts in all).

    Returns
    -------
    Score
    """
    T = model.config.block_size
    inputs, targets = evaluation_windows(tokens, T)
    if max_tokens is not None and len(inputs) * T > max_tokens:
        some = np.linspace(0, len(inputs) - 1, max(1, max_tokens // T)).astype(np.int64)
        inputs, targets = inputs[some], targets[some]
    total, count, batch = 0.0, 0, max(1, BATCH_TOKENS // T)
    for start in range(0, len(inputs), batch):
        x, y = inputs[start : start + batch], targets[start : start + batch]
        n = int(np.count_nonzero(y >= 0))
        with no_grad():
            total += model.loss(x, y).item() * n
        count += n
        if progress is not None:
            progress(min(start + batch, len(inputs)), len(inputs))
    return Score(total / max(1, count), count, n_bytes / max(1, len(tokens)))
