"""Byte-level byte-pair encoding (BPE): frequent strings are one token, and all other text is made of shorter tokens.

A text is split into words by a pattern (tinygpt/tokenizers/patterns.py). Each word starts as UTF-8 bytes, and
neighbouring tokens are merged in the order in which the merges were learned (csrc/bpe.pyx, csrc/bpe_encode.pyx). A
tokenizer that is trained here has a token for all 256 bytes, so every text can be encoded and decodes to itself. A
model may sample bytes that are not valid UTF-8; these decode to U+FFFD.

    id                  token, in a tokenizer that is trained here
    0 ... 255           the bytes
    256 ... 255 + M     the M merges, in the order in which they were learned
    256 + M ...         special tokens; the last is the separator <|endoftext|>, unless it is given another place

Tokenizers of other programs have any order. Some have no token for bytes that did not occur in training, such as most
control characters: `missing_bytes`. Encoding drops these bytes, as Hugging Face ``tokenizers`` and llama.cpp do.

Names of special tokens in a text are ordinary text unless `special` is set; Hugging Face ``tokenizers`` has the
opposite default. Both find added tokens that are not special in any text.
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
# Merges between two calls of `progress`, and between two checks for Ctrl-C.
CHUNK = 256

Progress = Callable[[int, int], object]


class BPETokenizer(Tokenizer):
    """Byte-level byte-pair encoding.

    Parameters
    ----------
    vocab : mapping of bytes to int
        Token to id. It must have every byte of ASCII text, and no special token.
    merges : iterable of (bytes, bytes)
        Pairs of tokens that are merged, by rank.
    pattern : str
        The pattern that splits a text into words; a name in `patterns.PATTERNS`.
    special_tokens : mapping of str to int, optional
        Name to id. Default: the separator ``<|endoftext|>`` alone, as the last id.
    ignore_merges : bool
        Whether a word that is a token is encoded as that token, without regard to merges, as in Llama 3.
    first : str, optional
        The special token at the beginning of every document.
    plain : collection of str
        Special tokens that are found in any text, even where special tokens are text.
    late : collection of str
        Special tokens that are searched for in the text that the others leave.
    roles : Roles, optional
        Roles of the special tokens. Without ``<|endoftext|>`` among them, the separator is the `eos_token`.

    Attributes
    ----------
    vocab_size : int
        Number of tokens, with special tokens.
    eot_id : int
        Id of the separator.
    end_ids : frozenset of int
        Ids of the separator, of the `eos_token`, and of the other end tokens in `roles`.
    bos_id : int or None
        Id of `first`.
    pattern : str
    special_tokens : dict
        Name to id.
    missing_bytes : bytes
        Bytes that have no token.
    roles : Roles
        The given roles; without an `eos_token`, the separator is it.

    Raises
    ------
    ValueError
        A byte of ASCII text has no token, ids are not 0 ... n - 1, a merge occurs twice or needs or makes a token that
        is not in the vocabulary, or a special token is not text, is written like another token, or is named but not
        there.
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
        """Set all attributes from parts that have been checked."""
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
        self._pieces = [b""] * self.vocab_size  # id -> bytes
        for token, i in [*parts.vocab.items(), *((name.encode(), i) for name, i in special.items())]:
            self._pieces[i] = token
        self._joined = b"".join(self._pieces)
        self._starts = np.cumsum([0, *map(len, self._pieces)], dtype=np.int64)  # of each piece in `_joined`
        whole = list(parts.vocab) if parts.ignore_merges else []
        whole_ids = np.array([parts.vocab[word] for word in whole], np.int32)
        self._encoder = bpe_encode.Encoder(parts.pattern, byte_ids, parts.merge_ids(), whole, whole_ids)
        self._caches: list[bpe_encode.Cache] = []  # caches that no thread is using

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
        """Learn a vocabulary from text.

        Parameters
        ----------
        text : str or iterable of str
            One text or several; several are read one at a time. Memory grows with the number of distinct words.
        vocab_size : int
            Number of tokens: 256 bytes, merges, special tokens. Merging stops earlier if no pair occurs twice.
        pattern : str
            The pattern that splits a text into words; a name in `patterns.PATTERNS`.
        special_tokens : iterable of str
            Names of special tokens, which get the last ids in this order. The separator ``<|endoftext|>`` is appended
            if it is not among them.
        progress : callable, optional
            Called with the number of merges done and the number wanted, after every 256 merges and at the end.

        Returns
        -------
        BPETokenizer
            Independent of the order of the texts: of equally frequent pairs, the one whose bytes come first is merged
            first.

        Raises
        ------
        TypeError
            A text or a name is not a str.
        ValueError
            `vocab_size` is too small for bytes and special tokens, `pattern` is not known, a special token is empty or
            occurs twice, or a text has a lone surrogate.
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
        """Read the two files of GPT-2's tokenizer.

        Parameters
        ----------
        encoder_json : path
            Token to id; also called ``vocab.json``.
        vocab_bpe : path
            One merge per line; also called ``merges.txt``.

        Returns
        -------
        BPETokenizer

        Raises
        ------
        FileNotFoundError
            A file is missing.
        ValueError
            A file is damaged; the message names the file and the fault.
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
        """Make a tokenizer from the parts that a reader of files has put together.

        Raises
        ------
        ValueError
            The parts do not fit together; see the class. The message uses the words of `parts.names`.
        """
        parts.check()
        tokenizer = cls.__new__(cls)
        tokenizer._set(parts)
        return tokenizer

    @property
    def parts(self) -> Parts:
        """The parts of the tokenizer, for writers of files."""
        return self._parts

    def encode(self, text: str, special: bool = False) -> Ids:
        """Encode text as ids; see `Tokenizer.encode`."""
        utf8 = check_utf8("encode", text)
        if not special and not self._parts.plain:
            return self._encode(utf8)
        return self._cutter.encode(text, special, lambda piece: self._encode(piece.encode()))

    def _encode(self, utf8: bytes) -> Ids:
        try:
            cache = self._caches.pop()
        except IndexError:
            cache = bpe_encode.Cache()
        # The buffer has room for the worst case. Unused pages of it cost no memory, and the copy has no spare room.
        room: Ids = np.empty(len(utf8), np.int32)
        found = self._encoder.encode(utf8, room, cache)
        self._caches.append(cache)
        return room[:found].copy()

    def decode(self, ids: npt.ArrayLike) -> str:
        """Decode ids to text; see `Tokenizer.decode`.

        The bytes of all tokens are joined, with the names of special tokens. Invalid UTF-8 becomes U+FFFD: one for
        every longest part that could have begun a character.
        """
        return self._bytes(check_ids("decode", ids, self.vocab_size)).decode("utf-8", "replace")

    def _bytes(self, ids: Ids) -> bytes:
        return bpe_encode.join(ids, self._joined, self._starts)

    def decoder(self) -> Decoder:
        """Make a streaming decoder; see `Tokenizer.decoder`."""
        return _BPEDecoder(self)

    def token_text(self, token: int) -> str:
        """Format a token for display; see `Tokenizer.token_text`. Invalid UTF-8 bytes are shown as ``<0xE2>``."""
        (known,) = check_ids("token_text", token, self.vocab_size).tolist()
        if known in self._names:
            return visible(self._names[known])
        # surrogateescape turns an invalid byte into U+DC80 ... U+DCFF, with the byte in the lowest bits.
        text = self._pieces[known].decode("utf-8", "surrogateescape")
        return "".join(
            f"<0x{ord(char) & 0xFF:02X}>" if "\udc80" <= char <= "\udcff" else visible(char) for char in text
        )

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of a token; see `Tokenizer.token_bytes`."""
        (known,) = check_ids("token_bytes", token, self.vocab_size).tolist()
        special = known in self._names and self._names[known] not in self._parts.plain | self._parts.shared
        return b"" if special else self._pieces[known]

    def config_fields(self) -> dict[str, Any]:
        """Return the roles of special tokens and the chat template; see `Tokenizer.config_fields`."""
        return config_file.fields(self.roles)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a ``tokenizer.json``; see `Tokenizer.save`."""
        file = Path(path)
        if file.is_dir():
            file = file / json_file.NAME
        atomic.write_text(file, json.dumps(bpe_file.to_json(self._parts), ensure_ascii=False, indent=2) + "\n")


class _BPEDecoder(Decoder):
    """Streaming decoder that holds the bytes of a character back until it is complete."""

    def __init__(self, tokenizer: BPETokenizer):
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, ids: npt.ArrayLike) -> str:
        """Take the next ids and return the text that they complete; see `Decoder.feed`."""
        new = check_ids("decode", ids, self._tokenizer.vocab_size)
        return self._utf8.decode(self._tokenizer._bytes(new))

    def flush(self) -> str:
        """End the text; see `Decoder.flush`."""
        text = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return text


def _special_names(asked: Iterable[str]) -> list[str]:
    """Check the names of special tokens, and add the separator."""
    if isinstance(asked, str):
        raise TypeError(f"[train] 'special_tokens' must be a collection of names, got the str {asked!r}")
    special = list(asked)
    if SEPARATOR not in special:
        special.append(SEPARATOR)
    twice = next((name for place, name in enumerate(special) if name in special[:place]), None)
    if twice is not None:
        raise ValueError(f"[train] 'special_tokens' must each occur once, got {twice!r} twice")
    for name in special:
        if not check_utf8("train", name):
            raise ValueError("[train] 'special_tokens' must not be empty, got ''")
    return special


def _learn(trainer: bpe.Trainer, wanted: int, progress: Progress | None) -> list[tuple[int, int]]:
    """Learn up to `wanted` merges, as pairs of ids."""
    trainer.start()
    learned: list[tuple[int, int]] = []
    while len(learned) < wanted:
        rows = np.empty((min(CHUNK, wanted - len(learned)), 2), np.int32)
        made = trainer.merge(rows)
        learned += map(tuple, rows[:made].tolist())
        if made < len(rows):
            break
        if progress is not None and len(learned) < wanted:
            progress(len(learned), wanted)
    if progress is not None:
        progress(len(learned), wanted)
    return learned
