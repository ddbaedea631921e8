"""Checksums of the files in a directory, so that a bit that a disk has flipped is noticed.

checksums.json      {"sha256": {"model.safetensors": "9f86...", ...}}
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from tinygpt.io.atomic import write_text
from tinygpt.io.strict import naming, read_object

NAME = "checksums.json"


def write(folder: Path) -> None:
    """Write the checksums of all files in a directory and below it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != NAME)
    sums = {path.relative_to(folder).as_posix(): _digest(path) for path in files}
    write_text(folder / NAME, json.dumps({"sha256": sums}, indent=2) + "\n")


def check(folder: Path) -> None:
    """Raise ValueError if a file does not match its checksum.

    Parameters
    ----------
    folder : Path
        Directory; one without checksums passes.

    Raises
    ------
    FileNotFoundError
        A file is missing.
    ValueError
        A file or the list of checksums is damaged; the message names it.
    """
    if not (folder / NAME).exists():
        return
    for name, value in _read(folder).items():
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: no such file")
        if _digest(folder / name) != value:
            raise ValueError(f"{folder / name}: is damaged: its content does not match its checksum")


def _read(folder: Path) -> dict[str, str]:
    """Read the checksums of a directory."""
    sums = read_object(folder / NAME).get("sha256")
    with naming(folder / NAME):
        if not isinstance(sums, dict):
            raise ValueError("'sha256' must be an object")
        for name, value in sums.items():
            plain = all(part not in ("", ".", "..") for part in name.split("/")) and "\\" not in name
            if not (plain and isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value)):
                raise ValueError("'sha256' must map names of files to checksums")
    return sums


def _digest(path: Path) -> str:
    """Compute the checksum of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
