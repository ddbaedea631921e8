"""A byte-level BPE tokenizer as a Hugging Face ``tokenizer.json``, which is read without trusting it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tinygpt.io.strict import shown
from tinygpt.tokenizers import json_file
from tinygpt.tokenizers.bpe_parts import Merge, Names, Parts, from_letters, to_letters
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
_DIGITS = {"type": "Digits", "individual_digits": True}
_TEXT = {"Sequence": {"id": "A", "type_id": 0}}


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": PATTERNS[pattern]}, "behavior": "Isolated", "invert": False}


def _pre_tokenizer(pattern: str) -> dict[str, Any]:
    """ByteLevel alone splits as GPT-2 does; any other pattern is made by what stands before it."""
    if pattern == "gpt2":
        return _byte_level(True)
    before = _DIGITS if pattern == "smollm" else _split(pattern)
    return {"type": "Sequence", "pretokenizers": [before, _byte_level(pattern == "smollm")]}


def _post_processor(first: str | None, special: dict[str, int]) -> dict[str, Any] | None:
    """A template that puts one token before a text."""
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
    """The content of a ``tokenizer.json``."""
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


def from_json(content: json_file.Object, roles: Roles = Roles()) -> Parts:  # noqa: B008
    """The parts in the content of a ``tokenizer.json``.

    Files of other programs may leave out what has a default, have merges as ``"a b"``, and a ByteLevel post-processor.

    Parameters
    ----------
    content : dict
        What `json_file.read` gives.
    roles : Roles
        What the file beside it says.

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
    read_below = ("model", "added_tokens", "pre_tokenizer", "post_processor", "decoder")
    _check_values({"version": None, **without(content, read_below)}, fixed)
    ignore_merges = model.get("ignore_merges") is True
    expected = {"type": "BPE", **_MODEL, "ignore_merges": ignore_merges}
    _check_values(without(model, ("vocab", "merges")), expected, "model.")
    pattern = _known_pattern(content.get("pre_tokenizer"))
    if _kind(content.get("decoder")) != "ByteLevel":
        raise ValueError(f"'decoder.type' must be 'ByteLevel', got {shown(_kind(content.get('decoder')))}")
    special, plain, late = _added_tokens(content.get("added_tokens"))
    written = json_file.section(model, "vocab", "model.")
    for name, i in special.items():
        if written.get(name, i) != i:
            raise ValueError(
                f"'added_tokens' has {shown(name)} as id {shown(i)}, 'model.vocab' as {shown(written[name])}"
            )
    names = Names("'model.vocab'", "'model.merges' entry", 0, "'added_tokens'", "'eos_token' of tokenizer_config.json")
    return Parts(
        vocab=read_tokens(without(written, special), "'model.vocab'"),
        merges=read_merges(model.get("merges"), names.merges, "'model.merges'"),
        special_tokens=special,
        pattern=pattern,
        ignore_merges=ignore_merges,
        first=_first_token(content.get("post_processor"), special),
        plain=plain,
        late=late,
        roles=roles,
        names=names,
    )


def read_tokens(written: json_file.Object, where: str) -> dict[bytes, int]:
    """Tokens that are written in letters, with their ids as they are."""
    vocab: dict[bytes, int] = {}
    for text, i in written.items():
        token = from_letters(text)
        if token is None:
            raise ValueError(f"{where} must have tokens written in the letters of bytes, got {shown(text)}")
        vocab[token] = i
    return vocab


def read_merges(found: Any, row_name: str, where: str, first: int = 0) -> list[Merge]:
    """Merges, each written as ["a", "b"] or as "a b"."""
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
    """An object without some of its fields."""
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
    *before, last = parts
    if last.get("add_prefix_space") is not False:
        got = shown(last.get("add_prefix_space"))
        raise ValueError(f"'pre_tokenizer': 'add_prefix_space' of ByteLevel must be false, got {got}")
    use_regex = last.get("use_regex", True)
    for name in PATTERNS:
        made = _pre_tokenizer(name)
        *expected, ending = made.get("pretokenizers", [made])
        if before == expected and use_regex is ending["use_regex"]:
            return name
    got = " and ".join(shown(_kind(part)) for part in parts[:4])
    raise ValueError(f"'pre_tokenizer' must split by one of the patterns {', '.join(PATTERNS)}, got another {got}")


def _first_token(found: Any, special: dict[str, int]) -> str | None:
    """The token that a post-processor puts before a text, if it does."""
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
    made = known.get(name) if isinstance(known, dict) and isinstance(name, str) else None
    # The name in the template is a key; what it stands for is said beside it.
    if not isinstance(made, dict) or name not in special or made.get("ids") != [special[name]]:
        raise wrong
    return str(name)


def _added_tokens(found: Any) -> tuple[dict[str, int], frozenset[str], frozenset[str]]:
    """The special tokens of a file, name to id; those found in any text; those looked for after the others."""
    if not isinstance(found, list):
        raise ValueError(f"'added_tokens' must be a list, got {shown(found)}")
    special: dict[str, int] = {}
    plain, late = set(), set()
    for row, token in enumerate(found):
        where = f"added_tokens[{row}]"
        if not isinstance(token, dict):
            raise ValueError(f"'{where}' must be an object, got {shown(token)}")
        name = token.get("content")
        if not isinstance(name, str):
            raise ValueError(f"'{where}.content' must be a string, got {shown(name)}")
        if name in special:
            raise ValueError(f"'{where}.content' stands there before: {shown(name)}")
        is_special, normalized = token.get("special") is not False, token.get("normalized") is True
        expected = {**_ADDED, "special": is_special, "normalized": normalized}
        json_file.check_fields({"normalized": False, **without(token, ("id", "content"))}, expected, f"{where}.")
        special[name] = token.get("id")  # type: ignore[assignment]  # Parts.check looks at it
        if not is_special:
            plain.add(name)
        if normalized:
            late.add(name)
    # There is no normalizer, so all of them are looked for in the same text: where all are late, none is.
    return special, frozenset(plain), frozenset(late if len(late) < len(special) else ())
