"""Batches of token sequences: the corpus is cut into windows of one context each.

A window is block_size + 1 tokens. Its first block_size tokens are the inputs, its last block_size the targets. In each
epoch the windows are adjacent: each begins with the last token of the one before, so no token is a target twice. Every
epoch draws a random offset for the first window and a random order. Tokens before the first window and after the last
are used in other epochs.

Design
- Sequences are numbered from 0 over the whole run. Number n is window n % n_windows of epoch n // n_windows, and seed
  and epoch determine offset and order. A batch is a function of its number alone, so a run can resume at any step
  without replay. Rejected: a generator saved with the checkpoint, because changes of the training loop would shift it.
- n_windows is the number of windows that fit at every offset. Rejected: the number that fit at the current offset. It
  differs between epochs, so the epoch of a sequence would depend on all epochs before it.
- Random numbers come from NumPy's RandomState, whose stream is frozen. Rejected: Generator, whose shuffles may change
  with an upgrade in the middle of a run.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int32]

IGNORED = -1  # a target that the loss ignores


class Windows:
    """Numbered sequences of a training run.

    Parameters
    ----------
    tokens : int array, shape (n,)
        Token ids of the corpus, at least block_size + 1 of them.
    block_size : int
        Context length T, at least 1.
    seed : int
        Random seed for offsets and orders, at least 0.

    Attributes
    ----------
    n_windows : int
        Number of sequences per epoch, the same in every epoch.

    Raises
    ------
    TypeError
        `tokens` are not integers.
    ValueError
        There are too few tokens, they have more than one axis, or a number is out of range.
    """

    def __init__(self, tokens: npt.ArrayLike, block_size: int, seed: int = 0):
        if seed < 0:
            raise ValueError(f"[Windows] 'seed' must be at least 0, got {seed}")
        self.tokens = _check_tokens("Windows", tokens, block_size, block_size + 1)
        self.block_size = block_size
        self.seed = seed
        # One window fewer than would fit, so that there are at least T offsets. A corpus with room for a single window
        # keeps it and has as many offsets as there are tokens left over.
        self.n_windows = max(1, (self.tokens.size - block_size) // block_size)
        # The last offset uses all tokens, because otherwise the last ones would never be trained on.
        self._last_offset = self.tokens.size - 1 - self.n_windows * block_size
        # A batch lies in one epoch or, at its end, in two.
        self._starts = lru_cache(maxsize=2)(self._draw_starts)

    def batch(self, first_sequence: int, count: int) -> tuple[Tokens, Tokens]:
        """Return consecutive sequences as inputs and targets.

        Parameters
        ----------
        first_sequence : int
            Number of the first sequence, counted from 0 over the whole run: step times batch size.
        count : int
            Number of sequences B in the batch.

        Returns
        -------
        inputs, targets : int32 arrays, shape (B, T)
            targets[b, t] is the token after inputs[b, t].

        Raises
        ------
        ValueError
            `first_sequence` is negative, or `count` is below 1.
        """
        if first_sequence < 0:
            raise ValueError(f"[batch] 'first_sequence' must be at least 0, got {first_sequence}")
        if count < 1:
            raise ValueError(f"[batch] 'count' must be at least 1, got {count}")
        places = [divmod(n, self.n_windows) for n in range(first_sequence, first_sequence + count)]
        starts = np.array([self._starts(epoch)[place] for epoch, place in places])
        windows = self.tokens[starts[:, None] + np.arange(self.block_size + 1)]
        return np.ascontiguousarray(windows[:, :-1]), np.ascontiguousarray(windows[:, 1:])

    def _draw_starts(self, epoch: int) -> npt.NDArray[np.int64]:
        """Start positions of the windows of one epoch, in its order; shape (n_windows,)."""
        random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([self.seed, epoch])))
        offset = random.randint(self._last_offset + 1, dtype=np.int64)
        return offset + self.block_size * random.permutation(self.n_windows).astype(np.int64)


class StridedWindows:
    """Overlapping windows over a text, for evaluation: every token except the first is a target exactly once.

    The inputs of window r begin at token r * stride. Its targets are the tokens that no earlier window predicts: all of
    them in window 0, the last `stride` in the others. Each of the latter is predicted from at least window - stride + 1
    tokens. With a stride of a whole window, the windows are adjacent.

    Parameters
    ----------
    tokens : int array, shape (n,)
        Token ids, at least 2 of them.
    window : int
        Largest number of tokens that a prediction may use.
    stride : int, optional
        Distance in tokens between the starts of two windows, in 1 .. `window`. Default: `window`.

    Attributes
    ----------
    n_windows : int
        Number of windows.
    width : int
        Number of inputs in a window: `window`, or n - 1 if the text is shorter.

    Raises
    ------
    TypeError
        `tokens` are not integers.
    ValueError
        There are too few tokens, they have more than one axis, or `window` or `stride` is out of range.
    """

    def __init__(self, tokens: npt.ArrayLike, window: int, stride: int | None = None):
        self.tokens = _check_tokens("StridedWindows", tokens, window, 2)
        self.stride = window if stride is None else stride
        if not 1 <= self.stride <= window:
            raise ValueError(f"[StridedWindows] 'stride' must be in 1..{window}, got {stride}")
        self.width = min(window, self.tokens.size - 1)
        self.n_windows = 1 + -(-(self.tokens.size - 1 - self.width) // self.stride)

    def batch(self, numbers: npt.ArrayLike) -> tuple[Tokens, Tokens, npt.NDArray[np.int64]]:
        """Return the windows with the given numbers.

        Parameters
        ----------
        numbers : int array, shape (B,)
            Window numbers, each in 0 .. n_windows - 1.

        Returns
        -------
        inputs, targets : int32 arrays, shape (B, width)
            A target is -1 if another window predicts it or the text has ended; inputs beyond the end are 0.
        places : int64 array, shape (B, width)
            Positions of the targets among the tokens.
        """
        rows = np.asarray(numbers, np.int64)[:, None]
        at = rows * self.stride + np.arange(self.width)
        there = at + 1 < self.tokens.size
        known = np.where(there, at, 0)
        inputs = np.where(there, self.tokens[known], 0)
        ours = there & ((rows == 0) | (np.arange(self.width) >= self.width - self.stride))
        targets = np.where(ours, self.tokens[np.where(ours, at + 1, 0)], IGNORED)
        return inputs.astype(np.int32, copy=False), targets.astype(np.int32, copy=False), at + 1


def _check_tokens(op: str, tokens: npt.ArrayLike, block_size: int, at_least: int) -> Tokens:
    """Convert tokens to an int32 array, after checking axis, length and dtype."""
    if block_size < 1:
        raise ValueError(f"[{op}] 'block_size' must be at least 1, got {block_size}")
    array: npt.NDArray[Any] = np.asarray(tokens)
    if array.ndim != 1:
        raise ValueError(f"[{op}] 'tokens' must have one axis, got shape {array.shape}")
    if array.size < at_least:
        raise ValueError(f"[{op}] 'tokens' must be at least {at_least} long, got {array.size}")
    if array.dtype.kind not in "iu":
        raise TypeError(f"[{op}] 'tokens' must be integers, got {array.dtype}")
    return array.astype(np.int32, copy=False)
