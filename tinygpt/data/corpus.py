"""Split documents into training and validation, and encode both splits as token arrays.

The validation split is made of whole files, so that its loss measures code the model has not seen. The seed and each
file's own path decide which files, so that adding or changing one file moves as few others as possible.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tinygpt.data.discover import Document
from tinygpt.data.infilling import Infilling
from tinygpt.tokenizers.base import Tokenizer

VALIDATION_FRACTION = 0.1  # share of the characters


def _renamed(old: str, new: str) -> property:
    """Make a property under the former name of an attribute, with a DeprecationWarning."""

    def get(self: Any) -> Any:
        kind = type(self).__name__
        warnings.warn(f"{kind}.{old} is now {kind}.{new}", DeprecationWarning, stacklevel=2)
        return getattr(self, new)

    return property(get)


@dataclass(frozen=True)
class Split:
    """Training and validation documents, each in their original order.

    Parameters
    ----------
    train, validation : tuple of Document
        Documents of each split. A single file is divided: its first part is for training, its last for validation.
    """

    train: tuple[Document, ...]
    validation: tuple[Document, ...]

    held_out = _renamed("held_out", "validation")


@dataclass(frozen=True)
class Corpus:
    """Token arrays of the training and the validation split.

    Parameters
    ----------
    train, validation : int32 arrays, shape (n,)
        Token ids of the documents, with the end-of-text token between them.
    validation_bytes : int
        Length of the validation text in UTF-8, without separators. Bits per byte is the loss summed over the validation
        split, in bits, divided by this.
    validation_files : int
        Number of files in the validation split.
    """

    train: npt.NDArray[np.int32]
    validation: npt.NDArray[np.int32]
    validation_bytes: int
    validation_files: int

    held_out = _renamed("held_out", "validation")
    held_out_bytes = _renamed("held_out_bytes", "validation_bytes")
    held_out_files = _renamed("held_out_files", "validation_files")

    @classmethod
    def encode(cls, parts: Split, tokenizer: Tokenizer, block_size: int, infilling: Infilling | None = None) -> Corpus:
        """Encode both splits as tokens.

        Parameters
        ----------
        parts : Split
        tokenizer : Tokenizer
        block_size : int
            Context length of the model. Each split needs at least one token more, because targets are the next tokens.
        infilling : Infilling, optional
            Rewrites the training split. The validation split stays as it is, so that its loss stays comparable.

        Returns
        -------
        Corpus

        Raises
        ------
        ValueError
            A split is too short for one context.
        """
        train, validation = _tokens(parts.train, tokenizer, infilling), _tokens(parts.validation, tokenizer)
        _check_length(train.size, validation.size, block_size)
        return cls(
            train=train,
            validation=validation,
            validation_bytes=_utf8_bytes(parts.validation),
            validation_files=len(parts.validation),
        )


def split(documents: Sequence[Document], seed: int = 0, fraction: float = VALIDATION_FRACTION) -> Split:
    """Split documents into training and validation.

    Parameters
    ----------
    documents : sequence of Document
    seed : int
        Another seed chooses other validation files.
    fraction : float
        Share of the characters for validation, in (0, 1). Files are taken in the order of a hash of seed and path, as
        long as they fit; if none fits, the smallest file is taken. A single file is cut at this place instead.

    Returns
    -------
    Split
        At least one file in each split, or the two parts of a single file.

    Raises
    ------
    ValueError
        There is no document, or `fraction` is out of range.
    """
    if not documents:
        raise ValueError("[split] 'documents' must hold at least one document, got none")
    if not 0 < fraction < 1:
        raise ValueError(f"[split] 'fraction' must be between 0 and 1, got {fraction}")
    if len(documents) == 1:
        (one,) = documents
        cut = int(len(one.text) * (1 - fraction))
        return Split((Document(one.path, one.text[:cut]),), (Document(one.path, one.text[cut:]),))
    held = _validation_places(documents, seed, fraction)
    return Split(
        tuple(document for i, document in enumerate(documents) if i not in held),
        tuple(document for i, document in enumerate(documents) if i in held),
    )


def _validation_places(documents: Sequence[Document], seed: int, fraction: float) -> set[int]:
    """Choose the indices of the documents in the validation split."""
    budget = fraction * sum(len(document.text) for document in documents)
    order = sorted(range(len(documents)), key=lambda i: (_rank(documents[i].path, seed), i))
    held: set[int] = set()
    size = 0
    for i in order:
        if size + len(documents[i].text) <= budget:
            held.add(i)
            size += len(documents[i].text)
        # Stop at 90 % of the budget, because only small files would fit the rest, and the split would favour them.
        if size >= 0.9 * budget:
            break
    return held or {min(order, key=lambda i: len(documents[i].text))}


def _rank(path: str, seed: int) -> bytes:
    """Return the sort key of a path for a seed, independent of all other paths."""
    return hashlib.sha256(f"{seed}:{path}".encode("utf-8", "surrogateescape")).digest()


def encode_documents(documents: Sequence[Document], tokenizer: Tokenizer) -> tuple[npt.NDArray[np.int32], int]:
    """Encode documents as one token array, with the end-of-text token between them, and count their bytes.

    Parameters
    ----------
    documents : sequence of Document
    tokenizer : Tokenizer

    Returns
    -------
    tokens : int32 array, shape (n,)
    n_bytes : int
        Length of the texts in UTF-8, without separators.
    """
    return _tokens(documents, tokenizer), _utf8_bytes(documents)


def _tokens(
    documents: Sequence[Document], tokenizer: Tokenizer, infilling: Infilling | None = None
) -> npt.NDArray[np.int32]:
    """Concatenate the tokens of all documents, shape (n,), with a separator between documents and between parts."""
    separator = np.array([tokenizer.eot_id], np.int32)
    pieces = [np.empty(0, np.int32)]
    for document in documents:
        for part in [tokenizer.encode(document.text)] if infilling is None else infilling.encode(document):
            pieces += [part, separator]
    return np.concatenate(pieces[:-1] if documents else pieces)


def _check_length(train: int, validation: int, block_size: int) -> None:
    """Raise ValueError if a split has no room for one context and the target of its last token."""
    needed, shortest = block_size + 1, min(train, validation)
    if shortest >= needed:
        return
    if train >= needed:
        short = f"the validation split has {validation:,} tokens (the training split has enough: {train:,})"
    else:
        short = f"the training split has {train:,} tokens, the validation split {validation:,}"
    fix = f"give more data or 'block_size' {shortest - 1}" if shortest > 1 else "give more data"
    raise ValueError(f"[Corpus] {short}, but one context of {block_size:,} needs {needed:,}: {fix}")


def _utf8_bytes(documents: Sequence[Document]) -> int:
    return sum(len(document.text.encode("utf-8")) for document in documents)
