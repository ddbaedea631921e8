"""Text to token ids and back.

`CharTokenizer` has a token for each common character and the bytes of UTF-8 for all others; `BPETokenizer` learns
tokens of several characters. A tokenizer is kept in a ``tokenizer.json`` that Hugging Face ``tokenizers`` reads too;
`load` finds out from its content which one it is.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinygpt.tokenizers.base import Decoder, Tokenizer
    from tinygpt.tokenizers.bpe import BPETokenizer
    from tinygpt.tokenizers.char import CharTokenizer

# Public name -> the module it comes from, loaded on first use.
_PARTS = {
    "BPETokenizer": "tinygpt.tokenizers.bpe",
    "CharTokenizer": "tinygpt.tokenizers.char",
    "Decoder": "tinygpt.tokenizers.base",
    "Tokenizer": "tinygpt.tokenizers.base",
}

__all__ = ["BPETokenizer", "CharTokenizer", "Decoder", "Tokenizer", "load"]


def load(path: str | os.PathLike[str]) -> Tokenizer:
    """Read a tokenizer.

    Parameters
    ----------
    path : path
        A ``tokenizer.json``, or a model directory that holds one. A ``tokenizer_config.json`` beside it is read too.

    Returns
    -------
    Tokenizer
        Of the kind that the file describes.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is not a tokenizer that can be read here; the message names the file and what is wrong with it.
    """
    from tinygpt.tokenizers import config_file, json_file
    from tinygpt.tokenizers.special import Roles

    file, content = json_file.read(path)
    byte_level = content.get("pre_tokenizer") is not None
    # Special tokens of a character tokenizer have no roles: Hugging Face would cut them out of a text.
    roles = config_file.read(file.parent) if byte_level and file.name == json_file.NAME else Roles()
    with json_file.naming(file):
        model = json_file.section(content, "model")
        # Older files of byte-level BPE do not name it.
        kind = model.get("type", "BPE" if byte_level else None)
        if kind != "BPE":
            raise ValueError(f"'model.type' must be 'BPE', got {json_file.shown(kind)}")
        if byte_level:
            from tinygpt.tokenizers.bpe import BPETokenizer

            return BPETokenizer.from_json(content, roles)
        if model.get("merges") != []:
            raise ValueError("'model.merges' must be an empty list where 'pre_tokenizer' is null")
        from tinygpt.tokenizers.char import CharTokenizer

        return CharTokenizer.from_json(content)


def __getattr__(name: str) -> Any:
    if name not in _PARTS:
        raise AttributeError(f"module 'tinygpt.tokenizers' has no attribute '{name}'")
    value = getattr(importlib.import_module(_PARTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PARTS})
