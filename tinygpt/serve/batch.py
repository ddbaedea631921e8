"""Forward passes for many sequences at once, whose results for one sequence do not depend on the others.

Design
- Kernels choose a path by the number of rows, and two paths round differently: up to 4 rows are dot products, more rows
  use the micro-kernel; packed weights change between 16 and 17 rows. Within a path, a row has the same bits whatever
  the other rows are. So every pass stays on one path: rows are added up to LEAST, and packed weights decode at most
  PACKED_FEW rows and read prompts with more. A request then gives the same tokens alone and among 63 others.
- Attention changes its path between 4 and 5 queries. A prompt is therefore read in chunks of at least LEAST tokens,
  and tokens that are decoded are never mixed with those of a prompt.
- Rejected: one pass for prompts and decoding together. It saves reading the weights once, but ties the bits of a
  sequence to what it shares the pass with.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinygpt.cache import RaggedCache, Span
from tinygpt.model import GPT
from tinygpt.tensor import no_grad

LEAST = 5  # rows of a matmul and queries of attention, from which on a row's bits are those of any larger number
PACKED_FEW = 16  # most rows that a packed matmul computes as dot products

Ids = np.ndarray


class Forward:
    """Forward passes of one model.

    Parameters
    ----------
    model : GPT

    Attributes
    ----------
    most : int or None
        Largest number of sequences in one call; None means no limit.
    """

    def __init__(self, model: GPT):
        self.model = model
        packed = next(model.named_packed(), None) is not None
        self.most = PACKED_FEW if packed else None
        self._least_prompt = PACKED_FEW + 1 if packed else LEAST

    def read(self, parts: Sequence[tuple[Span, Ids]]) -> np.ndarray:
        """Read parts of prompts.

        Parameters
        ----------
        parts : sequence of (Span, int array)
            For each sequence its cache, which is extended, and its next tokens: at least LEAST, or a whole prompt.

        Returns
        -------
        float32 array, shape (n, V)
            Logits after the last token of each part.
        """
        return self._pass(parts, self._least_prompt)

    def decode(self, parts: Sequence[tuple[Span, Ids]]) -> np.ndarray:
        """Read one token of each sequence; see `read`."""
        return self._pass(parts, LEAST)

    def _pass(self, parts: Sequence[tuple[Span, Ids]], least: int) -> np.ndarray:
        tokens = np.concatenate([ids for _, ids in parts])
        padding = max(0, least - len(tokens))
        cache = RaggedCache([span for span, _ in parts], padding, ends=LEAST)
        row = np.concatenate([tokens, np.zeros(padding, tokens.dtype)])
        with no_grad():
            return self.model(row[None], cache, last=True).data[0, : len(parts)]
