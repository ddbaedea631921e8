"""Strict JSON and TOML parsing for untrusted files."""

from __future__ import annotations

import json
import math
import os
import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Object = dict[str, Any]
StrPath = str | os.PathLike[str]

# A config.json or state.json has a few kilobytes, with the labels of a classifier a few hundred.
MAX_BYTES = 16 * 2**20
# Settings of a run take about a kilobyte.
MAX_TOML_BYTES = 2**20
# Files of models and runs nest at most ten levels. Parsers take thousands, but code that walks the result by recursion,
# such as the writer of a page, does not.
MAX_DEPTH = 100
_QUOTED = re.compile(r"""["'][^"'\n]*["']""")
# The largest count that any layer of the package can hold in a C int.
MAX_COUNT = 2**31 - 1


@contextmanager
def naming(file: StrPath) -> Iterator[None]:
    """Put the name of a file before the message of every ValueError raised in the block."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def require_file(file: Path) -> None:
    """Raise an error unless a path is a regular file; reading a pipe or a device might block or never end.

    Parameters
    ----------
    file : Path
        Path to check.

    Raises
    ------
    FileNotFoundError
        The path does not exist.
    ValueError
        The path is not a regular file.
    """
    if not file.exists():
        raise FileNotFoundError(f"{file}: no such file")
    if not file.is_file():
        raise ValueError(f"{file}: must be a regular file")


def read_bytes(file: Path, max_bytes: int) -> bytes:
    """Read a file that must not be long.

    Parameters
    ----------
    file : Path
    max_bytes : int

    Returns
    -------
    bytes

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        Not a regular file, or longer than `max_bytes`; the message begins with the file's name.
    """
    require_file(file)
    size = file.stat().st_size
    with open(file, "rb") as stream:
        # A read of N bytes allocates N, so ask for no more than there are. Files of the kernel have size 0.
        data = stream.read(min(size, max_bytes) + 1) if size else stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"{file}: must be at most {max_bytes} bytes long, got {max(size, len(data))}")
    return data


def decoded(data: bytes) -> str:
    """Decode UTF-8, or raise ValueError with the place of the first wrong byte."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"must be UTF-8, got byte 0x{data[error.start]:02X} at {error.start}") from None


def read_object(file: Path, max_bytes: int = MAX_BYTES) -> Object:
    """Read a file that holds one JSON object.

    Parameters
    ----------
    file : Path
        File to read.
    max_bytes : int
        Longest file that is accepted.

    Returns
    -------
    dict

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ValueError
        The path is not a regular file, the file is longer than `max_bytes`, or `parse_object` refuses its content. The
        message begins with the file's name.
    """
    data = read_bytes(file, max_bytes)
    with naming(file):
        return parse_object(data)


def parse_object(data: bytes) -> Object:
    """Parse one JSON object.

    Parameters
    ----------
    data : bytes
        UTF-8 text.

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        The data is not UTF-8, not JSON (which has no NaN and no Infinity), nested too deeply or not an object, or an
        object has a key twice.
    """
    try:
        content = json.loads(decoded(data), object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"must be JSON: {error}") from None
    except RecursionError:
        raise _too_deep("JSON") from None
    if not isinstance(content, dict):
        raise ValueError(f"must hold an object, got {shown(content)}")
    _check_depth(content, "JSON")
    return content


def read_toml(file: Path, max_bytes: int = MAX_TOML_BYTES) -> Object:
    """Read a TOML file.

    Parameters
    ----------
    file : Path
        File to read.
    max_bytes : int
        Longest file that is accepted.

    Returns
    -------
    dict

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ValueError
        The path is not a regular file, or the file is longer than `max_bytes`, not TOML, or nested too deeply. The
        message begins with the file's name.
    """
    data = read_bytes(file, max_bytes)
    with naming(file):
        try:
            text = data.decode("utf-8")
            # tomllib takes quadratic time for a dotted key: minutes for one of a megabyte.
            if any(line.count(".") >= MAX_DEPTH for line in _QUOTED.sub('""', text).splitlines()):
                raise _too_deep("TOML")
            content = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"not a TOML file: {one_line(str(error))}") from None
        except RecursionError:
            raise _too_deep("TOML") from None
        _check_depth(content, "TOML")
        return content


def _check_depth(content: Object, language: str) -> None:
    """Refuse values nested so deeply that a later walk by recursion would fail."""
    level: list[Any] = [content]
    for _ in range(MAX_DEPTH):
        inside = (one for held in level for one in (held.values() if isinstance(held, dict) else held))
        level = [one for one in inside if isinstance(one, (dict, list))]
        if not level:
            return
    raise _too_deep(language)


def _too_deep(language: str) -> ValueError:
    """Make the error for a file that is nested too deeply."""
    return ValueError(f"must be {language} of at most {MAX_DEPTH} levels")


def _unique(pairs: list[tuple[str, Any]]) -> Object:
    """Make an object of its pairs; of two equal keys, json would keep the last without a word."""
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"an object has the key {shown(key)} twice")
            seen.add(key)
    return made


def _no_constant(name: str) -> Any:
    """Refuse NaN, Infinity and -Infinity."""
    raise ValueError(f"must be JSON, which has no {name}")


def shown(value: Any) -> str:
    """Format an untrusted value for an error message: ASCII, one line, at most 120 characters."""
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**60:
        return "a number of more than 60 digits"
    text = json.dumps(value)
    if isinstance(value, str):  # in single quotes, as everywhere else in a message
        text = "'" + text[1:-1].replace('\\"', '"') + "'"
    return text if len(text) <= 120 else text[:116] + "..." + text[-1]


def one_line(text: str) -> str:
    """Format the message of another library: ASCII, one line and at most 118 characters."""
    return shown(text)[1:-1]


def is_count(value: Any) -> bool:
    """Tell whether a JSON value is an integer from 0; True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


class Fields:
    """The fields of a JSON object, read by name and type.

    Every method takes the name of a field. It raises ValueError if the field has the wrong type, or if it is missing
    and there is no default.

    Parameters
    ----------
    content : dict
        The object.
    prefix : str
        Path of the object in its file, put before a field's name in messages.
    """

    def __init__(self, content: Object, prefix: str = ""):
        self.content, self.prefix = content, prefix

    def has(self, name: str) -> bool:
        """Tell whether a field is present and not null."""
        return self.content.get(name) is not None

    def count(self, name: str, default: int | None = None) -> int:
        """Return a positive integer."""
        value = self._get(name, default)
        if not (is_count(value) and 1 <= value <= MAX_COUNT):
            raise self.wrong(name, f"an integer from 1 to {MAX_COUNT}")
        return int(value)

    def optional_count(self, name: str) -> int | None:
        """Return a positive integer, or None if the field is null or missing."""
        return self.count(name) if self.has(name) else None

    def number(self, name: str, default: float | None = None) -> float:
        """Return a finite number."""
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(name, "a number")
        # A larger integer does not fit a double; json reads 1e999 as infinity.
        if abs(value) > 1e300 or not math.isfinite(value):
            raise self.wrong(name, "a finite number")
        return float(value)

    def flag(self, name: str, default: bool | None = None) -> bool:
        """Return true or false."""
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """Return a string."""
        value = self._get(name, default)
        if not isinstance(value, str):
            raise self.wrong(name, "a string")
        return value

    def object(self, name: str) -> Fields:
        """Return the fields of an object; no fields if it is null or missing."""
        value = self.content.get(name)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise self.wrong(name, "an object")
        return Fields(value, f"{self.prefix}{name}.")

    def only(self, names: set[str]) -> None:
        """Refuse any other field, because ignoring one that changes the result would give a wrong result."""
        for name in self.content:
            if name not in names:
                raise ValueError(f"{shown(self.prefix + name)} is not known here")

    def wrong(self, name: str, must_be: str) -> ValueError:
        """Make the error for a field with a wrong value."""
        return ValueError(f"'{self.prefix}{name}' must be {must_be}, got {shown(self.content.get(name))}")

    def _get(self, name: str, default: Any) -> Any:
        if name not in self.content or (default is not None and self.content[name] is None):
            if default is None:
                raise ValueError(f"'{self.prefix}{name}' is missing")
            return default
        return self.content[name]
