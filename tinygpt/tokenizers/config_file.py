"""``tokenizer_config.json``: what Hugging Face keeps beside a ``tokenizer.json``, as far as it matters here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinygpt.io.strict import Object, naming, read_object, require_file, shown
from tinygpt.tokenizers.special import Roles

NAME = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
MAX_TEMPLATE = 2**20
_TOKENS = ("eos_token", "bos_token", "pad_token")


def read(folder: Path) -> Roles:
    """What a directory's files say about special tokens.

    Parameters
    ----------
    folder : Path
        Without a ``tokenizer_config.json`` nothing is said. A template may have a file of its own,
        ``chat_template.jinja``, which then counts.

    Returns
    -------
    Roles
        Its names have not been held against the tokenizer.

    Raises
    ------
    ValueError
        A field is of another type, or would change what a text is encoded to; the message names file and field.
    """
    file = folder / NAME
    content = read_object(file) if file.exists() else {}
    with naming(file):
        if content.get("add_prefix_space") not in (None, False):
            raise ValueError(f"'add_prefix_space' must be false, got {shown(content['add_prefix_space'])}")
        tokens = {field: _token(content, field) for field in _TOKENS}
        template = _template(content.get("chat_template"))
    return Roles(**tokens, chat_template=_template_file(folder / TEMPLATE) or template)


def fields(roles: Roles) -> Object:
    """What goes into a ``tokenizer_config.json``."""
    template = {} if roles.chat_template is None else {"chat_template": roles.chat_template}
    return {**roles.names(), **template}


def _token(content: Object, field: str) -> str | None:
    """The name of a token, which is text or an object with the text as its content."""
    found = content.get(field)
    name = found.get("content") if isinstance(found, dict) else found
    if found is not None and not isinstance(name, str):
        raise ValueError(f"'{field}' must be a string or an object with 'content', got {shown(found)}")
    return name


def _template(found: Any) -> str | None:
    """One template, or that of several which is named "default"."""
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
    require_file(file)
    with naming(file):
        with open(file, "rb") as stream:
            data = stream.read(MAX_TEMPLATE + 1)
        if len(data) > MAX_TEMPLATE:
            raise ValueError(f"must be at most {MAX_TEMPLATE} bytes long, got {file.stat().st_size}")
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"must be UTF-8, got byte 0x{data[error.start]:02X} at {error.start}") from None
