"""Special tokens: their roles, and how their names are found in a text."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tinygpt.tokenizers.base import Ids

# In the order in which transformers adds tokens that the vocabulary does not have.
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class Roles:
    """The roles of a model's special tokens, as its files state them.

    Parameters
    ----------
    eos_token : str, optional
        Ends an answer: the end of a turn in a chat model, the separator in others.
    bos_token : str, optional
        Named as the beginning of a text. Whether texts do begin with it is stated elsewhere: `first` of a tokenizer.
    pad_token : str, optional
        Fills up a row of a batch. Here it is kept for other programs, as are the next four.
    chat_template : str, optional
        A Jinja template that turns messages into one text.
    unk_token, sep_token, cls_token, mask_token : str, optional
        Roles of other kinds of models.
    additional : tuple of str
        Special tokens without a role.
    end_ids : frozenset of int
        Ids of further tokens that end a text; an id that is not in the vocabulary has no effect.
    """

    eos_token: str | None = None
    bos_token: str | None = None
    pad_token: str | None = None
    chat_template: str | None = None
    unk_token: str | None = None
    sep_token: str | None = None
    cls_token: str | None = None
    mask_token: str | None = None
    additional: tuple[str, ...] = ()
    end_ids: frozenset[int] = frozenset()

    def names(self) -> dict[str, str]:
        """Return the tokens that have a role, by the field that names them."""
        found = {role: getattr(self, role) for role in ROLES}
        return {role: name for role, name in found.items() if name is not None}

    def with_names(self, names: Mapping[str, str | None]) -> Roles:
        """Copy the roles with other tokens for some of `ROLES`."""
        changes: dict[str, Any] = dict(names)
        return replace(self, **changes)


class Cutter:
    """Cuts a text at the names of special tokens, as Hugging Face ``tokenizers`` does.

    Of several names at the same place, the longest counts, even if it then stays text: with the special tokens ``<a>``
    and ``<a><b>``, no ``<a>`` is found in ``<a><b>``.

    Parameters
    ----------
    ids : mapping of str to int
        Special tokens, name to id.
    plain : collection of str
        Names that are found in any text.
    late : collection of str
        Names that are searched for in the text that the others leave.
    """

    def __init__(self, ids: Mapping[str, int], plain: Collection[str] = (), late: Collection[str] = ()):
        self._ids, self._plain = dict(ids), frozenset(plain)
        rounds = [[name for name in ids if name not in late], [name for name in ids if name in late]]
        self._rounds = [_any_of(names) for names in rounds if names]

    def encode(self, text: str, special: bool, encode: Callable[[str], Ids]) -> Ids:
        """Encode a text.

        Parameters
        ----------
        text : str
        special : bool
            Whether all names are found, or only the `plain` ones.
        encode : callable
            Encodes the text between the names.

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
        """Cut a piece of text at the names of one round; a piece that is an id stays."""
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
    """Make an expression that finds the longest of the names at a place."""
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))))
