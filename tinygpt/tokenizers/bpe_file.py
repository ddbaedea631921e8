"""A byte-level BPE vocabulary and its files, none of which is trusted.

In a file a token is written in letters, one for each of its bytes: a byte that prints as a Latin-1 character is that
character, and the 68 others are the characters from U+0100 on. So a space is U+0120 in GPT-2's files and in a
``tokenizer.json``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinygpt.files.strict import StrPath, naming, read_object, require_file, shown
from tinygpt.tokenizers import json_file
from tinygpt.tokenizers.base import SEPARATOR
from tinygpt.tokenizers.patterns import PATTERNS

BYTES = 256
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(BYTES) if byte not in _PRINTABLE]
LETTERS = {**{byte: chr(byte) for byte in _PRINTABLE}, **{byte: chr(BYTES + i) for i, byte in enumerate(_OTHERS)}}
_BYTE_OF = {letter: byte for byte, letter in LETTERS.items()}

Merge = tuple[bytes, bytes]


def to_letters(token: bytes) -> str:
    """A token as files have it: a letter for each byte."""
    return token.decode("latin-1").translate(LETTERS)


def from_letters(text: str) -> bytes | None:
    """The inverse of `to_letters`; None if a character is not one of the 256 letters."""
    try:
        return bytes(map(_BYTE_OF.__getitem__, text))
    except KeyError:
        return None


def _shown_token(token: bytes | str) -> str:
    return shown(to_letters(token) if isinstance(token, bytes) else token)


@dataclass(frozen=True)
class Names:
    """What an error calls the parts of a vocabulary: a reader of files gives the names of its fields."""

    vocab: str = "'vocab'"
    merges: str = "'merges' row"
    first_merge: int = 0
    special_tokens: str = "'special_tokens'"


@dataclass(frozen=True)
class Parts:
    """What a byte-level BPE tokenizer is made of.

    Parameters
    ----------
    vocab : mapping of bytes to int
        Token to id; special tokens are not in it.
    merges : list of (bytes, bytes)
        The pairs that are merged, in the order of rank.
    special_tokens : mapping of str to int
        Name to id.
    pattern : str
        A name out of `PATTERNS`.
    names : Names
        For errors.
    """

    vocab: Mapping[bytes, int]
    merges: list[Merge]
    special_tokens: Mapping[str, int]
    pattern: str
    names: Names = field(default_factory=Names)

    def check(self) -> None:
        """Find what is wrong with the parts.

        Raises
        ------
        ValueError
            A byte has no token, ids are not 0 ... n - 1, a merge stands twice or is of or makes something that is not
            a token, a special token is not text or is written like another token, or the separator is missing.
        """
        if self.pattern not in PATTERNS:
            raise ValueError(f"'pattern' must be one of {', '.join(PATTERNS)}, got {shown(self.pattern)}")
        for byte in range(BYTES):
            if bytes([byte]) not in self.vocab:
                raise ValueError(f"{self.names.vocab} must have a token for every byte, there is none for 0x{byte:02X}")
        if b"" in self.vocab:
            raise ValueError(f"{self.names.vocab} must not have an empty token")
        self._check_special()
        self._check_merges()  # before the ids: a token that is missing leaves a gap in them
        self._check_ids()

    def _check_special(self) -> None:
        where = self.names.special_tokens
        for name in self.special_tokens:
            if not isinstance(name, str) or not name or any("\ud800" <= char <= "\udfff" for char in name):
                raise ValueError(f"{where} must be text without lone surrogates, got {shown(name)}")
            # A file has one name for each token, and this one would be written as the other.
            if from_letters(name) in self.vocab:
                raise ValueError(f"{where} must not be written like a token of the vocabulary, got {shown(name)}")
        if SEPARATOR not in self.special_tokens:
            raise ValueError(f"{where} must have the separator '{SEPARATOR}'")

    def _check_ids(self) -> None:
        tokens: list[tuple[bytes | str, Any]] = [*self.vocab.items(), *self.special_tokens.items()]
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
                raise ValueError(f"{where} stands there before: {shown(to_letters(left) + ' ' + to_letters(right))}")
            seen.add((left, right))

    def byte_ids(self) -> npt.NDArray[np.int32]:
        """The ids of the bytes, shape (256,)."""
        return np.array([self.vocab[bytes([byte])] for byte in range(BYTES)], np.int32)

    def merge_ids(self) -> npt.NDArray[np.int32]:
        """Rows of left id, right id and the id of both together, shape (M, 3), by rank."""
        rows = [(self.vocab[a], self.vocab[b], self.vocab[a + b]) for a, b in self.merges]
        return np.array(rows, np.int32).reshape(-1, 3)

    def to_json(self) -> dict[str, Any]:
        """The content of a ``tokenizer.json``."""
        ids = {**{to_letters(token): i for token, i in self.vocab.items()}, **self.special_tokens}
        special = sorted(self.special_tokens.items(), key=lambda one: one[1])
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": i, "content": name, **_ADDED} for name, i in special],
            "normalizer": None,
            "pre_tokenizer": _pre_tokenizer(self.pattern),
            "post_processor": None,
            "decoder": _byte_level(True),
            "model": {
                "type": "BPE",
                **_MODEL,
                "vocab": dict(sorted(ids.items(), key=lambda one: one[1])),
                "merges": [[to_letters(left), to_letters(right)] for left, right in self.merges],
            },
        }


_ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
_MODEL = {
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
    "ignore_merges": False,
}


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": PATTERNS[pattern]}, "behavior": "Isolated", "invert": False}


def _pre_tokenizer(pattern: str) -> dict[str, Any]:
    """ByteLevel alone splits as GPT-2 does; any other pattern is a Split before it."""
    if pattern == "gpt2":
        return _byte_level(True)
    return {"type": "Sequence", "pretokenizers": [_split(pattern), _byte_level(False)]}


def from_json(content: json_file.Object) -> Parts:
    """The parts in the content of a ``tokenizer.json``.

    Files of other programs may leave out what has a default, have merges as ``"a b"``, and a ByteLevel post-processor.

    Parameters
    ----------
    content : dict
        What `json_file.read` gives.

    Returns
    -------
    Parts
        Not yet checked.

    Raises
    ------
    ValueError
        A field is missing, or would change what a text is encoded to.
    """
    model = json_file.section(content, "model")
    fixed = {"version": "1.0", "truncation": None, "padding": None, "normalizer": None}
    parts = ("model", "added_tokens", "pre_tokenizer", "post_processor", "decoder")
    _check_values({"version": None, **_without(content, parts)}, fixed)
    _check_values(_without(model, ("vocab", "merges")), {"type": "BPE", **_MODEL}, "model.")
    pattern = _known_pattern(content.get("pre_tokenizer"))
    if _kind(content.get("decoder")) != "ByteLevel":
        raise ValueError(f"'decoder.type' must be 'ByteLevel', got {shown(_kind(content.get('decoder')))}")
    if _kind(content.get("post_processor")) not in (None, "ByteLevel"):  # that one changes offsets, not ids
        got = shown(_kind(content["post_processor"]))
        raise ValueError(f"'post_processor' must be null or of type 'ByteLevel', got {got}")
    special = _added_tokens(content.get("added_tokens"))
    written = json_file.section(model, "vocab", "model.")
    for name, i in special.items():
        if written.get(name, i) != i:
            raise ValueError(f"'added_tokens' has {shown(name)} as id {i}, 'model.vocab' as {shown(written[name])}")
    vocab = _tokens(_without(written, special), "'model.vocab'")
    names = Names("'model.vocab'", "'model.merges' entry", 0, "'added_tokens'")
    merges = model.get("merges")
    if not isinstance(merges, list):
        raise ValueError(f"'model.merges' must be a list, got {shown(merges)}")
    pairs = [_merge(merge, f"{names.merges} {row}") for row, merge in enumerate(merges)]
    return Parts(vocab, pairs, special, pattern, names)


def read_gpt2(encoder_json: StrPath, vocab_bpe: StrPath) -> Parts:
    """The parts in GPT-2's two files; see `BPETokenizer.from_gpt2`."""
    vocab_file, merges_file = Path(encoder_json), Path(vocab_bpe)
    written = read_object(vocab_file, json_file.MAX_BYTES)
    lines = _lines(merges_file)
    first = 1
    if lines and lines[0].startswith("#version"):
        lines, first = lines[1:], 2
    with naming(vocab_file):
        vocab = _tokens(_without(written, [SEPARATOR]), "the vocabulary")
        if SEPARATOR not in written:
            raise ValueError(f"the vocabulary must have the separator '{SEPARATOR}'")
    names = Names(f"{vocab_file}: the vocabulary", f"{merges_file}: line", first, f"{vocab_file}: the vocabulary")
    merges = [_merge(line, f"{names.merges} {row}") for row, line in enumerate(lines, first)]
    parts = Parts(vocab, merges, {SEPARATOR: written[SEPARATOR]}, "gpt2", names)
    parts.check()
    made = {left + right for left, right in merges}
    for token in vocab:
        if len(token) > 1 and token not in made:  # a list that was cut off at the end of a line
            raise ValueError(f"{merges_file}: no line makes {shown(to_letters(token))}, a token of {vocab_file.name}")
    return parts


def _lines(file: Path) -> list[str]:
    """The lines of a text file without empty ones at its end; other characters than a line feed do not end one."""
    require_file(file)
    with naming(file):
        with open(file, "rb") as stream:
            data = stream.read(json_file.MAX_BYTES + 1)
        if len(data) > json_file.MAX_BYTES:
            raise ValueError(f"must be at most {json_file.MAX_BYTES} bytes long, got {file.stat().st_size}")
        try:
            return data.decode("utf-8").replace("\r\n", "\n").rstrip("\n").split("\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"must be UTF-8, got byte 0x{data[error.start]:02X} at {error.start}") from None


def _without(content: json_file.Object, names: Iterable[str]) -> json_file.Object:
    left_out = set(names)
    return {name: value for name, value in content.items() if name not in left_out}


def _kind(section: Any) -> Any:
    """The type that a part of a file names; None where it is null."""
    if section is None:
        return None
    return section.get("type") if isinstance(section, dict) else "not an object"


def _check_values(found: json_file.Object, expected: json_file.Object, prefix: str = "") -> None:
    """Each field must have its value; one that is left out has it, and for a prefix or suffix none is also ""."""
    same = {name: found.get(name, value) for name, value in expected.items()}
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if same.get(name) == "":
            same[name] = None
    json_file.check_fields({**found, **same}, expected, prefix)


def _known_pattern(found: Any) -> str:
    """The name of the pattern that a pre-tokenizer splits by."""
    parts = found.get("pretokenizers") if _kind(found) == "Sequence" else [found]
    if not (isinstance(parts, list) and parts and _kind(parts[-1]) == "ByteLevel"):
        raise ValueError(f"'pre_tokenizer' must be or end with 'ByteLevel', got {shown(_kind(found))}")
    *splits, last = parts
    if last.get("add_prefix_space") is not False:
        got = shown(last.get("add_prefix_space"))
        raise ValueError(f"'pre_tokenizer': 'add_prefix_space' of ByteLevel must be false, got {got}")
    if not splits and last.get("use_regex", True) is True:
        return "gpt2"
    for name in PATTERNS:
        if splits == [_split(name)] and last.get("use_regex") is False:
            return name
    raise ValueError(f"'pre_tokenizer' must split by one of the patterns {', '.join(PATTERNS)}, got another one")


def _added_tokens(found: Any) -> dict[str, int]:
    """The special tokens of a file, name to id."""
    if not isinstance(found, list):
        raise ValueError(f"'added_tokens' must be a list, got {shown(found)}")
    special: dict[str, int] = {}
    for row, token in enumerate(found):
        where = f"added_tokens[{row}]"
        if not isinstance(token, dict):
            raise ValueError(f"'{where}' must be an object, got {shown(token)}")
        name = token.get("content")
        if not isinstance(name, str):
            raise ValueError(f"'{where}.content' must be a string, got {shown(name)}")
        if name in special:
            raise ValueError(f"'{where}.content' stands there before: {shown(name)}")
        # There is no normalizer, so it makes no difference whether a token is looked for before or after it.
        rest = _without(token, ("id", "content"))
        json_file.check_fields({**rest, "normalized": False}, _ADDED, f"{where}.")
        special[name] = token.get("id")  # type: ignore[assignment]  # Parts.check looks at it
    return special


def _tokens(written: json_file.Object, where: str) -> dict[bytes, int]:
    vocab: dict[bytes, int] = {}
    for text, i in written.items():
        token = from_letters(text)
        if token is None:
            raise ValueError(f"{where} must have tokens written in the letters of bytes, got {shown(text)}")
        vocab[token] = i
    return vocab


def _merge(found: Any, where: str) -> Merge:
    """A merge, which is written as ["a", "b"] or as "a b"."""
    pair = found.split(" ") if isinstance(found, str) else found
    if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(one, str) for one in pair)):
        raise ValueError(f"{where} must have two tokens, got {shown(found)}")
    left, right = from_letters(pair[0]), from_letters(pair[1])
    if not left or not right:
        raise ValueError(f"{where} must have two tokens in the letters of bytes, got {shown(' '.join(pair))}")
    return left, right
