"""The prefix cache: keys and values of earlier prompts, shared by requests that begin with the same tokens.

Only prompts are kept, not answers, although the next turn of a chat contains them. Tokens that were decoded and tokens
that were read from a prompt differ in their last bits, so reusing answers would make a seeded result depend on which
requests came before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinygpt.cache import SequenceCache, common_prefix
from tinygpt.config import GPTConfig

SHORTEST = 16  # tokens; reusing fewer saves less time than the search takes
MOST = 256  # entries, because every new prompt is compared with all of them


@dataclass(eq=False)
class Entry:
    """A prompt, and the cache of a sequence that begins with it."""

    ids: np.ndarray
    cache: SequenceCache
    in_use: bool = True  # by the sequence that computed it


class PrefixCache:
    """Keys and values of prompts, least recently used first.

    Parameters
    ----------
    config : GPTConfig
    """

    def __init__(self, config: GPTConfig):
        self._config = config
        self._entries: list[Entry] = []

    @property
    def tokens(self) -> int:
        """Number of positions held for later requests, without those of running ones."""
        return sum(len(entry.ids) for entry in self._entries if not entry.in_use)

    def __len__(self) -> int:
        return len(self._entries)

    def fill(self, cache: SequenceCache, ids: np.ndarray, most: int) -> int:
        """Copy the longest known beginning of a prompt into an empty cache.

        Parameters
        ----------
        cache : SequenceCache
        ids : int array, shape (n,)
        most : int
            Largest number of tokens to take over.

        Returns
        -------
        int
            Number of tokens taken over, 0 if fewer than SHORTEST are known.
        """
        best, length = None, SHORTEST - 1
        for entry in self._entries:
            n = min(most, common_prefix(entry.ids, ids))
            if n > length:
                best, length = entry, n
        if best is None:
            return 0
        self._entries.remove(best)
        self._entries.append(best)
        cache.copy_from(best.cache, length)
        return length

    def add(self, ids: np.ndarray, cache: SequenceCache) -> None:
        """Share the prompt of a running sequence; shorter entries that it begins with are dropped."""
        if len(ids) < SHORTEST:
            return
        covered = [one for one in self._entries if not one.in_use and common_prefix(one.ids, ids) == len(one.ids)]
        self._entries = [one for one in self._entries if one not in covered]
        self._entries.append(Entry(ids, cache))
        while len(self._entries) > MOST and self.evict():
            pass

    def release(self, cache: SequenceCache) -> None:
        """Keep only the prompt of a sequence that has ended, unless another entry begins with it."""
        entry = next((one for one in self._entries if one.cache is cache), None)
        if entry is None:
            return
        others = (one for one in self._entries if one is not entry)
        if any(common_prefix(one.ids, entry.ids) == len(entry.ids) for one in others):
            self._entries.remove(entry)
            return
        kept = SequenceCache(self._config, len(entry.ids))
        kept.copy_from(cache, len(entry.ids))
        entry.cache, entry.in_use = kept, False

    def evict(self) -> bool:
        """Drop the entry that was not used for the longest time; False if all belong to running sequences."""
        entry = next((one for one in self._entries if not one.in_use), None)
        if entry is not None:
            self._entries.remove(entry)
        return entry is not None
