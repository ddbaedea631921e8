"""Documents to token arrays: which part is held out, and what stands between files.

The held-out part is made of whole files, so that it measures code the model has not seen. Which ones follows from the
seed and each file's own path: a file that is added or changed moves others only where the sizes ask for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinygpt.data.discover import Document
from tinygpt.data.infilling import Infilling
from tinygpt.tokenizers.base import Tokenizer

HELD_OUT = 0.1  # of the characters


@dataclass(frozen=True)
class Split:
    """Documents to train on and documents to evaluate on, each in the order that they came in.

    Parameters
    ----------
    train, held_out : tuple of Document
        A single file is in both, as its first and its last part.
    """

    train: tuple[Document, ...]
    held_out: tuple[Document, ...]


@dataclass(frozen=True)
class Corpus:
    """Two token arrays.

    Parameters
    ----------
    train, held_out : int32 arrays, shape (n,)
        Documents one after the other with the separator between them.
    held_out_bytes : int
        Length of the held-out text in UTF-8; separators are none. The loss summed over the held-out part, in bits, is
        divided by this to give bits per byte.
    held_out_files : int
    """

    train: npt.NDArray[np.int32]
    held_out: npt.NDArray[np.int32]
    held_out_bytes: int
    held_out_files: int

    @classmethod
    def encode(cls, parts: Split, tokenizer: Tokenizer, block_size: int, infilling: Infilling | None = None) -> Corpus:
        """Turn both parts into tokens.

        Parameters
        ----------
        parts : Split
        tokenizer : Tokenizer
        block_size : int
            Context length of the model; each part must have one token more, since targets are inputs moved by one.
        infilling : Infilling, optional
            Rewrites the part to train on. What is held out stays as it is, so that its loss means the same.

        Returns
        -------
        Corpus

        Raises
        ------
        ValueError
            A part is shorter than one context.
        """
        train, held_out = _tokens(parts.train, tokenizer, infilling), _tokens(parts.held_out, tokenizer)
        _check_length(train.size, held_out.size, block_size)
        return cls(
            train=train,
            held_out=held_out,
            held_out_bytes=_utf8_bytes(parts.held_out),
            held_out_files=len(parts.held_out),
        )


def split(documents: Sequence[Document], seed: int = 0, fraction: float = HELD_OUT) -> Split:
    """Divide documents into a part to train on and a part to evaluate on.

    Parameters
    ----------
    documents : sequence of Document
    seed : int
        Another seed holds out other files.
    fraction : float
        Of the characters to hold out, in (0, 1). Files are taken in the order of a hash of seed and path, as long as
        they fit; if none fits, the smallest file is held out. A single file is cut at this place instead.

    Returns
    -------
    Split
        At least one file on each side, or the two parts of one.

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
    held = _held_out(documents, seed, fraction)
    return Split(
        tuple(document for i, document in enumerate(documents) if i not in held),
        tuple(document for i, document in enumerate(documents) if i in held),
    )


def _held_out(documents: Sequence[Document], seed: int, fraction: float) -> set[int]:
    """The places of the documents to hold out."""
    budget = fraction * sum(len(document.text) for document in documents)
    order = sorted(range(len(documents)), key=lambda i: (_rank(documents[i].path, seed), i))
    held: set[int] = set()
    size = 0
    for i in order:
        if size + len(documents[i].text) <= budget:
            held.add(i)
            size += len(documents[i].text)
        # Close enough: going on would only look for small files to fill the gap.
        if size >= 0.9 * budget:
            break
    return held or {min(order, key=lambda i: len(documents[i].text))}


def _rank(path: str, seed: int) -> bytes:
    """Where a path stands in the order of a seed; it knows nothing of other paths."""
    return hashlib.sha256(f"{seed}:{path}".encode("utf-8", "surrogateescape")).digest()


def encode_documents(documents: Sequence[Document], tokenizer: Tokenizer) -> tuple[npt.NDArray[np.int32], int]:
    """All documents in a row, with the separator between them, and the length of their text.

    Parameters
    ----------
    documents : sequence of Document
    tokenizer : Tokenizer

    Returns
    -------
    tokens : int32 array, shape (n,)
    n_bytes : int
        In UTF-8; separators are none.
    """
    return _tokens(documents, tokenizer), _utf8_bytes(documents)


def _tokens(
    documents: Sequence[Document], tokenizer: Tokenizer, infilling: Infilling | None = None
) -> npt.NDArray[np.int32]:
    """All documents in a row, shape (n,), the separator between them and between the parts that one was cut into."""
    separator = np.array([tokenizer.eot_id], np.int32)
    pieces = [np.empty(0, np.int32)]
    for document in documents:
        for part in [tokenizer.encode(document.text)] if infilling is None else infilling.encode(document):
            pieces += [part, separator]
    return np.concatenate(pieces[:-1] if documents else pieces)


def _check_length(train: int, held_out: int, block_size: int) -> None:
    """Both parts must have room for one context and the target of its last token."""
    needed, shortest = block_size + 1, min(train, held_out)
    if shortest >= needed:
        return
    if train >= needed:
        short = f"the held-out part has {held_out:,} tokens (the training part has enough: {train:,})"
    else:
        short = f"the training part has {train:,} tokens, the held-out part {held_out:,}"
    fix = f"give more data or --seq {shortest - 1}" if shortest > 1 else "give more data"
    raise ValueError(f"{short}, but one context of {block_size:,} needs {needed:,}: {fix}")


def _utf8_bytes(documents: Sequence[Document]) -> int:
    return sum(len(document.text.encode("utf-8")) for document in documents)
