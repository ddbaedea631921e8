"""Text to token ids and back.

`CharTokenizer` has a token for each common character and UTF-8 bytes for all others. `BPETokenizer` learns tokens of
several characters. Both are saved as a ``tokenizer.json`` that Hugging Face ``tokenizers`` reads too; `load` tells them
apart by its content.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinygpt.tokenizers.base import Decoder, Tokenizer
    from tinygpt.tokenizers.bpe import BPETokenizer
    from tinygpt.tokenizers.char import CharTokenizer

# Public name -> its module, which is loaded on first use.
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
        A ``tokenizer.json``; or a model directory that has one, or GPT-2's ``vocab.json`` and ``merges.txt``. The
        other files of the directory that name special tokens are read too.

    Returns
    -------
    Tokenizer
        A `CharTokenizer` or a `BPETokenizer`.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is not a tokenizer that is supported; the message names the file and the fault.
    """
    from tinygpt.tokenizers import config_file, gpt2_file, json_file

    folder = Path(path)
    if folder.is_dir() and not (folder / json_file.NAME).exists() and gpt2_file.in_folder(folder):
        from tinygpt.tokenizers.bpe import BPETokenizer

        return BPETokenizer.from_parts(gpt2_file.read_folder(folder))
    file, content = json_file.read(path)
    byte_level = content.get("pre_tokenizer") is not None
    # Special tokens of a character tokenizer have no roles, because Hugging Face would cut them out of a text.
    beside = config_file.read(file.parent) if byte_level and file.name == json_file.NAME else config_file.Beside()
    with json_file.naming(file):
        model = json_file.section(content, "model")
        # Older files of byte-level BPE have no type.
        kind = model.get("type", "BPE" if byte_level else None)
        if kind != "BPE":
            raise ValueError(f"'model.type' must be 'BPE', got {json_file.shown(kind)}")
        if byte_level:
            from tinygpt.tokenizers.bpe import BPETokenizer

            return BPETokenizer.from_json(content, beside)
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
