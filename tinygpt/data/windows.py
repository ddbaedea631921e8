"""Tokens cut into sequences of one context each: what stands in which batch.

A window is block_size + 1 tokens; its first block_size are the inputs, its last block_size the targets. In an epoch the
windows lie side by side: each begins with the last token of the one before, so no token is a target twice. They begin
at an offset that the epoch draws (what lies before the first and after the last is left to other epochs), and come in
an order that the epoch draws.

Design
- Sequences are numbered from 0 over the whole run. Number n is place n % n_windows of epoch n // n_windows, and seed
  and epoch fix offset and order. So a batch follows from its number alone, and a run goes on at any step without
  replay. Rejected: a generator that is saved with a checkpoint, which every change of the loop can put out of step.
- n_windows is the number that fits at every offset. Rejected: as many as fit at the offset drawn, which differs between
  epochs and would make the epoch of a sequence depend on all epochs before it.
- Random numbers come from NumPy's RandomState, whose stream is frozen. Rejected: Generator, whose shuffles may differ
  after an upgrade in the middle of a run.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int32]

IGNORED = -1  # a target that the loss leaves out


class Windows:
    """The sequences of a training run.

    Parameters
    ----------
    tokens : int array, shape (n,)
        At least block_size + 1.
    block_size : int
        Context length T.
    seed : int
        At least 0.

    Attributes
    ----------
    n_windows : int
        Sequences per epoch, the same for each.

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
        # One window is given up, so that there are at least T offsets. Where there is but one to give, it is kept, and
        # there are as many offsets as there are tokens left.
        self.n_windows = max(1, (self.tokens.size - block_size) // block_size)
        # All of the room is used, or the last tokens would never be reached.
        self._last_offset = self.tokens.size - 1 - self.n_windows * block_size
        # A batch touches one epoch or, at its border, two.
        self._starts = lru_cache(maxsize=2)(self._draw_starts)

    def batch(self, first_sequence: int, count: int) -> tuple[Tokens, Tokens]:
        """Sequences one after the other.

        Parameters
        ----------
        first_sequence : int
            Number of the first, from 0 over the whole run: step times batch size.
        count : int
            How many, B.

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
        """Where the windows of an epoch begin, in the order of the epoch; shape (n_windows,)."""
        random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([self.seed, epoch])))
        offset = random.randint(self._last_offset + 1, dtype=np.int64)
        return offset + self.block_size * random.permutation(self.n_windows).astype(np.int64)


class StridedWindows:
    """Windows over a text that may overlap: every token but the first is a target of exactly one.

    Window r takes the tokens from r * stride on as inputs. Its targets are those that no window before it has: all of
    them in window 0, the last `stride` in the others, where at least window - stride + 1 tokens stand before each. With
    a stride of a whole window they lie side by side.

    Parameters
    ----------
    tokens : int array, shape (n,)
        At least 2.
    window : int
        How many tokens a prediction may look back over.
    stride : int, optional
        From one window to the next; at most `window`, which is the default.

    Attributes
    ----------
    n_windows : int
    width : int
        Inputs of a window: `window`, or n - 1 if the text is shorter.

    Raises
    ------
    TypeError, ValueError
        As `Windows`; also for a stride out of range.
    """

    def __init__(self, tokens: npt.ArrayLike, window: int, stride: int | None = None):
        self.tokens = _check_tokens("StridedWindows", tokens, window, 2)
        self.stride = window if stride is None else stride
        if not 1 <= self.stride <= window:
            raise ValueError(f"[StridedWindows] 'stride' must be in 1..{window}, got {stride}")
        self.width = min(window, self.tokens.size - 1)
        self.n_windows = 1 + -(-(self.tokens.size - 1 - self.width) // self.stride)

    def batch(self, numbers: npt.ArrayLike) -> tuple[Tokens, Tokens, npt.NDArray[np.int64]]:
        """Some windows.

        Parameters
        ----------
        numbers : int array, shape (B,)
            Each in 0 ... n_windows - 1.

        Returns
        -------
        inputs, targets : int32 arrays, shape (B, width)
            Where a target is another window's, or none, it is -1; inputs beyond the end are 0.
        places : int64 array, shape (B, width)
            Where the targets stand among the tokens.
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
    """Tokens as an int32 array, with room for what is to be done with them."""
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
