"""Byte-level byte-pair encoding: common strings are one token, any other text is made of shorter ones.

A text is split into words by a pattern (tinygpt/tokenizers/patterns.py), each word is UTF-8 bytes, and neighbouring
tokens are merged in the order in which the merges were learnt (csrc/bpe.pyx, csrc/bpe_encode.pyx). All 256 bytes are
tokens, so every text has ids and the ids give the text back. Bytes that are not valid UTF-8, which a model may well
sample, become U+FFFD.

    id                  token of a tokenizer that was trained here
    0 ... 255           the bytes
    256 ... 255 + M     the M merges, in the order in which they were learnt
    256 + M ...         special tokens; the last is the separator <|endoftext|>, unless it was given a place

Special tokens in a text are text unless they are asked for. Hugging Face ``tokenizers`` cuts them out of a text unless
its ``encode_special_tokens`` is set.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tinygpt.core import bpe, bpe_encode
from tinygpt.files import atomic
from tinygpt.tokenizers import bpe_file, json_file
from tinygpt.tokenizers.base import SEPARATOR, Decoder, Ids, Tokenizer, check_ids, check_utf8, visible
from tinygpt.tokenizers.patterns import PATTERNS

BYTES = 256
# Merges between two calls of `progress`, and between two looks at whether Ctrl-C was pressed.
CHUNK = 256

Progress = Callable[[int, int], object]


class BPETokenizer(Tokenizer):
    """Byte-level byte-pair encoding.

    Parameters
    ----------
    vocab : mapping of bytes to int
        Token to id. All single bytes must be in it, special tokens must not.
    merges : iterable of (bytes, bytes)
        The pairs of tokens that are merged, those that come first before the others.
    pattern : str
        What splits a text into words: ``gpt2``, ``gpt4`` or ``code``.
    special_tokens : mapping of str to int, optional
        Name to id. The separator ``<|endoftext|>`` must be among them; by default it is the only one and the last id.

    Attributes
    ----------
    vocab_size : int
        With special tokens.
    eot_id : int
        The separator.
    pattern : str
    special_tokens : dict
        Name to id.

    Raises
    ------
    ValueError
        A byte has no token, ids are not 0 ... n - 1, a merge stands twice or is of or makes something that is not a
        token, or a special token is not text or is written like another token.
    """

    def __init__(
        self,
        vocab: Mapping[bytes, int],
        merges: Iterable[tuple[bytes, bytes]],
        pattern: str = "gpt2",
        special_tokens: Mapping[str, int] | None = None,
    ):
        special = {SEPARATOR: len(vocab)} if special_tokens is None else dict(special_tokens)
        parts = bpe_file.Parts(dict(vocab), [(left, right) for left, right in merges], special, pattern)
        try:
            parts.check()
        except ValueError as error:
            raise ValueError(f"[BPETokenizer] {error}") from None
        self._set(parts)

    def _set(self, parts: bpe_file.Parts) -> None:
        """Take parts that were checked."""
        self._parts = parts
        self.pattern = parts.pattern
        self.special_tokens = dict(parts.special_tokens)
        self.vocab_size = len(parts.vocab) + len(parts.special_tokens)
        self.eot_id = parts.special_tokens[SEPARATOR]
        self._names = {i: name for name, i in parts.special_tokens.items()}  # of special tokens
        self._pieces = [b""] * self.vocab_size  # id -> what decode gives
        for token, i in [*parts.vocab.items(), *((name.encode(), i) for name, i in parts.special_tokens.items())]:
            self._pieces[i] = token
        self._joined = b"".join(self._pieces)
        self._starts = np.cumsum([0, *map(len, self._pieces)], dtype=np.int64)  # of each piece in all of them
        self._encoder = bpe_encode.Encoder(parts.pattern, parts.byte_ids(), parts.merge_ids())
        self._caches: list[bpe_encode.Cache] = []  # those that no thread is using now

    def __reduce__(self) -> tuple[object, ...]:
        parts = self._parts
        return type(self), (parts.vocab, parts.merges, parts.pattern, parts.special_tokens)

    @classmethod
    def train(
        cls,
        text: str | Iterable[str],
        vocab_size: int = 512,
        pattern: str = "gpt2",
        special_tokens: Iterable[str] = (),
        progress: Progress | None = None,
    ) -> BPETokenizer:
        """Learn the vocabulary of a text.

        Parameters
        ----------
        text : str or iterable of str
            A text, or several, of which one is held at a time. Memory goes with the distinct words.
        vocab_size : int
            Tokens in all: 256 bytes, merges, special tokens. There are fewer where no pair of tokens stands twice.
        pattern : str
            What splits a text into words: ``gpt2``, ``gpt4`` or ``code``.
        special_tokens : iterable of str
            Their ids come last, in this order, with the separator ``<|endoftext|>`` at the end if it is not among them.
        progress : callable, optional
            Is called with the number of merges done and that of all, every now and then and at the end.

        Returns
        -------
        BPETokenizer
            The same for the same texts in any order: of equally frequent pairs the one whose bytes come first, left
            token before right, is merged first.

        Raises
        ------
        TypeError
            Something is not a str.
        ValueError
            `vocab_size` is too small for bytes and special tokens, `pattern` is not known, a special token is wrong or
            stands twice, or a text holds a lone surrogate.
        """
        special = _special_names(special_tokens)
        wanted = vocab_size - BYTES - len(special)
        if wanted < 0:
            raise ValueError(f"[train] 'vocab_size' must be at least {BYTES + len(special)}, got {vocab_size}")
        if pattern not in PATTERNS:
            raise ValueError(f"[train] 'pattern' must be one of {', '.join(PATTERNS)}, got '{pattern}'")
        trainer = bpe.Trainer(pattern)
        for part in [text] if isinstance(text, str) else text:
            trainer.add(check_utf8("train", part))
        tokens = [bytes([byte]) for byte in range(BYTES)]
        merges = []
        for left, right in _learn(trainer, wanted, progress):
            merges.append((tokens[left], tokens[right]))
            tokens.append(tokens[left] + tokens[right])
        vocab = {token: i for i, token in enumerate(tokens)}
        return cls(vocab, merges, pattern, {name: i for i, name in enumerate(special, len(tokens))})

    @classmethod
    def from_gpt2(cls, encoder_json: str | os.PathLike[str], vocab_bpe: str | os.PathLike[str]) -> BPETokenizer:
        """Read the two files that GPT-2 came with.

        Parameters
        ----------
        encoder_json : path
            Token to id, also called ``vocab.json``.
        vocab_bpe : path
            A merge in each line, also called ``merges.txt``.

        Returns
        -------
        BPETokenizer

        Raises
        ------
        FileNotFoundError
            A file is missing.
        ValueError
            A file is not what it must be; the message names it and what is wrong.
        """
        tokenizer = cls.__new__(cls)
        tokenizer._set(bpe_file.read_gpt2(encoder_json, vocab_bpe))
        return tokenizer

    @classmethod
    def from_json(cls, content: json_file.Object) -> BPETokenizer:
        """Take the content of a ``tokenizer.json``.

        Parameters
        ----------
        content : dict
            What `json_file.read` gives.

        Returns
        -------
        BPETokenizer

        Raises
        ------
        ValueError
            A field is missing, unknown, wrong, or asks for something else than byte-level BPE with a known pattern.
        """
        parts = bpe_file.from_json(content)
        parts.check()
        tokenizer = cls.__new__(cls)
        tokenizer._set(parts)
        return tokenizer

    def encode(self, text: str, allowed_special: str | Iterable[str] = ()) -> Ids:
        """Turn text into ids; see `Tokenizer.encode`.

        Parameters
        ----------
        text : str
        allowed_special : iterable of str, or "all"
            Special tokens whose names in the text stand for them; of two that begin at one place, the longer. By
            default there are none and a text is nothing but text.

        Returns
        -------
        int32 array, shape (n,)

        Raises
        ------
        TypeError
            `text` is not a str.
        ValueError
            `text` holds a lone surrogate, or `allowed_special` something that is not a special token.
        """
        allowed = self._allowed(allowed_special)
        if not allowed:
            return self._encode(check_utf8("encode", text))
        check_utf8("encode", text)  # a place in the whole text, if there is a surrogate
        longest_first = sorted(allowed, key=len, reverse=True)
        pieces = re.split(f"({'|'.join(map(re.escape, longest_first))})", text)
        ids = [
            np.array([self.special_tokens[piece]], np.int32) if place % 2 else self._encode(piece.encode())
            for place, piece in enumerate(pieces)
        ]
        return np.concatenate(ids)

    def _allowed(self, asked: str | Iterable[str]) -> set[str]:
        if isinstance(asked, str):
            if asked != "all":
                raise ValueError(f"[encode] 'allowed_special' must be 'all' or a collection of names, got {asked!r}")
            return set(self.special_tokens)
        allowed = set(asked)
        for name in allowed - self.special_tokens.keys():
            raise ValueError(f"[encode] 'allowed_special' must be names of special tokens, got {name!r}")
        return allowed

    def _encode(self, utf8: bytes) -> Ids:
        try:
            cache = self._caches.pop()
        except IndexError:
            cache = bpe_encode.Cache()
        # Pages that are not written to cost nothing, and the copy is as long as it must be.
        room: Ids = np.empty(len(utf8), np.int32)
        found = self._encoder.encode(utf8, room, cache)
        self._caches.append(cache)
        return room[:found].copy()

    def decode(self, ids: npt.ArrayLike) -> str:
        """Turn ids into text; see `Tokenizer.decode`.

        The bytes of all tokens are put together, with the names of special tokens. What is not valid UTF-8 becomes
        U+FFFD: one for every longest part that could have begun a character.
        """
        return self._bytes(check_ids("decode", ids, self.vocab_size)).decode("utf-8", "replace")

    def _bytes(self, ids: Ids) -> bytes:
        return bpe_encode.join(ids, self._joined, self._starts)

    def decoder(self) -> Decoder:
        """A decoder for ids that arrive one after the other; see `Tokenizer.decoder`."""
        return _BPEDecoder(self)

    def token_text(self, token: int) -> str:
        """A token for display; see `Tokenizer.token_text`. Bytes that are not valid UTF-8 are shown as ``<0xE2>``."""
        (known,) = check_ids("token_text", token, self.vocab_size).tolist()
        if known in self._names:
            return visible(self._names[known])
        # surrogateescape turns a wrong byte into U+DC80 ... U+DCFF, the byte in its lowest bits.
        text = self._pieces[known].decode("utf-8", "surrogateescape")
        return "".join(
            f"<0x{ord(char) & 0xFF:02X}>" if "\udc80" <= char <= "\udcff" else visible(char) for char in text
        )

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for; see `Tokenizer.token_bytes`."""
        (known,) = check_ids("token_bytes", token, self.vocab_size).tolist()
        return b"" if known in self._names else self._pieces[known]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a ``tokenizer.json``; see `Tokenizer.save`."""
        file = Path(path)
        if file.is_dir():
            file = file / json_file.NAME
        atomic.write_text(file, json.dumps(self._parts.to_json(), ensure_ascii=False, indent=2) + "\n")


class _BPEDecoder(Decoder):
    """Holds back the bytes of a character until the last of them is there."""

    def __init__(self, tokenizer: BPETokenizer):
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, ids: npt.ArrayLike) -> str:
        """Take the next ids and give the text that is final now; see `Decoder.feed`."""
        new = check_ids("decode", ids, self._tokenizer.vocab_size)
        return self._utf8.decode(self._tokenizer._bytes(new))

    def flush(self) -> str:
        """End the text; see `Decoder.flush`."""
        text = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return text


def _special_names(asked: Iterable[str]) -> list[str]:
    """The special tokens of a vocabulary to be, with the separator."""
    if isinstance(asked, str):
        raise TypeError(f"[train] 'special_tokens' must be a collection of names, got the str {asked!r}")
    special = list(asked)
    if SEPARATOR not in special:
        special.append(SEPARATOR)
    twice = next((name for place, name in enumerate(special) if name in special[:place]), None)
    if twice is not None:
        raise ValueError(f"[train] 'special_tokens' must each stand once, got {twice!r} twice")
    for name in special:
        if not check_utf8("train", name):
            raise ValueError("[train] 'special_tokens' must not be empty, got ''")
    return special


def _learn(trainer: bpe.Trainer, wanted: int, progress: Progress | None) -> list[tuple[int, int]]:
    """Up to `wanted` merges, as pairs of ids."""
    trainer.start()
    learnt: list[tuple[int, int]] = []
    while len(learnt) < wanted:
        rows = np.empty((min(CHUNK, wanted - len(learnt)), 2), np.int32)
        made = trainer.merge(rows)
        learnt += map(tuple, rows[:made].tolist())
        if made < len(rows):
            break
        if progress is not None and len(learnt) < wanted:
            progress(len(learnt), wanted)
    if progress is not None:
        progress(len(learnt), wanted)
    return learnt
