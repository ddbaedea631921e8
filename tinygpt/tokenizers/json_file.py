"""Read a ``tokenizer.json`` without trusting it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tinygpt.io.strict import Object, StrPath, naming, read_object, shown

# With what the readers of its content need.
__all__ = ["MAX_BYTES", "NAME", "Object", "check_fields", "naming", "read", "section", "shown"]

NAME = "tokenizer.json"
# A vocabulary of all 1,112,064 characters takes about 25 bytes for each, less than half of this.
MAX_BYTES = 64 * 2**20


def read(path: StrPath) -> tuple[Path, Object]:
    """The JSON object in a ``tokenizer.json``.

    Parameters
    ----------
    path : path
        The file, or a directory that holds one.

    Returns
    -------
    file : Path
        The file that was read.
    content : dict

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        Not a regular file, larger than 64 MB, not UTF-8, not JSON, a key twice in one object, or not an object.
    """
    file = Path(path)
    if file.is_dir():
        file = file / NAME
    return file, read_object(file, MAX_BYTES)


def section(content: Object, name: str, prefix: str = "") -> Object:
    """The object under a key, which must be there."""
    if name not in content:
        raise ValueError(f"'{prefix}{name}' is missing")
    found = content[name]
    if not isinstance(found, dict):
        raise ValueError(f"'{prefix}{name}' must be an object, got {shown(found)}")
    return found


def check_fields(found: Object, expected: Object, prefix: str = "") -> None:
    """Every field of `expected` must be there and equal, also in type; fields beyond it are refused.

    A field that changes what a text is encoded to (a normalizer, say) would otherwise be passed over in silence.
    """
    for name in found:
        if name not in expected:
            raise ValueError(f"'{prefix}{name}' is not known here")
    for name, value in expected.items():
        if name not in found:
            raise ValueError(f"'{prefix}{name}' is missing")
        if not _same(found[name], value):
            raise ValueError(f"'{prefix}{name}' must be {json.dumps(value)}, got {shown(found[name])}")


def _same(found: Any, expected: Any) -> bool:
    """Equal in value and in type, since 0, 0.0 and False are equal in Python; as deep as `expected` goes."""
    if type(found) is not type(expected):
        return False
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(_same(found[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(_same, found, expected))
    return bool(found == expected)
