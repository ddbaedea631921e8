"""Checks that a path can be written, made before any work is done."""

from __future__ import annotations

import os
from pathlib import Path


def check_file(path: Path, name: str) -> None:
    """Raise ValueError unless a file can be written at a path; missing folders are created later.

    Parameters
    ----------
    path : Path
        A file that exists will be replaced.
    name : str
        Name of the argument or flag, the first words of the message.
    """
    if path.is_dir():
        raise ValueError(f"{name} {path}: is a directory, name a file")
    folder = existing(path.absolute().parent)
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise ValueError(f"{name} {path}: cannot write in {folder}")


def check_directory(path: Path, name: str) -> None:
    """Raise ValueError unless files can be written in a directory; missing folders are created later.

    Parameters
    ----------
    path : Path
        Directory to write in.
    name : str
        Name of the argument or flag, the first words of the message.
    """
    folder = existing(path)
    if not folder.is_dir():
        raise ValueError(f"{name} {path}: {folder} is a file; choose a directory")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"{name} {path}: no permission to write in {folder}")


def existing(path: Path) -> Path:
    """Return the path, or the nearest of its parents, that exists."""
    while not path.exists():
        path = path.parent
    return path
