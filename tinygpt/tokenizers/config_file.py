"""The files beside a ``tokenizer.json``: roles of special tokens, more tokens, a chat template, end tokens.

tokenizer_config.json       roles, added_tokens_decoder, chat_template, ...
special_tokens_map.json     roles, read where tokenizer_config.json has no added_tokens_decoder
added_tokens.json           token to id, likewise
chat_template.jinja         the template, if it has a file of its own
config.json, generation_config.json      eos_token_id: the tokens that end generation, one or several
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinygpt.io.strict import Fields, Object, decoded, naming, read_bytes, read_object, shown
from tinygpt.io.table import Table
from tinygpt.tokenizers import added
from tinygpt.tokenizers.added import AddedToken
from tinygpt.tokenizers.special import ROLES, Roles

NAME = "tokenizer_config.json"
SPECIAL_MAP = "special_tokens_map.json"
ADDED = "added_tokens.json"
TEMPLATE = "chat_template.jinja"
MAX_TEMPLATE = 2**20
# Roles without which a text is encoded, generated and ended all the same.
_OPTIONAL = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_LISTS = ("additional_special_tokens", "extra_special_tokens")
TABLE = Table(
    known=[
        *ROLES, *_LISTS, "added_tokens_decoder", "chat_template", "add_bos_token", "add_eos_token", "tokenizer_class",
    ],
    without_effect=[
        # how texts are cut and padded to a batch
        "max_length", "model_max_length", "pad_to_multiple_of", "pad_token_type_id", "padding", "padding_side",
        "stride", "truncation", "truncation_side", "truncation_strategy",
        # how decoded text is tidied up; here it stays as it is
        "clean_up_tokenization_spaces", "errors", "spaces_between_special_tokens",
        # where the files came from, and which program reads them
        "_commit_hash", "auto_map", "backend", "device_map", "is_local", "local_files_only", "name_or_path",
        "processor_class", "special_tokens_map_file", "tokenizer_file", "trust_remote_code", "use_fast",
        "vocab_file", "merges_file", "added_tokens_file", "is_fast", "init_inputs",
        # inputs of a model besides ids, and settings of other kinds of tokenizers
        "legacy", "model_input_names", "return_token_type_ids", "sp_model_kwargs", "use_default_system_prompt",
        "response_schema", "verbose",
        # facts that the vocabulary states itself, and names of former versions
        "bos_token_id", "eos_token_id", "max_len", "pad_token_id", "unk_token_id", "vocab_size",
    ],
    refused={
        "add_prefix_space": (False,),
        "do_lower_case": (False,),
        "split_special_tokens": (False,),
        "strip_accents": (False,),
        "tokenize_chinese_chars": (False,),
    },
)  # fmt: skip
MAP_TABLE = Table(known=[*ROLES, *_LISTS])


@dataclass(frozen=True)
class Beside:
    """The content of the files beside a tokenizer.json.

    Parameters
    ----------
    roles : Roles
        Its names have not been checked against the tokenizer.
    tokens : tuple of AddedToken
        Every token that the files name, in the order in which `transformers` adds them.
    begins, ends : bool
        ``add_bos_token`` and ``add_eos_token``: whether a text begins with the `bos_token` and ends with the
        `eos_token`. Beside a tokenizer.json they have no effect, because its post-processor says so itself.
    kind : str or None
        ``tokenizer_class``.
    """

    roles: Roles = field(default_factory=Roles)
    tokens: tuple[AddedToken, ...] = ()
    begins: bool = False
    ends: bool = False
    kind: str | None = None


def read(folder: Path) -> Beside:
    """Read the files beside a tokenizer.json.

    Parameters
    ----------
    folder : Path
        Each of the files may be missing.

    Returns
    -------
    Beside

    Raises
    ------
    ValueError
        A field is mistyped, unknown, or would change the ids of a text; the message names file and field.
    """
    file = folder / NAME
    content = read_object(file) if file.exists() else {}
    fields = Fields(content)
    with naming(file):
        TABLE.check(fields)
        listed = _decoder(content.get("added_tokens_decoder"))
        template = _template(content.get("chat_template"))
        begins, ends = fields.flag("add_bos_token", False), fields.flag("add_eos_token", False)
        kind = fields.text("tokenizer_class") if fields.has("tokenizer_class") else None
        names, tokens = _named(content, NAME)
    if content.get("added_tokens_decoder") is None:
        more, others = _special_map(folder / SPECIAL_MAP)
        names = {**names, **more}
        tokens += others
        listed = _added_file(folder / ADDED, {token.name for token in tokens})
    template = _template_file(folder / TEMPLATE) or template
    additional = tuple(token.name for token in tokens if token.where.endswith(_LISTS))
    end_ids = frozenset([*_end_ids(folder / "config.json"), *_end_ids(folder / "generation_config.json")])
    roles = Roles(chat_template=template, additional=additional, end_ids=end_ids).with_names(names)
    return Beside(roles, (*listed, *tokens), begins, ends, kind)


def fields(roles: Roles) -> Object:
    """Return the fields of a ``tokenizer_config.json``."""
    template = {} if roles.chat_template is None else {"chat_template": roles.chat_template}
    more = {"additional_special_tokens": list(roles.additional)} if roles.additional else {}
    return {**roles.names(), **more, **template}


def _named(content: Object, file: str) -> tuple[dict[str, str], list[AddedToken]]:
    """Read the roles of a file, and the tokens that it names: roles first, then the lists."""
    names = {role: name for role in ROLES if (name := _token(content.get(role), role)) is not None}
    tokens = [AddedToken(n, where=f"'{role}' of {file}", optional=role in _OPTIONAL) for role, n in names.items()]
    for name in _LISTS:
        found = content.get(name)
        if isinstance(found, dict):  # name of a role -> token
            found = list(found.values())
        if found is not None and not isinstance(found, list):
            raise ValueError(f"'{name}' must be a list, got {shown(found)}")
        for row, one in enumerate(found or []):
            token = _token(one, f"{name}[{row}]")
            if token is None:
                raise ValueError(f"'{name}[{row}]' must be a string, got null")
            tokens.append(AddedToken(token, where=f"{file}: {name}"))
    return names, tokens


def _token(found: Any, field: str) -> str | None:
    """Read the name of a token, which is text or an object with the text as its content."""
    name = found.get("content") if isinstance(found, dict) else found
    if found is not None and not isinstance(name, str):
        raise ValueError(f"'{field}' must be a string or an object with 'content', got {shown(found)}")
    if isinstance(found, dict):
        added.read(found, field, field)
    return name


def _decoder(found: Any) -> list[AddedToken]:
    """Read ``added_tokens_decoder``: id, as text, to token."""
    if found is None:
        return []
    if not isinstance(found, dict):
        raise ValueError(f"'added_tokens_decoder' must be an object, got {shown(found)}")
    tokens: dict[int, AddedToken] = {}
    for key, one in found.items():
        if not (key.isascii() and key.isdecimal() and len(key) < 10):
            raise ValueError(f"'added_tokens_decoder' must have ids as keys, got {shown(key)}")
        token = added.read(one, f"added_tokens_decoder.{key}", f"'added_tokens_decoder' of {NAME}")
        tokens[int(key)] = AddedToken(token.name, int(key), token.special, token.late, token.where)
    return [tokens[i] for i in sorted(tokens)]


def _special_map(file: Path) -> tuple[dict[str, str], list[AddedToken]]:
    if not file.exists():
        return {}, []
    content = read_object(file)
    with naming(file):
        MAP_TABLE.check(Fields(content))
        return _named(content, SPECIAL_MAP)


def _added_file(file: Path, special: set[str]) -> list[AddedToken]:
    """Read ``added_tokens.json``; a token in it is special if another file says so."""
    if not file.exists():
        return []
    content = read_object(file)
    with naming(file):
        for name, i in content.items():
            if type(i) is not int or i < 0:
                raise ValueError(f"{shown(name)} must have an id, got {shown(i)}")
    named = sorted(content.items(), key=lambda one: one[1])
    return [AddedToken(name, i, name in special, name not in special, ADDED) for name, i in named]


def _end_ids(file: Path) -> list[int]:
    """Read the ids in ``eos_token_id`` of a config: one, several or none."""
    if not file.exists():
        return []
    found = read_object(file).get("eos_token_id")
    ids = found if isinstance(found, list) else [] if found is None else [found]
    for i in ids:
        if type(i) is not int:
            raise ValueError(f"{file}: 'eos_token_id' must be an id or a list of ids, got {shown(found)}")
    return ids


def _template(found: Any) -> str | None:
    """Read one template, or the one named "default" of several."""
    if isinstance(found, list):
        named = [one for one in found if isinstance(one, dict) and one.get("name") == "default"]
        if len(named) != 1:
            raise ValueError(
                f"'chat_template' must have one template named 'default', got {len(named)} of {len(found)}"
            )
        found = named[0].get("template")
    if found is not None and not isinstance(found, str):
        raise ValueError(f"'chat_template' must be a string, got {shown(found)}")
    return found


def _template_file(file: Path) -> str | None:
    if not file.exists():
        return None
    data = read_bytes(file, MAX_TEMPLATE)
    with naming(file):
        return decoded(data)
