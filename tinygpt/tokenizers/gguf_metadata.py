"""Byte-level BPE in the metadata of a GGUF file: the keys ``tokenizer.ggml.*``, as plain Python values.

A GGUF file does not contain the pattern that splits a text. It contains a name, ``tokenizer.ggml.pre``, of a pattern
that programs such as llama.cpp have built in:

    gpt-2       pattern gpt2
    llama-bpe   pattern gpt4; a word that is a token is encoded as that token, and a text begins with bos_token_id
                unless the file says otherwise
    smollm      pattern smollm
    qwen2       pattern qwen2

A token that is found in any text (`plain`) has the type "user defined", another special token the type "control". Rows
of the model without a token get tokens of the type "unused".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from tinygpt.core import bpe_encode
from tinygpt.io.strict import Fields, shown
from tinygpt.io.table import Table
from tinygpt.tokenizers.added import AddedToken
from tinygpt.tokenizers.base import SEPARATOR, Tokenizer
from tinygpt.tokenizers.bpe import BPETokenizer
from tinygpt.tokenizers.bpe_file import assembled, read_merges
from tinygpt.tokenizers.bpe_parts import Names, Parts, to_letters
from tinygpt.tokenizers.config_file import Beside
from tinygpt.tokenizers.special import Roles

PREFIX = "tokenizer.ggml."
TEMPLATE = "tokenizer.chat_template"
MODEL = "gpt2"
PATTERN_OF = {"gpt-2": "gpt2", "llama-bpe": "gpt4", "smollm": "smollm", "qwen2": "qwen2"}
# The name that was made for Llama 3 and implies more than a pattern.
_LLAMA = "llama-bpe"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
# Fields of `Roles`, and the keys of their ids.
_ROLES = {
    "eos_token": "eos_token_id",
    "bos_token": "bos_token_id",
    "pad_token": "padding_token_id",
    "unk_token": "unknown_token_id",
    "sep_token": "seperator_token_id",  # as llama.cpp spells it
    "mask_token": "mask_token_id",
}
# Further tokens that end a text: the end of a turn, and of a message.
_ENDS = ("eot_token_id", "eom_token_id")
# llama.cpp takes tokens with these names as ends, whatever the file says.
_NAMED_ENDS = (SEPARATOR, "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|eom_id|>", "<EOT>", "_<EOT>")


TABLE = Table(
    required=["model", "pre", "tokens", "token_type", "merges"],
    known=[*_ROLES.values(), *_ENDS, "add_bos_token"],
    without_effect=[
        # settings of other kinds of tokenizers
        "cls_token_id", "precompiled_charsmap", "remove_extra_whitespaces", "scores", "token_type_count",
        # markers of fill-in-the-middle, which are found by their names
        "fim_pre_token_id", "fim_suf_token_id", "fim_mid_token_id", "fim_pad_token_id", "fim_rep_token_id",
        "fim_sep_token_id", "prefix_token_id", "suffix_token_id", "middle_token_id",
    ],
    refused={"add_space_prefix": (False,), "add_eos_token": (False,), "add_sep_token": (False,)},
)  # fmt: skip


class _Token(NamedTuple):
    text: str
    id: int
    kind: int


def from_metadata(fields: dict[str, Any]) -> BPETokenizer:
    """Read the tokenizer of a GGUF file.

    Parameters
    ----------
    fields : dict of str to object
        Keys and values of the file; keys that are not of the tokenizer are skipped.

    Returns
    -------
    BPETokenizer
        Unused tokens at the end of the list are left out, so it may have fewer tokens than the model has rows.

    Raises
    ------
    ValueError
        The tokenizer has another model or pre-tokenizer, or a field is missing, unknown or wrong; the message names the
        field.
    """
    own = Fields({name[len(PREFIX) :]: fields[name] for name in fields if name.startswith(PREFIX)}, PREFIX)
    model, pre = own.text("model"), own.text("pre")
    if model != MODEL:
        raise ValueError(f"'{PREFIX}model' must be '{MODEL}' (byte-level BPE), got {shown(model)}")
    if pre not in PATTERN_OF:
        raise ValueError(f"'{PREFIX}pre' must be one of {', '.join(PATTERN_OF)}, got {shown(pre)}")
    TABLE.check(own)
    tokens = _tokens(own)
    special = {token.text: token.id for token in tokens if token.kind not in (NORMAL, BYTE)}
    named = {role: _named(own, name, tokens, special) for role, name in _ROLES.items()}
    begins = own.flag("add_bos_token", pre == _LLAMA)
    if begins and named["bos_token"] is None:
        raise ValueError(f"'{PREFIX}bos_token_id' is missing, and every text is to begin with this token")
    merges = f"'{PREFIX}merges'"
    names = Names(f"'{PREFIX}tokens'", f"{merges} entry", 0, f"'{PREFIX}tokens'", f"'{PREFIX}eos_token_id'")
    template = Fields(fields).text(TEMPLATE) if TEMPLATE in fields else None
    more = [own.content.get(name) for name in _ENDS]
    for name, found in zip(_ENDS, more, strict=True):
        if found is not None and (type(found) is not int or not 0 <= found < len(tokens)):
            raise own.wrong(name, f"an id in 0 ... {len(tokens) - 1}")
    ends = frozenset(i for i in more if i is not None)
    parts = assembled(
        {token.text: token.id for token in tokens},
        read_merges(own.content.get("merges"), names.merges, merges),
        [AddedToken(text, i, special=tokens[i].kind != USER_DEFINED) for text, i in special.items()],
        PATTERN_OF[pre],
        Beside(Roles(chat_template=template, end_ids=ends).with_names(named)),
        pre == _LLAMA,
        names,
    )
    parts = replace(parts, first=named["bos_token"] if begins else None)
    return BPETokenizer.from_parts(parts)


def to_metadata(tokenizer: Tokenizer, rows: int | None = None) -> dict[str, Any]:
    """Make the fields of a GGUF file for a tokenizer.

    Parameters
    ----------
    tokenizer : Tokenizer
    rows : int, optional
        Rows of the model's embedding, if there are more than tokens. The list of tokens must be as long, so unused
        tokens fill it up.

    Returns
    -------
    dict of str to object
        Strings, booleans, integers, and lists of strings and integers.

    Raises
    ------
    ValueError
        GGUF has no form for the tokenizer; the message gives the reason. Or there are fewer `rows` than tokens.
    """
    if not isinstance(tokenizer, BPETokenizer):
        raise ValueError(
            "[to_metadata] GGUF has no form for a character tokenizer; train a model with 'tokenizer_type' bpe"
        )
    parts, roles = tokenizer.parts, tokenizer.roles
    pre = next((pre for pre, pattern in PATTERN_OF.items() if pattern == parts.pattern), None)
    if pre is None:
        known = ", ".join(PATTERN_OF.values())
        raise ValueError(
            f"[to_metadata] GGUF has no name for the pattern '{parts.pattern}', only for {known}: train a tokenizer "
            "with one of these"
        )
    _check_expressible(parts, pre)
    # Without these fields, llama.cpp would take the token with id 11.
    ids = {**{role: name for role, name in roles.names().items() if role in _ROLES}, "bos_token": parts.beginning()}
    tokens, types = _rows(parts, tokenizer.vocab_size if rows is None else rows)
    fields = {
        "model": MODEL,
        "pre": pre,
        "tokens": tokens,
        "token_type": types,
        "merges": [f"{to_letters(left)} {to_letters(right)}" for left, right in parts.merges],
        **{_ROLES[role]: parts.special_tokens[name] for role, name in ids.items()},
        **_further_ends(tokenizer, parts.special_tokens[ids["eos_token"]]),
        "add_bos_token": parts.first is not None,
        "add_space_prefix": False,
    }
    template = {} if roles.chat_template is None else {TEMPLATE: roles.chat_template}
    return {**{PREFIX + name: value for name, value in fields.items()}, **template}


def _further_ends(tokenizer: BPETokenizer, eos: int) -> dict[str, int]:
    """Return the fields of end tokens besides the `eos_token`; llama.cpp knows some by their names."""
    named = {i for name, i in tokenizer.special_tokens.items() if name in _NAMED_ENDS}
    unnamed = sorted(tokenizer.end_ids - named - {eos})
    others = [*unnamed, *sorted(tokenizer.roles.end_ids & tokenizer.end_ids & named - {eos})]
    if len(unnamed) > len(_ENDS):
        raise ValueError(
            f"[to_metadata] GGUF has fields for {1 + len(_ENDS)} tokens that end a text, got {1 + len(unnamed)}"
        )
    return dict(zip(_ENDS, others, strict=False))


def _rows(parts: Parts, rows: int) -> tuple[list[str], list[int]]:
    """Return a token and its type for each row of the model."""
    used = parts.size
    if rows < used:
        raise ValueError(f"[to_metadata] 'rows' must be at least {used}, got {rows}")
    tokens, types = [f"[PAD{i}]" for i in range(rows)], [UNUSED] * rows
    for token, i in parts.vocab.items():
        tokens[i], types[i] = to_letters(token), NORMAL
    for name, i in parts.special_tokens.items():
        tokens[i], types[i] = name, USER_DEFINED if name in parts.plain else CONTROL
    if len(set(tokens)) < rows:
        raise ValueError("[to_metadata] a token must not have the name of an unused row, [PAD...]")
    return tokens, types


def _check_expressible(parts: Parts, pre: str) -> None:
    """Raise ValueError if a reader that knows only the name of the pattern would encode to other ids."""
    if not parts.merges:
        raise ValueError("[to_metadata] a tokenizer without merges cannot be written: GGUF has no empty lists")
    if parts.late:
        raise ValueError(
            "[to_metadata] special tokens that are searched for in two rounds cannot be written: GGUF has one round"
        )
    if parts.ignore_merges == (pre == _LLAMA):
        return
    # The rule makes no difference to a word whose merges lead to that token anyway.
    encoder = bpe_encode.Encoder(parts.pattern, parts.byte_ids(), parts.merge_ids())
    cache = bpe_encode.Cache()
    for token, i in parts.vocab.items():
        if len(token) == 1 or len(bpe_encode.word_ends(token, parts.pattern)) > 1:
            continue
        ids = np.empty(len(token), np.int32)
        if encoder.encode(token, ids, cache) != 1 or ids[0] != i:
            rule = "that is a token as that token" if pre == _LLAMA else "by its merges"
            raise ValueError(
                f"[to_metadata] the tokenizer cannot be written: '{pre}' encodes a word {rule}, which changes the ids "
                f"of {shown(to_letters(token))}"
            )


def _list(own: Fields, name: str) -> list[Any]:
    found = own.content.get(name)
    if not isinstance(found, list):
        raise own.wrong(name, "a list")
    return found


def _tokens(own: Fields) -> list[_Token]:
    """Read the tokens by id, without the unused ones at the end."""
    texts, kinds = _list(own, "tokens"), _list(own, "token_type")
    if len(texts) != len(kinds):
        raise ValueError(f"'{PREFIX}token_type' must have an entry for each of {len(texts)} tokens, got {len(kinds)}")
    seen: dict[str, int] = {}
    for i, (text, kind) in enumerate(zip(texts, kinds, strict=True)):
        if not isinstance(text, str) or not text:
            raise ValueError(f"'{PREFIX}tokens' entry {i} must be a string that is not empty, got {shown(text)}")
        if type(kind) is not int or not NORMAL <= kind <= BYTE:
            raise ValueError(f"'{PREFIX}token_type' entry {i} must be {NORMAL} ... {BYTE}, got {shown(kind)}")
        if text in seen:
            raise ValueError(f"'{PREFIX}tokens' has {shown(text)} twice, as {seen[text]} and {i}")
        seen[text] = i
    used = next((n for n in range(len(kinds), 0, -1) if kinds[n - 1] != UNUSED), 0)
    return [_Token(text, i, kind) for i, (text, kind) in enumerate(zip(texts[:used], kinds[:used], strict=True))]


def _named(own: Fields, name: str, tokens: list[_Token], special: Mapping[str, int]) -> str | None:
    """Return the special token whose id is in a field; None without the field."""
    found = own.content.get(name)
    if found is None:
        return None
    if type(found) is not int or not 0 <= found < len(tokens):
        raise ValueError(f"'{PREFIX}{name}' must be an id in 0 ... {len(tokens) - 1}, got {shown(found)}")
    text = tokens[found].text
    if text not in special:
        raise ValueError(f"'{PREFIX}{name}' must be the id of a control token, got {found}, {shown(text)}")
    return text
