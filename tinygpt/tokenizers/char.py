"""Character tokenizer: one token for each common character, and UTF-8 bytes for all others.

    id                  token
    0 ... 255           the bytes <0x00> ... <0xFF>
    256 ... 255 + N     the N characters of the vocabulary
    256 + N ...         special tokens; the last is the separator <|endoftext|>

A character of the vocabulary is one id. Any other character is the one to four bytes of its UTF-8, so every text can be
encoded and decodes to itself. A model may sample bytes that are not valid UTF-8; these decode to U+FFFD.

There is no normalisation and no splitting into words. Names of special tokens in a text are ordinary text unless
`special` is set.

In ``tokenizer.json`` it is a BPE model without merges. Special tokens are in its vocabulary, where no text can reach
them without a merge. They are not among ``added_tokens``, which Hugging Face ``tokenizers`` would cut out of a text. A
reader recognises them by their length and by their place after the characters, because ``tokenizers`` refuses a file
with unknown keys.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinygpt.io import atomic
from tinygpt.io.strict import Fields
from tinygpt.io.table import Table, same
from tinygpt.tokenizers import json_file
from tinygpt.tokenizers.base import SEPARATOR, Decoder, Ids, Tokenizer, check_ids, check_text, visible
from tinygpt.tokenizers.special import Cutter

BYTES = 256
BYTE_NAMES = [f"<0x{byte:02X}>" for byte in range(BYTES)]
CODE_POINTS = 0x110000
_AS_IS = {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}]}
_FILE_TABLE = Table(
    required=["version", "model", "decoder"],
    without_effect=["truncation", "padding"],
    refused={
        "added_tokens": ([],),
        "normalizer": (),
        "pre_tokenizer": (),
        # transformers writes one that adds nothing.
        "post_processor": (lambda found: isinstance(found, dict) and same({**found, **_AS_IS}, found), "null"),
    },
)
_MODEL_TABLE = Table(
    required=["type", "vocab", "merges", "byte_fallback"],
    refused={
        "dropout": (0.0,),
        "unk_token": (),
        "continuing_subword_prefix": ("",),
        "end_of_word_suffix": ("",),
        "fuse_unk": (False,),
        "ignore_merges": (False,),
    },
)
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# From each of these code points on, UTF-8 takes one more byte.
LONGER_FROM = (0x80, 0x800, 0x10000)


class CharTokenizer(Tokenizer):
    """Character tokenizer with a fallback to UTF-8 bytes.

    Parameters
    ----------
    characters : str
        Characters of the vocabulary in the order of their ids; each once.
    special_tokens : iterable of str
        Names of special tokens, of two or more characters. Their ids follow those of the characters, in this order; the
        separator is always the last.

    Attributes
    ----------
    characters : str
    vocab_size : int
        Number of tokens, with bytes and special tokens.
    special_tokens : dict
        Name to id.
    eot_id : int
        Id of the separator, which is the last.

    Raises
    ------
    TypeError
        `characters` or a name is not a str.
    ValueError
        A character or a name occurs twice or has a lone surrogate; or a name is too short or the name of a byte.
    """

    def __init__(self, characters: str, special_tokens: Iterable[str] = ()):
        codes = check_text("CharTokenizer", characters)
        if np.unique(codes).size != codes.size:
            twice = next(char for place, char in enumerate(characters) if char in characters[:place])
            raise ValueError(f"[CharTokenizer] 'characters' must each occur once, got {twice!r} twice")
        names = _special_names(special_tokens)
        self.characters = characters
        self.special_tokens = {name: i for i, name in enumerate(names, BYTES + len(characters))}
        self.vocab_size = BYTES + len(characters) + len(names)
        self.eot_id = self.vocab_size - 1
        self.end_ids = frozenset([self.eot_id])
        self.start_id = self.eot_id
        self._first_special = BYTES + len(characters)
        self._tokens = [*characters, *names]  # tokens with the ids from 256 on
        self._cutter = Cutter(self.special_tokens)
        # Code point -> id, -1 where there is none. Codes beyond the largest known one are clipped to the last entry.
        self._ids = np.full(int(codes.max(initial=0)) + 2, -1, np.int32)
        self._ids[codes] = np.arange(BYTES, BYTES + codes.size)

    @classmethod
    def train(
        cls, text: str | Iterable[str], max_chars: int = 1024, special_tokens: Iterable[str] = ()
    ) -> CharTokenizer:
        """Make a vocabulary of the most frequent characters of a text.

        Parameters
        ----------
        text : str or iterable of str
            One text or several.
        max_chars : int
            Largest number of characters in the vocabulary. Of equally frequent characters, those with the lower code
            point are taken.
        special_tokens : iterable of str
            Names of special tokens, not counted in `max_chars`; see the class.

        Returns
        -------
        CharTokenizer
            Its characters are in code-point order.

        Raises
        ------
        TypeError
            A text or a name is not a str.
        ValueError
            `max_chars` is negative, a special token is not allowed, or a text has a lone surrogate.
        """
        if max_chars < 0:
            raise ValueError(f"[train] 'max_chars' must be at least 0, got {max_chars}")
        counts = np.zeros(CODE_POINTS, np.int64)
        for part in [text] if isinstance(text, str) else text:
            found = np.bincount(check_text("train", part))
            counts[: found.size] += found
        codes = np.flatnonzero(counts)
        most_frequent_first = codes[np.argsort(-counts[codes], kind="stable")]
        return cls("".join(map(chr, np.sort(most_frequent_first[:max_chars]).tolist())), special_tokens)

    def encode(self, text: str, special: bool = False) -> Ids:
        """Encode text as ids; see `Tokenizer.encode`."""
        codes = check_text("encode", text)
        return self._cutter.encode(text, True, self.encode) if special else self._encode(codes)

    def _encode(self, codes: npt.NDArray[np.uint32]) -> Ids:
        ids: Ids = self._ids.take(codes, mode="clip")
        unknown = ids < 0
        if not unknown.any():
            return ids
        others = codes[unknown]
        lengths = np.ones(ids.size, np.int64)
        lengths[unknown] += sum((others >= start).astype(np.int64) for start in LONGER_FROM)
        # Each -1 is now repeated for every byte of its character.
        ids = np.repeat(ids, lengths)
        ids[ids < 0] = np.frombuffer(others.tobytes().decode("utf-32-le").encode("utf-8"), np.uint8)
        return ids

    def decode(self, ids: npt.ArrayLike) -> str:
        """Decode ids to text; see `Tokenizer.decode`.

        A run of byte tokens is text if all of it is valid UTF-8. Otherwise each of its bytes becomes U+FFFD, as in the
        ByteFallback decoder of Hugging Face ``tokenizers``.
        """
        return self._text(check_ids("decode", ids, self.vocab_size))

    def _text(self, ids: Ids) -> str:
        is_byte = ids < BYTES
        borders = np.flatnonzero(is_byte[1:] != is_byte[:-1]) + 1
        pieces = []
        for run in np.split(ids, borders):
            if run.size and run[0] < BYTES:
                pieces.append(_utf8_or_replacement(run.astype(np.uint8).tobytes()))
            else:
                pieces.extend(map(self._tokens.__getitem__, (run - BYTES).tolist()))
        return "".join(pieces)

    def decoder(self) -> Decoder:
        """Make a streaming decoder; see `Tokenizer.decoder`."""
        return _CharDecoder(self)

    def token_text(self, token: int) -> str:
        """Format a token for display; see `Tokenizer.token_text`."""
        (known,) = check_ids("token_text", token, self.vocab_size).tolist()
        if known < BYTES:
            return BYTE_NAMES[known]
        return visible(self._tokens[known - BYTES])

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of a token; see `Tokenizer.token_bytes`."""
        (known,) = check_ids("token_bytes", token, self.vocab_size).tolist()
        if known < BYTES:
            return bytes([known])
        return b"" if known >= self._first_special else self._tokens[known - BYTES].encode("utf-8")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a ``tokenizer.json``; see `Tokenizer.save`."""
        file = Path(path)
        if file.is_dir():
            file = file / json_file.NAME
        content = _fields()
        content["model"]["vocab"] = {token: i for i, token in enumerate([*BYTE_NAMES, *self._tokens])}
        content["model"]["merges"] = []
        atomic.write_text(file, json.dumps(content, ensure_ascii=False, indent=2) + "\n")

    @classmethod
    def from_json(cls, content: json_file.Object) -> CharTokenizer:
        """Make a tokenizer from the content of a ``tokenizer.json``.

        Parameters
        ----------
        content : dict
            Returned by `json_file.read`.

        Returns
        -------
        CharTokenizer

        Raises
        ------
        ValueError
            A field is missing, unknown or wrong, or the vocabulary is not that of a character tokenizer.
        """
        json_file.check_version(content)
        _FILE_TABLE.check(Fields(content))
        model = Fields(json_file.section(content, "model"), "model.")
        vocab = json_file.section(model.content, "vocab")
        _MODEL_TABLE.check(model)
        for name, value in {"type": "BPE", "byte_fallback": True}.items():
            if model.content[name] != value:
                raise model.wrong(name, json_file.shown(value))
        if not same(content["decoder"], _fields()["decoder"]):
            raise ValueError("'decoder' must be ByteFallback and Fuse")
        return cls(*_parts(vocab))


class _CharDecoder(Decoder):
    """Streaming decoder that holds a run of byte tokens back until it ends.

    One more byte can make the whole run invalid.
    """

    def __init__(self, tokenizer: CharTokenizer):
        self._tokenizer = tokenizer
        self._held = np.empty(0, np.int32)

    def feed(self, ids: npt.ArrayLike) -> str:
        """Take the next ids and return the text that they complete; see `Decoder.feed`."""
        new = check_ids("decode", ids, self._tokenizer.vocab_size)
        if new.size == 1 and new[0] >= BYTES and not self._held.size:
            return self._tokenizer._tokens[new[0] - BYTES]
        waiting = np.concatenate([self._held, new])
        characters = np.flatnonzero(waiting >= BYTES)
        end = int(characters[-1]) + 1 if characters.size else 0
        self._held = waiting[end:]
        return self._tokenizer._text(waiting[:end])

    def flush(self) -> str:
        """End the text; see `Decoder.flush`."""
        text = self._tokenizer._text(self._held)
        self._held = np.empty(0, np.int32)
        return text


def _utf8_or_replacement(run: bytes) -> str:
    try:
        return run.decode("utf-8")
    except UnicodeDecodeError:
        return REPLACEMENT * len(run)


def _fields() -> dict[str, Any]:
    """Make a ``tokenizer.json`` without the vocabulary and the (empty) list of merges."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": True,
            "ignore_merges": False,
        },
    }


def _special_names(asked: Iterable[str]) -> list[str]:
    """Check the names of special tokens, and put the separator last."""
    if isinstance(asked, str):
        raise TypeError(f"[CharTokenizer] 'special_tokens' must be a collection of names, got the str {asked!r}")
    names = [name for name in asked if name != SEPARATOR]
    for place, name in enumerate(names):
        # In a file, only the length distinguishes special tokens from characters.
        if check_text("CharTokenizer", name).size < 2 or name in BYTE_NAMES:
            raise ValueError(f"[CharTokenizer] 'special_tokens' must have two characters or more, got {name!r}")
        if name in names[:place]:
            raise ValueError(f"[CharTokenizer] 'special_tokens' must each occur once, got {name!r} twice")
    return [*names, SEPARATOR]


def _parts(vocab: dict[str, Any]) -> tuple[str, list[str]]:
    """Check the layout of a vocabulary, and return its characters and its special tokens by id."""
    tokens = _by_id(vocab)
    for byte, name in enumerate(BYTE_NAMES):
        if vocab.get(name) != byte:
            raise ValueError(f"'model.vocab' must have '{name}' as id {byte}, got {json_file.shown(vocab.get(name))}")
    if len(vocab) == BYTES or tokens[-1] != SEPARATOR:
        raise ValueError(f"'model.vocab' must have '{SEPARATOR}' as its last id, got {json_file.shown(tokens[-1])}")
    first_special = next(i for i in range(BYTES, len(vocab)) if len(tokens[i]) > 1)
    for i, token in enumerate(tokens[BYTES:], BYTES):
        if any("\ud800" <= char <= "\udfff" for char in token):
            raise ValueError(f"'model.vocab' must not have lone surrogates, got {json_file.shown(token)} as id {i}")
        if len(token) == 0 or (i > first_special and len(token) == 1):
            must = "a special token" if i > first_special else "one character"
            raise ValueError(f"'model.vocab' must have {must} as id {i}, got {json_file.shown(token)}")
    return "".join(tokens[BYTES:first_special]), tokens[first_special:]


def _by_id(vocab: dict[str, Any]) -> list[str]:
    """Sort the tokens by id; the ids must be 0 ... n - 1."""
    tokens: dict[int, str] = {}
    for token, i in vocab.items():
        if type(i) is not int or not 0 <= i < len(vocab):
            got = f"{json_file.shown(i)} for {json_file.shown(token)}"
            raise ValueError(f"'model.vocab' has {len(vocab)} tokens, so ids must be 0 ... {len(vocab) - 1}, got {got}")
        if i in tokens:
            both = f"{json_file.shown(tokens[i])} and {json_file.shown(token)}"
            raise ValueError(f"'model.vocab' has id {i} twice, for {both}")
        tokens[i] = token
    return [tokens[i] for i in range(len(vocab))]
