"""Byte-level byte-pair encoding: common strings are one token, any other text is made of shorter ones.

A text is split into words by a pattern (tinygpt/tokenizers/patterns.py), each word is UTF-8 bytes, and neighbouring
tokens are merged in the order in which the merges were learnt (csrc/bpe.pyx, csrc/bpe_encode.pyx). In what is trained
here all 256 bytes are tokens, so every text has ids and the ids give the text back. Bytes that are not valid UTF-8,
which a model may well sample, become U+FFFD.

    id                  token of a tokenizer that was trained here
    0 ... 255           the bytes
    256 ... 255 + M     the M merges, in the order in which they were learnt
    256 + M ...         special tokens; the last is the separator <|endoftext|>, unless it was given a place

Tokenizers of other programs have them in any order, and some have no token for bytes that were not seen in training,
such as most control characters: `missing_bytes`. Those bytes of a text are left out, as Hugging Face ``tokenizers`` and
llama.cpp leave them out, and do not come back.

Special tokens in a text are text unless they are asked for. Hugging Face ``tokenizers`` cuts them out of a text unless
its ``encode_special_tokens`` is set. Some files have added tokens that are not special: these are taken for themselves
in any text, here as there.
"""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinygpt.core import bpe, bpe_encode
from tinygpt.io import atomic
from tinygpt.tokenizers import bpe_file, config_file, gpt2_file, json_file
from tinygpt.tokenizers.base import SEPARATOR, Decoder, Ids, Tokenizer, check_ids, check_utf8, visible
from tinygpt.tokenizers.bpe_parts import Parts
from tinygpt.tokenizers.patterns import PATTERNS
from tinygpt.tokenizers.special import Cutter, Roles

BYTES = 256
# Merges between two calls of `progress`, and between two looks at whether Ctrl-C was pressed.
CHUNK = 256

Progress = Callable[[int, int], object]


class BPETokenizer(Tokenizer):
    """Byte-level byte-pair encoding.

    Parameters
    ----------
    vocab : mapping of bytes to int
        Token to id. Special tokens must not be in it, the bytes of ASCII text must.
    merges : iterable of (bytes, bytes)
        The pairs of tokens that are merged, those that come first before the others.
    pattern : str
        What splits a text into words; a name out of `patterns.PATTERNS`.
    special_tokens : mapping of str to int, optional
        Name to id. By default the separator ``<|endoftext|>`` is the only one and the last id.
    ignore_merges : bool
        Take a word that is a token whole, whatever its merges would make of it. (Llama 3 does.)
    first : str, optional
        The special token that every document begins with.
    plain : collection of str
        Special tokens whose names stand for them in any text.
    late : collection of str
        Special tokens that are looked for in what the others leave of a text.
    roles : Roles, optional
        What the special tokens are for. If ``<|endoftext|>`` is none of them, the separator is the `eos_token`.

    Attributes
    ----------
    vocab_size : int
        With special tokens.
    eot_id : int
        The separator.
    end_ids : frozenset of int
        The separator and the `eos_token`.
    bos_id : int or None
        The id of `first`.
    pattern : str
    special_tokens : dict
        Name to id.
    missing_bytes : bytes
        Those that have no token.
    roles : Roles
        With the separator as `eos_token` if there was none.

    Raises
    ------
    ValueError
        A byte of ASCII text has no token, ids are not 0 ... n - 1, a merge stands twice or is of or makes something
        that is not a token, or a special token is not text, is written like another token, or is named but not there.
    """

    def __init__(
        self,
        vocab: Mapping[bytes, int],
        merges: Iterable[tuple[bytes, bytes]],
        pattern: str = "gpt2",
        special_tokens: Mapping[str, int] | None = None,
        ignore_merges: bool = False,
        first: str | None = None,
        plain: Collection[str] = (),
        late: Collection[str] = (),
        roles: Roles | None = None,
    ):
        parts = Parts(
            vocab=dict(vocab),
            merges=[(left, right) for left, right in merges],
            special_tokens={SEPARATOR: len(vocab)} if special_tokens is None else dict(special_tokens),
            pattern=pattern,
            ignore_merges=ignore_merges,
            first=first,
            plain=frozenset(plain),
            late=frozenset(late),
            roles=roles or Roles(),
        )
        try:
            parts.check()
        except ValueError as error:
            raise ValueError(f"[BPETokenizer] {error}") from None
        self._set(parts)

    def _set(self, parts: Parts) -> None:
        """Take parts that were checked."""
        special = dict(parts.special_tokens)
        self._parts = parts
        self.pattern, self.special_tokens = parts.pattern, special
        self.vocab_size = parts.size
        self.eot_id = special[parts.separator()]
        self.roles = replace(parts.roles, eos_token=parts.roles.eos_token or parts.separator())
        more = (i for i in self.roles.end_ids if 0 <= i < self.vocab_size)
        self.end_ids = frozenset([self.eot_id, special[str(self.roles.eos_token)], *more])
        self.bos_id = None if parts.first is None else special[parts.first]
        self.start_id = special[parts.beginning()]
        self.chat_template = parts.roles.chat_template
        byte_ids = parts.byte_ids()
        self.missing_bytes = bytes(np.flatnonzero(byte_ids < 0).tolist())
        self._names = {i: name for name, i in special.items()}
        self._cutter = Cutter(special, parts.plain, parts.late)
        self._pieces = [b""] * self.vocab_size  # id -> what decode gives
        for token, i in [*parts.vocab.items(), *((name.encode(), i) for name, i in special.items())]:
            self._pieces[i] = token
        self._joined = b"".join(self._pieces)
        self._starts = np.cumsum([0, *map(len, self._pieces)], dtype=np.int64)  # of each piece in all of them
        whole = list(parts.vocab) if parts.ignore_merges else []
        whole_ids = np.array([parts.vocab[word] for word in whole], np.int32)
        self._encoder = bpe_encode.Encoder(parts.pattern, byte_ids, parts.merge_ids(), whole, whole_ids)
        self._caches: list[bpe_encode.Cache] = []  # those that no thread is using now

    def __reduce__(self) -> tuple[object, ...]:
        parts = self._parts
        model = (parts.vocab, parts.merges, parts.pattern, parts.special_tokens, parts.ignore_merges)
        return type(self), (*model, parts.first, parts.plain, parts.late, self.roles)

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
            What splits a text into words; a name out of `patterns.PATTERNS`.
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
        tokenizer._set(gpt2_file.read(encoder_json, vocab_bpe))
        return tokenizer

    @classmethod
    def from_json(cls, content: json_file.Object, beside: config_file.Beside = config_file.Beside()) -> BPETokenizer:  # noqa: B008
        """Make a tokenizer from the content of a ``tokenizer.json``.

        Parameters
        ----------
        content : dict
            Returned by `json_file.read`.
        beside : Beside
            Returned by `config_file.read`.

        Returns
        -------
        BPETokenizer

        Raises
        ------
        ValueError
            A field is missing, unknown or wrong, or asks for something other than byte-level BPE with a known pattern.
        """
        return cls.from_parts(bpe_file.from_json(content, beside))

    @classmethod
    def from_parts(cls, parts: Parts) -> BPETokenizer:
        """Take what a reader of files has found.

        Raises
        ------
        ValueError
            As of the class; the message has the names that `parts` has for its fields.
        """
        parts.check()
        tokenizer = cls.__new__(cls)
        tokenizer._set(parts)
        return tokenizer

    @property
    def parts(self) -> Parts:
        """What the tokenizer is made of, for writers of files."""
        return self._parts

    def encode(self, text: str, special: bool = False) -> Ids:
        """Turn text into ids; see `Tokenizer.encode`."""
        utf8 = check_utf8("encode", text)
        if not special and not self._parts.plain:
            return self._encode(utf8)
        return self._cutter.encode(text, special, lambda piece: self._encode(piece.encode()))

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
        special = known in self._names and self._names[known] not in self._parts.plain | self._parts.shared
        return b"" if special else self._pieces[known]

    def config_fields(self) -> dict[str, Any]:
        """Names of the special tokens with a role, and the chat template; see `Tokenizer.config_fields`."""
        return config_file.fields(self.roles)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a ``tokenizer.json``; see `Tokenizer.save`."""
        file = Path(path)
        if file.is_dir():
            file = file / json_file.NAME
        atomic.write_text(file, json.dumps(bpe_file.to_json(self._parts), ensure_ascii=False, indent=2) + "\n")


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
