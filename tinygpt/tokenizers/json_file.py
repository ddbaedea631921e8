"""Read a ``tokenizer.json`` without trusting it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAME = "tokenizer.json"
# A vocabulary of all 1,112,064 characters takes about 25 bytes for each, less than half of this.
MAX_BYTES = 64 * 2**20

Object = dict[str, Any]


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Put the file's name before whatever a check inside finds wrong."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def read(path: str | os.PathLike[str]) -> tuple[Path, Object]:
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
    if not file.exists():
        raise FileNotFoundError(f"{file}: no such file")
    with naming(file):
        if not file.is_file():
            raise ValueError("must be a regular file")
        with open(file, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"must be at most {MAX_BYTES} bytes long, got {file.stat().st_size}")
        return file, _parse(data)


def _parse(data: bytes) -> Object:
    try:
        content = json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise ValueError(f"must be UTF-8, got byte 0x{data[error.start]:02X} at {error.start}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"must be JSON: {error}") from None
    except RecursionError:
        raise ValueError("must be JSON of a reasonable depth") from None
    if not isinstance(content, dict):
        raise ValueError(f"must hold an object, got {shown(content)}")
    return content


def _unique(pairs: list[tuple[str, Any]]) -> Object:
    """An object of JSON; json itself keeps the last of two equal keys and says nothing."""
    made: Object = {}
    for key, value in pairs:
        if key in made:
            raise ValueError(f"key {shown(key)} stands twice in one object")
        made[key] = value
    return made


def section(content: Object, name: str) -> Object:
    """The object under a key, which must be there."""
    if name not in content:
        raise ValueError(f"'{name}' is missing")
    found = content[name]
    if not isinstance(found, dict):
        raise ValueError(f"'{name}' must be an object, got {shown(found)}")
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


def shown(value: Any) -> str:
    """A value for an error message: in ASCII and cut short, since a file may hold anything."""
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
