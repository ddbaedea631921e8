"""Read a ``tokenizer.json`` without trusting it."""

from __future__ import annotations

from pathlib import Path

from tinygpt.io.strict import Object, StrPath, naming, read_object, shown

# The readers of the content take the tools of `strict` from here.
__all__ = ["MAX_BYTES", "NAME", "Object", "check_version", "naming", "read", "section", "shown"]

NAME = "tokenizer.json"
# A vocabulary of all 1,112,064 characters takes about 25 bytes for each: less than half of this.
MAX_BYTES = 64 * 2**20


def read(path: StrPath) -> tuple[Path, Object]:
    """Read the JSON object in a ``tokenizer.json``.

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
    """Return the object under a key, which must be there."""
    if name not in content:
        raise ValueError(f"'{prefix}{name}' is missing")
    found = content[name]
    if not isinstance(found, dict):
        raise ValueError(f"'{prefix}{name}' must be an object, got {shown(found)}")
    return found


def check_version(content: Object) -> None:
    """Refuse a file of another version than 1.0."""
    if content.get("version") != "1.0":
        raise ValueError(f"'version' must be \"1.0\", got {shown(content.get('version'))}")
