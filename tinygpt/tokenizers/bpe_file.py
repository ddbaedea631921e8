"""Byte-level BPE in a Hugging Face ``tokenizer.json``: written, and read without trusting it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from tinygpt.core import bpe_encode
from tinygpt.io.strict import Fields, shown
from tinygpt.io.table import Table, same
from tinygpt.tokenizers import added, json_file
from tinygpt.tokenizers.added import AddedToken
from tinygpt.tokenizers.bpe_parts import BYTES, Merge, Names, Parts, from_letters, to_letters
from tinygpt.tokenizers.config_file import Beside
from tinygpt.tokenizers.patterns import PATTERNS
from tinygpt.tokenizers.special import Roles

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
# Truncation and padding are those of the last call before the file was saved; encoding here does neither.
_FILE_TABLE = Table(
    required=["version", "model", "added_tokens"],
    known=["pre_tokenizer", "post_processor", "decoder"],
    without_effect=["truncation", "padding"],
    refused={"normalizer": ({"type": "Sequence", "normalizers": []},)},
)
_MODEL_TABLE = Table(
    required=["vocab", "merges"],
    known=["type", "ignore_merges", "unk_token", "fuse_unk", "byte_fallback"],
    refused={"dropout": (0.0,), "continuing_subword_prefix": ("",), "end_of_word_suffix": ("",)},
)
_BYTE_LEVEL_TABLE = Table(known=["type", "use_regex"], without_effect=["trim_offsets"],
                          refused={"add_prefix_space": (False,)})  # fmt: skip
_DIGITS = {"type": "Digits", "individual_digits": True}
_TEXT = {"Sequence": {"id": "A", "type_id": 0}}


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": PATTERNS[pattern]}, "behavior": "Isolated", "invert": False}


def _pre_tokenizer(pattern: str) -> dict[str, Any]:
    """Make a pre-tokenizer: ByteLevel alone splits by GPT-2's pattern, others need a splitter before it."""
    if pattern == "gpt2":
        return _byte_level(True)
    before = _DIGITS if pattern == "smollm" else _split(pattern)
    return {"type": "Sequence", "pretokenizers": [before, _byte_level(pattern == "smollm")]}


def _post_processor(first: str | None, special: dict[str, int]) -> dict[str, Any] | None:
    """Make a template that puts one token before a text."""
    if first is None:
        return None
    token = {"SpecialToken": {"id": first, "type_id": 0}}
    second = [{"SpecialToken": {"id": first, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]
    return {
        "type": "TemplateProcessing",
        "single": [token, _TEXT],
        "pair": [token, _TEXT, *second],
        "special_tokens": {first: {"id": first, "ids": [special[first]], "tokens": [first]}},
    }


def to_json(parts: Parts) -> json_file.Object:
    """Make the content of a ``tokenizer.json``."""
    ids = {**{to_letters(token): i for token, i in parts.vocab.items()}, **parts.special_tokens}
    special = dict(sorted(parts.special_tokens.items(), key=lambda one: one[1]))
    added = [
        {**_ADDED, "id": i, "content": name, "normalized": name in parts.late, "special": name not in parts.plain}
        for name, i in special.items()
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": _pre_tokenizer(parts.pattern),
        "post_processor": _post_processor(parts.first, special),
        "decoder": _byte_level(True),
        "model": {
            "type": "BPE",
            **_MODEL,
            "ignore_merges": parts.ignore_merges,
            "vocab": dict(sorted(ids.items(), key=lambda one: one[1])),
            "merges": [[to_letters(left), to_letters(right)] for left, right in parts.merges],
        },
    }


def from_json(content: json_file.Object, beside: Beside = Beside()) -> Parts:  # noqa: B008
    """Read the parts in the content of a ``tokenizer.json``.

    Files of other programs may omit fields that have a default, write merges as ``"a b"``, and have a ByteLevel
    post-processor.

    Parameters
    ----------
    content : dict
        Returned by `json_file.read`.
    beside : Beside
        Content of the files beside it.

    Returns
    -------
    Parts
        Not yet checked.

    Raises
    ------
    ValueError
        A field is missing, unknown, or would change the ids of a text.
    """
    json_file.check_version(content)
    _FILE_TABLE.check(Fields(content))
    model = Fields(json_file.section(content, "model"), "model.")
    _MODEL_TABLE.check(model)
    if model.text("type", "BPE") != "BPE":
        raise model.wrong("type", "'BPE'")
    pattern = _known_pattern(content.get("pre_tokenizer"))
    if _kind(content.get("decoder")) != "ByteLevel":
        raise ValueError(f"'decoder.type' must be 'ByteLevel', got {shown(_kind(content.get('decoder')))}")
    written = json_file.section(model.content, "vocab", "model.")
    tokens = added.gather(_added_tokens(content["added_tokens"]), beside.tokens, written)
    names = Names("'model.vocab'", "'model.merges' entry", 0, "'added_tokens'", "'eos_token' of tokenizer_config.json")
    merges = read_merges(model.content["merges"], names.merges, "'model.merges'")
    ignore_merges = model.flag("ignore_merges", False)
    parts = assembled(written, merges, tokens, pattern, beside, ignore_merges, names)
    _check_unknown_bytes(model, parts)
    return replace(parts, first=_first_token(content.get("post_processor"), parts.special_tokens))


def assembled(
    written: json_file.Object,
    merges: list[Merge],
    tokens: list[AddedToken],
    pattern: str,
    beside: Beside,
    ignore_merges: bool,
    names: Names,
) -> Parts:
    """Put together a vocabulary as a file has it, merges and added tokens.

    Added tokens are in the file's vocabulary too. One that merges can make (``add_tokens(["def"])``) stays in the
    vocabulary of the parts; the others leave it, because no text may become them by itself.
    """
    needed = {token for left, right in merges for token in (left, right, left + right)}

    def reached(name: str) -> bool:
        letters = from_letters(name)
        if not letters or name not in written:
            return False
        word = ignore_merges and len(bpe_encode.word_ends(letters, pattern)) == 1
        return word or letters in needed or len(letters) == 1

    kept = {token.name for token in tokens if reached(token.name)}
    late = frozenset(token.name for token in tokens if token.late)
    return Parts(
        vocab=read_tokens(without(written, {token.name for token in tokens} - kept), names.vocab),
        merges=merges,
        special_tokens={token.name: token.id for token in tokens},
        pattern=pattern,
        ignore_merges=ignore_merges,
        plain=frozenset(token.name for token in tokens if not token.special),
        # There is no normalizer, so both rounds search the same text: if all tokens are late, none is.
        late=late if len(late) < len(tokens) else frozenset(),
        roles=_known_roles(beside, {token.name for token in tokens}),
        names=names,
    )


def _known_roles(beside: Beside, names: set[str]) -> Roles:
    """Drop the roles of tokens that `added.gather` left out."""
    gone = {token.name for token in beside.tokens if token.optional and token.name not in names}
    return beside.roles.with_names({role: None for role, n in beside.roles.names().items() if n in gone})


def _check_unknown_bytes(model: Fields, parts: Parts) -> None:
    """Refuse a token for unknown bytes if there are any; with a token for every byte these fields have no effect."""
    if sum(bytes([byte]) in parts.vocab for byte in range(BYTES)) == BYTES:
        return
    if model.has("unk_token"):
        raise model.wrong("unk_token", "null, because some bytes have no token")
    if model.flag("byte_fallback", False):
        raise model.wrong("byte_fallback", "false, because some bytes have no token")


def read_tokens(written: json_file.Object, where: str) -> dict[bytes, int]:
    """Read tokens written in letters; ids are not checked."""
    vocab: dict[bytes, int] = {}
    for text, i in written.items():
        token = from_letters(text)
        if token is None:
            raise ValueError(f"{where} must have tokens written in the letters of bytes, got {shown(text)}")
        vocab[token] = i
    return vocab


def read_merges(found: Any, row_name: str, where: str, first: int = 0) -> list[Merge]:
    """Read merges, each written as ["a", "b"] or as "a b"."""
    if not isinstance(found, list):
        raise ValueError(f"{where} must be a list, got {shown(found)}")
    return [_merge(merge, f"{row_name} {row}") for row, merge in enumerate(found, first)]


def _merge(found: Any, where: str) -> Merge:
    pair = found.split(" ") if isinstance(found, str) else found
    if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(one, str) for one in pair)):
        raise ValueError(f"{where} must have two tokens, got {shown(found)}")
    left, right = from_letters(pair[0]), from_letters(pair[1])
    if not left or not right:
        raise ValueError(f"{where} must have two tokens in the letters of bytes, got {shown(' '.join(pair))}")
    return left, right


def without(content: json_file.Object, names: Iterable[str]) -> json_file.Object:
    """Copy an object without some of its fields."""
    left_out = set(names)
    return {name: value for name, value in content.items() if name not in left_out}


def _kind(section: Any) -> Any:
    """Return the type of a part of a file; None if the part is null."""
    if section is None:
        return None
    return section.get("type") if isinstance(section, dict) else "not an object"


def _known_pattern(found: Any) -> str:
    """Return the name of the pattern that a pre-tokenizer splits by."""
    parts = found.get("pretokenizers") if _kind(found) == "Sequence" else [found]
    if not (isinstance(parts, list) and parts and _kind(parts[-1]) == "ByteLevel"):
        raise ValueError(f"'pre_tokenizer' must be or end with 'ByteLevel', got {shown(_kind(found))}")
    *before, last = parts
    fields = Fields(last, "pre_tokenizer.")
    _BYTE_LEVEL_TABLE.check(fields)
    if not fields.has("add_prefix_space"):  # whose default is true
        raise fields.wrong("add_prefix_space", "false")
    use_regex = fields.flag("use_regex", True)
    for name in PATTERNS:
        made = _pre_tokenizer(name)
        *expected, ending = made.get("pretokenizers", [made])
        if same(before, expected) and use_regex is ending["use_regex"]:
            return name
    got = " and ".join(shown(_kind(part)) for part in parts[:4])
    raise ValueError(f"'pre_tokenizer' must split by one of the patterns {', '.join(PATTERNS)}, got another {got}")


def _first_token(found: Any, special: Mapping[str, int]) -> str | None:
    """Return the token that a post-processor puts before a text; None if it puts none."""
    steps = found.get("processors") if _kind(found) == "Sequence" else [] if found is None else [found]
    if not isinstance(steps, list):
        raise ValueError(f"'post_processor.processors' must be a list, got {shown(steps)}")
    templates = [step for step in steps if _kind(step) != "ByteLevel"]  # that one changes offsets, not ids
    for step in templates:
        if _kind(step) != "TemplateProcessing" or len(templates) > 1:
            got = shown(_kind(step))
            raise ValueError(
                f"'post_processor' must be null or of type 'ByteLevel' or one 'TemplateProcessing', got {got}"
            )
    single = templates[0].get("single") if templates else [_TEXT]
    if single == [_TEXT]:
        return None
    wrong = ValueError("'post_processor.single' must be a text, with at most one of the 'added_tokens' before it")
    if not (isinstance(single, list) and len(single) == 2 and single[1] == _TEXT and isinstance(single[0], dict)):
        raise wrong
    token = single[0].get("SpecialToken")
    name = token.get("id") if isinstance(token, dict) else None
    known = templates[0].get("special_tokens")
    if not isinstance(known, dict) or not isinstance(name, str):
        raise wrong
    made = known.get(name)  # the template's own name for one or more ids
    if not isinstance(made, dict) or name not in special or made.get("ids") != [special[name]]:
        raise wrong
    return name


def _added_tokens(found: Any) -> list[AddedToken]:
    """Read the added tokens of a tokenizer.json."""
    if not isinstance(found, list):
        raise ValueError(f"'added_tokens' must be a list, got {shown(found)}")
    tokens: dict[str, AddedToken] = {}
    for row, one in enumerate(found):
        token = added.read(one, f"added_tokens[{row}]", "'added_tokens'")
        if token.name in tokens:
            raise ValueError(f"'added_tokens[{row}].content' occurs before: {shown(token.name)}")
        tokens[token.name] = token
    return list(tokens.values())
