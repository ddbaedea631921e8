"""Special tokens: what they are for, and where their names stand in a text."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np

from tinygpt.tokenizers.base import Ids


@dataclass(frozen=True)
class Roles:
    """What a model's files say about its special tokens.

    Parameters
    ----------
    eos_token : str, optional
        Ends what the model says: the end of a turn in a chat, for others the separator.
    bos_token : str, optional
        What the files name as beginning of a text. Whether a text does begin with it is said elsewhere: `first` of a
        tokenizer.
    pad_token : str, optional
        Fills up a row of a batch.
    chat_template : str, optional
        A Jinja template that turns messages into one text.
    """

    eos_token: str | None = None
    bos_token: str | None = None
    pad_token: str | None = None
    chat_template: str | None = None

    def names(self) -> dict[str, str]:
        """The tokens that are named, by the field that names them."""
        found = {"eos_token": self.eos_token, "bos_token": self.bos_token, "pad_token": self.pad_token}
        return {field: name for field, name in found.items() if name is not None}


class Cutter:
    """Finds the names of special tokens in a text, as Hugging Face ``tokenizers`` does.

    At a place the longest name counts, and it counts also where it is then left as text: with the special tokens
    ``<a>`` and ``<a><b>``, no ``<a>`` is found in ``<a><b>``.

    Parameters
    ----------
    ids : mapping of str to int
        Of special tokens.
    plain : collection of str
        Those that stand for themselves in any text.
    late : collection of str
        Those that are looked for in what the others have left.
    """

    def __init__(self, ids: Mapping[str, int], plain: Collection[str] = (), late: Collection[str] = ()):
        self._ids, self._plain = dict(ids), frozenset(plain)
        rounds = [[name for name in ids if name not in late], [name for name in ids if name in late]]
        self._rounds = [_any_of(names) for names in rounds if names]

    def encode(self, text: str, special: bool, encode: Callable[[str], Ids]) -> Ids:
        """The ids of a text.

        Parameters
        ----------
        text : str
        special : bool
            Whether names stand for their tokens; without, only the `plain` ones do.
        encode : callable
            Gives the ids of the text between.

        Returns
        -------
        int32 array, shape (n,)
        """
        if not special and not self._plain:
            return encode(text)
        pieces: list[str | int] = [text]
        for expression in self._rounds:
            pieces = [part for piece in pieces for part in self._cut(piece, expression, special)]
        found = [np.array([piece], np.int32) if isinstance(piece, int) else encode(piece) for piece in pieces]
        return np.concatenate([np.empty(0, np.int32), *found])

    def _cut(self, piece: str | int, expression: re.Pattern[str], special: bool) -> list[str | int]:
        """Text and ids by turns; an id is left as it is."""
        if isinstance(piece, int):
            return [piece]
        parts: list[str | int] = []
        start = 0
        for found in expression.finditer(piece):
            if special or found[0] in self._plain:
                parts += [piece[start : found.start()], self._ids[found[0]]]
                start = found.end()
        parts.append(piece[start:])
        return [part for part in parts if part != ""]


def _any_of(names: Collection[str]) -> re.Pattern[str]:
    """Of two names at one place, the expression finds the one that comes first in it: the longer."""
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))))
