"""What every tokenizer does, and the checks that they share."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]

SEPARATOR = "<|endoftext|>"  # stands between documents; GPT-2's name for it


class Decoder(ABC):
    """Ids to text, piece by piece, for generation that is read while it grows.

    The pieces, and what `flush` gives, put together are exactly what `Tokenizer.decode` makes of all the ids: text is
    given out once no later id can change it.
    """

    @abstractmethod
    def feed(self, ids: npt.ArrayLike) -> str:
        """Take the next ids and give the text that is final now.

        Parameters
        ----------
        ids : int or int array, shape (n,)

        Returns
        -------
        str
            May be empty.

        Raises
        ------
        TypeError, ValueError, IndexError
            As `Tokenizer.decode`; the decoder is then as it was.
        """

    @abstractmethod
    def flush(self) -> str:
        """End the text: give what was held back, and begin anew."""


class Tokenizer(ABC):
    """Text to ids and back.

    Attributes
    ----------
    vocab_size : int
        Ids are 0 ... vocab_size - 1.
    special_tokens : dict
        Name to id of the tokens that stand for no text, the separator among them. By default their names in a text are
        text like any other.
    eot_id : int
        The separator that stands between documents.
    end_ids : frozenset of int
        What ends a text that is generated: the separator, and the end of a turn in a chat.
    bos_id : int or None
        What every document must begin with, if the model asks for something.
    start_id : int
        What files name as the beginning of a text: `bos_id`, or a token that begins the turns of a chat and that plain
        text goes without, or else the separator.
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
        """Turn text into ids.

        Parameters
        ----------
        text : str
            Any text without lone surrogates.
        special : bool
            Whether the name of a special token stands for the token; of two that begin at one place, the longer.

        Returns
        -------
        int32 array, shape (n,)

        Raises
        ------
        TypeError
            `text` is not a str.
        ValueError
            `text` holds a lone surrogate, which no UTF-8 stands for.
        """

    def prompt(self, text: str, special: bool = False) -> Ids:
        """The ids that generation begins with.

        Parameters
        ----------
        text : str
            An empty one stands for the beginning of a document.
        special : bool
            As in `encode`.

        Returns
        -------
        int32 array, shape (n,)
            n is at least 1. `bos_id` and the text; for an empty text without a `bos_id` the separator.

        Raises
        ------
        TypeError, ValueError
            As `encode`.
        """
        ids = self.encode(text, special)
        if self.bos_id is not None:
            return np.concatenate([np.array([self.bos_id], np.int32), ids])
        return ids if ids.size else np.array([self.eot_id], np.int32)

    @abstractmethod
    def decode(self, ids: npt.ArrayLike) -> str:
        """Turn ids into text; the inverse of `encode`.

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
        """A decoder for ids that arrive one after the other."""

    @abstractmethod
    def token_text(self, token: int) -> str:
        r"""A token for display: never empty, nothing invisible.

        A space is shown as an open box, other blanks and control characters as escapes such as ``\n``, a byte token as
        ``<0xE2>``, the separator by its name.

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
        """Tokens for display, one for each id.

        Parameters
        ----------
        ids : int array, shape (n,)

        Returns
        -------
        list of str
            As `token_text`.

        Raises
        ------
        TypeError, ValueError, IndexError
            As `decode`.
        """
        return [self.token_text(token) for token in check_ids("tokens", ids, self.vocab_size).tolist()]

    @abstractmethod
    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes of text that a token stands for; none for a special token.

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
        """What belongs into a ``tokenizer_config.json`` beside the ``tokenizer.json``: fields with their values."""
        return {}

    @abstractmethod
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a ``tokenizer.json`` in one step.

        Parameters
        ----------
        path : path
            The file, or a directory to put ``tokenizer.json`` into.

        Raises
        ------
        OSError
            It cannot be written; a file that was there is then as it was.
        """


def check_ids(op: str, ids: npt.ArrayLike, vocab_size: int) -> Ids:
    """Ids as a one-dimensional int32 array, each of them in the vocabulary.

    Parameters
    ----------
    op : str
        The name that an error begins with.
    ids : int or int array, shape (n,)
    vocab_size : int

    Returns
    -------
    int32 array, shape (n,)

    Raises
    ------
    TypeError, ValueError, IndexError
        As `Tokenizer.decode`.
    """
    if type(ids) is int and 0 <= ids < vocab_size:  # a text that is sampled comes one id at a time
        return np.array([ids], np.int32)
    array: npt.NDArray[Any] = np.asarray(ids)
    if array.size == 0:
        array = array.astype(np.int32)  # an empty list comes as float64
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
    """The code points of a text.

    Parameters
    ----------
    op : str
        The name that an error begins with.
    text : str

    Returns
    -------
    uint32 array, shape (len(text),)

    Raises
    ------
    TypeError, ValueError
        As `Tokenizer.encode`.
    """
    return np.frombuffer(_encoded(op, text, "utf-32-le"), dtype="<u4")


def check_utf8(op: str, text: str) -> bytes:
    """The UTF-8 bytes of a text.

    Parameters
    ----------
    op : str
        The name that an error begins with.
    text : str

    Returns
    -------
    bytes

    Raises
    ------
    TypeError, ValueError
        As `Tokenizer.encode`.
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
    r"""Text with nothing invisible in it: a space as an open box, other blanks and controls as escapes (``\n``)."""
    return "".join(
        "\N{OPEN BOX}" if char == " " else char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in text
    )
