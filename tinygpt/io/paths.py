"""Checks that a path can be written, made before any work is done.

Up to two missing folders, as in runs/tiny, are created later, when the result is written. More are refused, because
then the path is more likely mistyped than meant.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def check_file(path: Path, name: str) -> None:
    """Raise ValueError unless a file can be written at a path.

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
    if not _writable(folder):
        raise ValueError(f"{name} {path}: cannot write in {folder}")
    _check_missing(path.parent, name, path)


def check_directory(path: Path, name: str) -> None:
    """Raise ValueError unless files can be written in a directory, which may be missing.

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
    if not _writable(folder):
        raise ValueError(f"{name} {path}: no permission to write in {folder}")
    _check_missing(path, name, path)


def existing(path: Path) -> Path:
    """Return the path, or the nearest of its parents, that exists."""
    while not path.exists():
        path = path.parent
    return path


def _check_missing(folder: Path, name: str, path: Path) -> None:
    """Raise ValueError if more than two folders are missing: `folder`, its parent and others above."""
    if not folder.absolute().parent.parent.exists():
        raise ValueError(f"{name} {path}: the directory {folder.parent.parent} does not exist")


def _writable(folder: Path) -> bool:
    """Try to create a file in a folder, because permissions alone do not tell; True if it works."""
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        return False
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
