"""Fill-in-the-middle: documents to train on, written so that a model learns what stands between two texts.

A piece of text is cut at two random places, and its middle goes to the end (Bavarian et al. 2022, "Efficient Training
of Language Models to Fill in the Middle", the order that they call PSM):

    <|fim_prefix|> prefix <|fim_suffix|> suffix <|fim_middle|> middle <|endoftext|>

To fill a gap is then to continue a text, and the separator says where the middle ends.

Design
- Cuts lie between characters, before anything is tokenized, so that a prefix may end within a word, as it does where
  somebody is typing (their section 3.2). Rejected: cuts between tokens, which a model then expects.
- A whole document seldom fits a context, and a window that lacks one of the markers teaches nothing about filling. So
  what is rewritten is a piece of half a context on average (their "context level" has pieces of one context, since
  there the windows follow them; here they begin anywhere, and about half of the pieces lie in one window as a whole).
  The length is drawn: were it fixed, the middle would be as long as the others leave room for.
- What is drawn to be rewritten or not is a section, SECTION pieces in a row, and not each piece: between what is
  rewritten and what is not stands a separator, and too many of them would teach that a text ends anywhere. Most
  documents are one section.
- Random numbers follow from the seed and the path of the document, so that it does not matter which others there are or
  in which order. NumPy's RandomState has a frozen stream, so that a run goes on after an upgrade.
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
SECTION = 16  # pieces that are rewritten together


@dataclass(frozen=True)
class Markers:
    """The three special tokens.

    Parameters
    ----------
    prefix, suffix, middle : int
        Each stands before what it names.
    """

    prefix: int
    suffix: int
    middle: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Markers | None:
        """Those of a tokenizer, under one of the names that are known; None if it has none."""
        for names in (NAMES, *OTHERS):
            if all(name in tokenizer.special_tokens for name in names):
                return cls(*(tokenizer.special_tokens[name] for name in names))
        return None

    def around(self, prefix: Ids, suffix: Ids) -> Ids:
        """All that stands before the middle: the two parts with the markers, shape (n,)."""
        parts = ([self.prefix], prefix, [self.suffix], suffix, [self.middle])
        return np.concatenate([np.asarray(part, np.int32) for part in parts])


def never_drawn(tokenizer: Tokenizer, rows: int) -> tuple[int, ...]:
    """List the ids that generation must not draw.

    These are the markers, because a training window may start between two of them, so that a model expects them where
    they mean nothing; and the rows of the model beyond the vocabulary, which stand for no text.
    """
    markers = Markers.of(tokenizer)
    own = () if markers is None else (markers.prefix, markers.suffix, markers.middle)
    return (*own, *range(tokenizer.vocab_size, rows))


class Infilling:
    """Rewrites documents.

    Parameters
    ----------
    tokenizer : Tokenizer
        With markers.
    rate : float
        Share of the sections to rewrite, in [0, 1].
    block_size : int
        Context length of the model.
    seed : int

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
            raise ValueError(f"the tokenizer has no special tokens {', '.join(NAMES)}, which --fim-rate needs")
        self.tokenizer, self.rate, self.block_size, self.seed, self.markers = tokenizer, rate, block_size, seed, markers

    def encode(self, document: Document) -> list[Ids]:
        """A document as one or more parts, between which separators belong.

        Parameters
        ----------
        document : Document

        Returns
        -------
        list of int32 arrays, shape (n,) each
            Rewritten pieces, and between them the sections that stay as they are.
        """
        random = self._random(document.path)
        text = document.text
        ids = self.tokenizer.encode(text)
        # Characters that half a context holds, if all tokens of the document are equally long.
        usual = max(2, self.block_size * len(text) // (2 * max(1, len(ids))))
        parts: list[Ids] = []
        plain = start = 0  # where the text begins that is not in `parts` yet, and the section
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
        """The random numbers of a document."""
        digest = hashlib.sha256(f"infilling:{self.seed}:{path}".encode("utf-8", "surrogateescape")).digest()
        return np.random.RandomState(np.random.MT19937(np.random.SeedSequence(int.from_bytes(digest, "little"))))

    @staticmethod
    def _ends(text: str, start: int, usual: int, random: np.random.RandomState) -> list[int]:
        """Where the pieces of one section end: after 1/2 to 3/2 of the usual length, at the end of a line if it can."""
        ends: list[int] = []
        while len(ends) < SECTION and start < len(text):
            stop = min(len(text), start + usual // 2 + int(random.randint(usual + 1, dtype=np.int64)))
            line = text.rfind("\n", start + (stop - start) // 2, stop) + 1
            start = stop if stop == len(text) or not line else line
            ends.append(start)
        return ends

    def _moved(self, piece: str, random: np.random.RandomState) -> Ids:
        """A piece with its middle at the end."""
        first, last = sorted(random.randint(len(piece) + 1, size=2, dtype=np.int64).tolist())
        encode = self.tokenizer.encode
        before = self.markers.around(encode(piece[:first]), encode(piece[last:]))
        return np.concatenate([before, encode(piece[first:last])])
