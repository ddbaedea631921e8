"""The parts of a byte-level BPE tokenizer, and the checks that they fit together.

In a file a token is written in letters, one for each of its bytes: a byte that prints as a Latin-1 character is that
character, and the 68 others are the characters from U+0100 on. So a space is U+0120 in GPT-2's files, in a
``tokenizer.json`` and in a GGUF file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tinygpt.io.strict import shown
from tinygpt.tokenizers.base import SEPARATOR
from tinygpt.tokenizers.patterns import PATTERNS
from tinygpt.tokenizers.special import Roles

BYTES = 256
# A vocabulary without these bytes cannot encode a program. Others may be missing, because Hugging Face's trainer makes
# no token for a byte that it did not see.
REQUIRED = bytes([0x0A, *range(0x20, 0x7F)])
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(BYTES) if byte not in _PRINTABLE]
LETTERS = {**{byte: chr(byte) for byte in _PRINTABLE}, **{byte: chr(BYTES + i) for i, byte in enumerate(_OTHERS)}}
_BYTE_OF = {letter: byte for byte, letter in LETTERS.items()}

Merge = tuple[bytes, bytes]


def to_letters(token: bytes) -> str:
    """Write a token as files do: one letter for each byte."""
    return token.decode("latin-1").translate(LETTERS)


def from_letters(text: str) -> bytes | None:
    """Read a token that `to_letters` wrote; None if a character is not one of the 256 letters."""
    try:
        return bytes(map(_BYTE_OF.__getitem__, text))
    except KeyError:
        return None


def _shown_token(token: bytes | str) -> str:
    return shown(to_letters(token) if isinstance(token, bytes) else token)


@dataclass(frozen=True)
class Names:
    """Words for the parts of a vocabulary in errors; a reader of files passes the names of its fields."""

    vocab: str = "'vocab'"
    merges: str = "'merges' row"
    first_merge: int = 0
    special_tokens: str = "'special_tokens'"
    eos: str = "'roles'"


@dataclass(frozen=True)
class Parts:
    """The parts of a byte-level BPE tokenizer.

    Parameters
    ----------
    vocab : mapping of bytes to int
        Token to id.
    merges : list of (bytes, bytes)
        The pairs that are merged, by rank.
    special_tokens : mapping of str to int
        Name to id. None of them is in `vocab`, except one whose text and id are those of a token there.
    pattern : str
        A name in `PATTERNS`.
    ignore_merges : bool
        Whether a word that is a token is encoded as that token, without regard to merges.
    first : str, optional
        The special token at the beginning of every document.
    plain : frozenset of str
        Special tokens that are found in any text, even where special tokens are text.
    late : frozenset of str
        Special tokens that are searched for in the text that the others leave.
    roles : Roles
        Roles of the special tokens.
    names : Names
        Words for errors.
    """

    vocab: Mapping[bytes, int]
    merges: list[Merge]
    special_tokens: Mapping[str, int]
    pattern: str
    ignore_merges: bool = False
    first: str | None = None
    plain: frozenset[str] = frozenset()
    late: frozenset[str] = frozenset()
    roles: Roles = field(default_factory=Roles)
    names: Names = field(default_factory=Names)

    def check(self) -> None:
        """Check that the parts make a tokenizer.

        Raises
        ------
        ValueError
            A byte of ASCII text has no token, ids are not 0 ... n - 1, a merge occurs twice or needs or makes a token
            that is not in the vocabulary, a special token is not text, is written like another token or has a role
            without being there, or the separator is not known.
        """
        if self.pattern not in PATTERNS:
            raise ValueError(f"'pattern' must be one of {', '.join(PATTERNS)}, got {shown(self.pattern)}")
        for byte in REQUIRED:
            if bytes([byte]) not in self.vocab:
                raise ValueError(
                    f"{self.names.vocab} must have a token for every byte of ASCII text, there is none for 0x{byte:02X}"
                )
        if b"" in self.vocab:
            raise ValueError(f"{self.names.vocab} must not have an empty token")
        self._check_special()
        self._check_merges()  # before the ids, because a missing token leaves a gap in them
        self._check_ids()

    @property
    def shared(self) -> frozenset[str]:
        """Special tokens that merges can make too, with the same id: added tokens such as "def"."""
        both = (name for name in self.special_tokens if name.encode() in self.vocab)
        return frozenset(name for name in both if self.vocab[name.encode()] == self.special_tokens[name])

    @property
    def size(self) -> int:
        """Number of tokens."""
        return len(self.vocab) + len(self.special_tokens) - len(self.shared)

    def separator(self) -> str:
        """Return the name of the token between documents."""
        return SEPARATOR if SEPARATOR in self.special_tokens else str(self.roles.eos_token)

    def beginning(self) -> str:
        """Return the token that files name as the beginning of a text, whether or not texts begin with it."""
        return self.first or self.roles.bos_token or self.separator()

    def _check_special(self) -> None:
        where = self.names.special_tokens
        for name in self.special_tokens:
            if not isinstance(name, str) or not name or any("\ud800" <= char <= "\udfff" for char in name):
                raise ValueError(f"{where} must be text without lone surrogates, got {shown(name)}")
            # A file writes both in the same way, so they must be one token with one text.
            letters = from_letters(name)
            if letters in self.vocab and (letters != name.encode() or self.vocab[letters] != self.special_tokens[name]):
                raise ValueError(f"{where} must not be written like a token of the vocabulary, got {shown(name)}")
        for role, name in (*self.roles.names().items(), *(("a first token", one) for one in [self.first] if one)):
            if name not in self.special_tokens:
                raise ValueError(f"{where} must have {shown(name)}, which is named as {role}")
        for name in (*self.plain, *self.late, *self.roles.additional):
            if name not in self.special_tokens:
                raise ValueError(f"{where} must have {shown(name)}")
        if SEPARATOR not in self.special_tokens and self.roles.eos_token is None:
            raise ValueError(f"{where} must have the separator '{SEPARATOR}', or {self.names.eos} name another")

    def _check_ids(self) -> None:
        shared = self.shared
        special = [(name, i) for name, i in self.special_tokens.items() if name not in shared]
        tokens: list[tuple[bytes | str, Any]] = [*self.vocab.items(), *special]
        holder: dict[int, bytes | str] = {}
        for token, i in tokens:
            where = self.names.special_tokens if isinstance(token, str) else self.names.vocab
            if type(i) is not int or not 0 <= i < len(tokens):
                ids = f"there are {len(tokens)} tokens, so ids must be 0 ... {len(tokens) - 1}"
                raise ValueError(f"{where}: {ids}, got {shown(i)} for {_shown_token(token)}")
            if i in holder:
                raise ValueError(f"{where} has id {i} twice, for {_shown_token(holder[i])} and {_shown_token(token)}")
            holder[i] = token

    def _check_merges(self) -> None:
        seen: set[Merge] = set()
        for row, (left, right) in enumerate(self.merges, self.names.first_merge):
            where = f"{self.names.merges} {row}"
            for token in (left, right, left + right):
                if token not in self.vocab:
                    raise ValueError(f"{where} needs {_shown_token(token)}, which is not in the vocabulary")
            if (left, right) in seen:
                raise ValueError(f"{where} occurs before: {shown(to_letters(left) + ' ' + to_letters(right))}")
            seen.add((left, right))

    def byte_ids(self) -> npt.NDArray[np.int32]:
        """Return the ids of the bytes, shape (256,); -1 for a byte without a token."""
        return np.array([self.vocab.get(bytes([byte]), -1) for byte in range(BYTES)], np.int32)

    def merge_ids(self) -> npt.NDArray[np.int32]:
        """Return rows of left id, right id and the id of the merged token, shape (M, 3), by rank."""
        rows = [(self.vocab[a], self.vocab[b], self.vocab[a + b]) for a, b in self.merges]
        return np.array(rows, np.int32).reshape(-1, 3)
