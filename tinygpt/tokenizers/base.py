"""The interface of every tokenizer, and the checks that all tokenizers share."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]

SEPARATOR = "<|endoftext|>"  # the token between documents, under GPT-2's name


class Decoder(ABC):
    """Streaming decoder: ids to text, piece by piece, while tokens are generated.

    A piece is returned once no later id can change it. All pieces joined, with the one that `flush` returns, equal
    `Tokenizer.decode` of all ids.
    """

    @abstractmethod
    def feed(self, ids: npt.ArrayLike) -> str:
        """Take the next ids and return the text that they complete.

        Parameters
        ----------
        ids : int or int array, shape (n,)

        Returns
        -------
        str
            Empty while a character is incomplete.

        Raises
        ------
        TypeError, ValueError, IndexError
            See `Tokenizer.decode`; the decoder is then unchanged.
        """

    @abstractmethod
    def flush(self) -> str:
        """End the text: return the rest, and reset the decoder."""


class Tokenizer(ABC):
    """Interface of a tokenizer: text to ids and back.

    Attributes
    ----------
    vocab_size : int
        Number of tokens; ids are 0 ... vocab_size - 1.
    special_tokens : dict
        Name to id of the special tokens, the separator among them. By default, their names in a text are ordinary text.
    eot_id : int
        Id of the separator between documents.
    end_ids : frozenset of int
        Ids that end generation: the separator, the end of a turn in a chat, and others that the model's files name.
    bos_id : int or None
        Id at the beginning of every document; None if the model expects none.
    start_id : int
        Id that files name as the beginning of a text: `bos_id`, or a token that begins the turns of a chat, or else the
        separator.
    chat_template : str or None
        A Jinja template that turns messages into one text.
    """

    vocab_size: int
    special_tokens: dict[str, int]
    eot_id: int
    end_ids: frozenset[int]
    bos_id: int | None = None
    start_id: int
    chat_template: str | None = None

    @abstractmethod
    def encode(self, text: str, special: bool = False) -> Ids:
        """Encode text as ids.

        Parameters
        ----------
        text : str
            Text without lone surrogates.
        special : bool
            Whether names of special tokens in the text are encoded as these tokens. Of two names that begin at the same
            place, the longer one counts.

        Returns
        -------
        int32 array, shape (n,)

        Raises
        ------
        TypeError
            `text` is not a str.
        ValueError
            `text` has a lone surrogate, which UTF-8 cannot encode.
        """

    def prompt(self, text: str, special: bool = False) -> Ids:
        """Encode a prompt for generation.

        Parameters
        ----------
        text : str
            An empty text is the beginning of a document.
        special : bool
            See `encode`.

        Returns
        -------
        int32 array, shape (n,)
            `bos_id`, if there is one, and the text; the separator if both are empty. So n is at least 1.

        Raises
        ------
        TypeError, ValueError
            See `encode`.
        """
        ids = self.encode(text, special)
        if self.bos_id is not None:
            return np.concatenate([np.array([self.bos_id], np.int32), ids])
        return ids if ids.size else np.array([self.eot_id], np.int32)

    @abstractmethod
    def decode(self, ids: npt.ArrayLike) -> str:
        """Decode ids to text; the inverse of `encode`.

        Parameters
        ----------
        ids : int array, shape (n,)

        Returns
        -------
        str

        Raises
        ------
        TypeError
            `ids` are not integers.
        ValueError
            `ids` have more than one axis.
        IndexError
            An id is not in the vocabulary.
        """

    @abstractmethod
    def decoder(self) -> Decoder:
        """Make a streaming decoder, for ids that arrive one after the other."""

    @abstractmethod
    def token_text(self, token: int) -> str:
        r"""Format a token for display, without invisible characters.

        A space is shown as an open box, other blanks and control characters as escapes such as ``\n``, a byte token as
        ``<0xE2>``, and the separator by its name. The text is never empty.

        Parameters
        ----------
        token : int

        Returns
        -------
        str

        Raises
        ------
        IndexError
            `token` is not in the vocabulary.
        """

    def tokens(self, ids: npt.ArrayLike) -> list[str]:
        """Format tokens for display, one for each id.

        Parameters
        ----------
        ids : int array, shape (n,)

        Returns
        -------
        list of str
            See `token_text`.

        Raises
        ------
        TypeError, ValueError, IndexError
            See `decode`.
        """
        return [self.token_text(token) for token in check_ids("tokens", ids, self.vocab_size).tolist()]

    @abstractmethod
    def token_bytes(self, token: int) -> bytes:
        """Return the UTF-8 bytes of a token; empty for a special token, which is not text.

        Parameters
        ----------
        token : int

        Returns
        -------
        bytes

        Raises
        ------
        IndexError
            `token` is not in the vocabulary.
        """

    def config_fields(self) -> dict[str, Any]:
        """Return the fields of a ``tokenizer_config.json`` beside the ``tokenizer.json``."""
        return {}

    @abstractmethod
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a ``tokenizer.json`` in one step.

        Parameters
        ----------
        path : path
            The file, or the directory of a ``tokenizer.json``.

        Raises
        ------
        OSError
            The file cannot be written; an existing file is then unchanged.
        """


def check_ids(op: str, ids: npt.ArrayLike, vocab_size: int) -> Ids:
    """Convert ids to a one-dimensional int32 array, and check that each is in the vocabulary.

    Parameters
    ----------
    op : str
        First word of an error.
    ids : int or int array, shape (n,)
    vocab_size : int

    Returns
    -------
    int32 array, shape (n,)

    Raises
    ------
    TypeError, ValueError, IndexError
        See `Tokenizer.decode`.
    """
    if type(ids) is int and 0 <= ids < vocab_size:  # the usual case while tokens are sampled
        return np.array([ids], np.int32)
    array: npt.NDArray[Any] = np.asarray(ids)
    if array.size == 0:
        array = array.astype(np.int32)  # NumPy makes float64 of an empty list
    if array.dtype.kind not in "iu":
        raise TypeError(f"[{op}] 'ids' must be integers, got {array.dtype}")
    if array.ndim > 1:
        raise ValueError(f"[{op}] 'ids' must have one axis, got shape {array.shape}")
    array = array.reshape(-1)
    wrong = np.flatnonzero((array < 0) | (array >= vocab_size))
    if wrong.size:
        place = int(wrong[0])
        raise IndexError(f"[{op}] 'ids' must be in 0 ... {vocab_size - 1}, got {array[place]} at {place}")
    return array.astype(np.int32)


def check_text(op: str, text: str) -> npt.NDArray[np.uint32]:
    """Return the code points of a text.

    Parameters
    ----------
    op : str
        First word of an error.
    text : str

    Returns
    -------
    uint32 array, shape (len(text),)

    Raises
    ------
    TypeError, ValueError
        See `Tokenizer.encode`.
    """
    return np.frombuffer(_encoded(op, text, "utf-32-le"), dtype="<u4")


def check_utf8(op: str, text: str) -> bytes:
    """Encode a text as UTF-8.

    Parameters
    ----------
    op : str
        First word of an error.
    text : str

    Returns
    -------
    bytes

    Raises
    ------
    TypeError, ValueError
        See `Tokenizer.encode`.
    """
    return _encoded(op, text, "utf-8")


def _encoded(op: str, text: str, encoding: str) -> bytes:
    if not isinstance(text, str):
        raise TypeError(f"[{op}] 'text' must be a str, got {type(text).__name__}")
    try:
        return text.encode(encoding)
    except UnicodeEncodeError as error:
        found = f"U+{ord(text[error.start]):04X} at {error.start}"
        raise ValueError(f"[{op}] 'text' must not hold a lone surrogate, got {found}") from None


def visible(text: str) -> str:
    r"""Replace invisible characters: a space by an open box, other blanks and controls by escapes such as ``\n``."""
    return "".join(
        "\N{OPEN BOX}" if char == " " else char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in text
    )
