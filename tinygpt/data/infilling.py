"""Fill-in-the-middle: training documents rearranged so that a model learns to fill a gap between two texts.

A piece of text is cut at two random places and its middle is moved to the end. The order is PSM (prefix, suffix,
middle) of Bavarian et al. 2022, "Efficient Training of Language Models to Fill in the Middle":

    <|fim_prefix|> prefix <|fim_suffix|> suffix <|fim_middle|> middle <|endoftext|>

Filling a gap is then the same as continuing a text, and the separator marks the end of the middle.

Design
- The text is cut between characters, before it is tokenized, so that a prefix may end within a word, as it does while
  somebody is typing (their section 3.2). Rejected: cuts between tokens, because a model would then expect them there.
- Pieces are half a context long on average. A whole document rarely fits a context, and a window without all three
  markers teaches nothing about filling. Their "context level" uses pieces of one context, because their windows are
  aligned with the pieces. Windows here begin anywhere, and about half of the pieces lie within one window.
- The length of a piece is random. With a fixed length, a model could infer the length of the middle from the rest.
- Sections of SECTION pieces are rewritten or kept as a whole, because a separator is needed at every change between the
  two. Too many separators would teach the model that a text may end anywhere. Most documents are one section.
- Random numbers depend on the seed and the document's path alone, so that other documents and their order do not
  matter. They come from NumPy's RandomState, whose stream is frozen, so that a run can resume after an upgrade.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinygpt.data.discover import Document
from tinygpt.tokenizers.base import Tokenizer

Ids = npt.NDArray[np.int32]

NAMES = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")  # as in Qwen2.5-Coder
OTHERS = (("<fim_prefix>", "<fim_suffix>", "<fim_middle>"), ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"))
SECTION = 16  # pieces that are rewritten or kept together


@dataclass(frozen=True)
class Markers:
    """Ids of the three special tokens that mark prefix, suffix and middle.

    Parameters
    ----------
    prefix, suffix, middle : int
        Token id of the marker before each part.
    """

    prefix: int
    suffix: int
    middle: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Markers | None:
        """Find a tokenizer's fill-in-the-middle tokens by their known names; None if it has none."""
        for names in (NAMES, *OTHERS):
            if all(name in tokenizer.special_tokens for name in names):
                return cls(*(tokenizer.special_tokens[name] for name in names))
        return None

    def around(self, prefix: Ids, suffix: Ids) -> Ids:
        """Build the prompt for a middle: prefix and suffix with the three markers, shape (n,)."""
        parts = ([self.prefix], prefix, [self.suffix], suffix, [self.middle])
        return np.concatenate([np.asarray(part, np.int32) for part in parts])


def never_drawn(tokenizer: Tokenizer, rows: int) -> tuple[int, ...]:
    """List the ids that generation must not draw.

    These are the markers, because a training window may start between two of them, so that a model predicts them where
    they have no meaning. They are also the rows of the model beyond the vocabulary, which have no text.
    """
    markers = Markers.of(tokenizer)
    own = () if markers is None else (markers.prefix, markers.suffix, markers.middle)
    return (*own, *range(tokenizer.vocab_size, rows))


class Infilling:
    """Rewriter that turns a share of the training documents into fill-in-the-middle examples.

    Parameters
    ----------
    tokenizer : Tokenizer
        Tokenizer that has the three markers.
    rate : float
        Share of the sections to rewrite, in [0, 1].
    block_size : int
        Context length of the model, in tokens.
    seed : int
        Random seed for the choice of sections and cuts.

    Raises
    ------
    ValueError
        `rate` is out of range, or the tokenizer has no markers.
    """

    def __init__(self, tokenizer: Tokenizer, rate: float, block_size: int, seed: int = 0):
        if not 0 <= rate <= 1:
            raise ValueError(f"[Infilling] 'rate' must be in 0..1, got {rate}")
        markers = Markers.of(tokenizer)
        if markers is None:
            raise ValueError(f"[Infilling] 'rate' needs a tokenizer with the special tokens {', '.join(NAMES)}")
        self.tokenizer, self.rate, self.block_size, self.seed, self.markers = tokenizer, rate, block_size, seed, markers

    def encode(self, document: Document) -> list[Ids]:
        """Encode a document as one or more parts, to be joined by separators.

        Parameters
        ----------
        document : Document

        Returns
        -------
        list of int32 arrays, shape (n,) each
            Rewritten pieces and, between them, the sections that are kept.
        """
        random = self._random(document.path)
        text = document.text
        ids = self.tokenizer.encode(text)
        # Characters in half a context, from the average token length of this document.
        usual = max(2, self.block_size * len(text) // (2 * max(1, len(ids))))
        parts: list[Ids] = []
        plain = start = 0  # start of the text not yet in `parts`, and of the current section
        while start < len(text):
            chosen = random.random_sample() < self.rate
            ends = self._ends(text, start, usual, random)
            if chosen:
                if plain < start:
                    parts.append(self.tokenizer.encode(text[plain:start]))
                parts += [self._moved(text[a:b], random) for a, b in zip([start, *ends], ends, strict=False)]
                plain = ends[-1]
            start = ends[-1]
        if plain < len(text) or not parts:
            parts.append(self.tokenizer.encode(text[plain:]) if plain else ids)
        return parts

    def _random(self, path: str) -> np.random.RandomState:
        """Create the random number generator of one document."""
        digest = hashlib.sha256(f"infilling:{self.seed}:{path}".encode("utf-8", "surrogateescape")).digest()
        return np.random.RandomState(np.random.MT19937(np.random.SeedSequence(int.from_bytes(digest, "little"))))

    @staticmethod
    def _ends(text: str, start: int, usual: int, random: np.random.RandomState) -> list[int]:
        """End positions of the pieces of one section: 1/2 to 3/2 of the usual length, at a line end if possible."""
        ends: list[int] = []
        while len(ends) < SECTION and start < len(text):
            stop = min(len(text), start + usual // 2 + int(random.randint(usual + 1, dtype=np.int64)))
            line = text.rfind("\n", start + (stop - start) // 2, stop) + 1
            start = stop if stop == len(text) or not line else line
            ends.append(start)
        return ends

    def _moved(self, piece: str, random: np.random.RandomState) -> Ids:
        """Cut a piece at two random places and move its middle to the end."""
        first, last = sorted(random.randint(len(piece) + 1, size=2, dtype=np.int64).tolist())
        encode = self.tokenizer.encode
        before = self.markers.around(encode(piece[:first]), encode(piece[last:]))
        return np.concatenate([before, encode(piece[first:last])])
