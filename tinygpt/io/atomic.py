"""Writes that are either there or not: temporary, fsync, rename.

A reader, or a run that goes on after a kill or a power cut, sees the old content or the new one, never a part of it.
The order makes it so: the bytes reach the disk before the name does, and the name lives in the folder, so the folder is
synced last.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

StrPath = str | os.PathLike[str]


def write_bytes(path: StrPath, data: bytes) -> None:
    """Write a file in one step.

    Parameters
    ----------
    path : path
        Where to; its folder must exist. A file that is there is replaced, a symbolic link is followed.
    data : bytes
        The whole content.

    Raises
    ------
    ValueError
        `path` is there and is not a regular file.
    OSError
        The folder is missing or cannot be written, or the disk is full. `path` is then as it was, and no temporary
        file is left.
    """
    # "x" refuses a name that exists; the permissions are those of any new file under the user's umask.
    with replacing(path) as temporary, open(temporary, "xb") as file:
        file.write(data)


@contextmanager
def replacing(path: StrPath) -> Iterator[Path]:
    """A name to write a file under, which gets its own name in one step once it is finished.

    Parameters
    ----------
    path : path
        As `write_bytes`.

    Yields
    ------
    Path
        A name in the same folder that is free.

    Raises
    ------
    ValueError, OSError
        As `write_bytes`. Whatever is raised inside, `path` is as it was, and the temporary file is gone.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise ValueError(f"{path}: cannot be written, it is there and is not a regular file")
    # The same folder: a rename is atomic within one file system only.
    temporary = _beside(target, "tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(target.parent)


def write_text(path: StrPath, text: str) -> None:
    r"""Write a text file in one step, as UTF-8 and with ``\n`` as it stands.

    Parameters
    ----------
    path : path
    text : str

    Raises
    ------
    ValueError
        As `write_bytes`; also a lone surrogate in `text`, which UTF-8 has no bytes for.
    OSError
        As `write_bytes`.
    """
    write_bytes(path, text.encode("utf-8"))


def replace_directory(temporary: StrPath, final: StrPath) -> None:
    """Give a finished temporary directory its name.

    Every file and folder below is synced, then one rename makes all of it visible at once. Only when `final` is
    already there does it take a second rename, which first moves the old one aside: a kill between the two leaves both
    trees whole, the old one under a hidden name beside `final`, and nothing under `final`.

    Parameters
    ----------
    temporary : path
        A directory on the same file system, in the same folder for choice. It is gone afterwards.
    final : path
        The name that it gets. A directory of that name is removed once the new one is in place.

    Raises
    ------
    ValueError
        `temporary` is not a directory, or `final` is there and is not one.
    OSError
        A sync or a rename failed; an old `final` is put back.
    """
    source, target = Path(temporary), Path(final)
    if not source.is_dir():
        raise ValueError(f"{temporary}: must be a directory")
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise ValueError(f"{final}: cannot be replaced, it is there and is not a directory")
    _sync_tree(source)
    old = _beside(target, "old") if target.exists() else None
    if old is not None:
        os.rename(target, old)
    try:
        os.rename(source, target)
    except OSError:
        if old is not None:
            os.rename(old, target)
        raise
    sync_folder(target.parent)
    if old is not None:
        shutil.rmtree(old)


@contextmanager
def temporary_directory(target: StrPath) -> Iterator[Path]:
    """Make a hidden directory beside `target`, to be filled and then moved into place by `replace_directory`.

    Parameters
    ----------
    target : path
        Its folder must exist.

    Yields
    ------
    Path
        The new directory. It is removed at the end unless it was moved.
    """
    made = _beside(Path(target), "tmp")
    made.mkdir()  # not tempfile.mkdtemp, which would deny the group and others the permissions of the user's umask
    try:
        yield made
    finally:
        if made.exists():
            shutil.rmtree(made)


def remove_directory(path: StrPath) -> None:
    """Remove a directory so that a kill in the middle leaves no part of it under its name."""
    hidden = _beside(Path(path), "tmp")
    os.rename(path, hidden)
    shutil.rmtree(hidden)


def remove_leftovers(folder: StrPath, names: str) -> None:
    """Remove the hidden directories that killed writers left in a folder.

    Parameters
    ----------
    folder : path
        No other process may be writing there, because its temporary directories would be removed too.
    names : str
        Regular expression of the names that the directories were to get.

    Raises
    ------
    OSError
        A directory cannot be removed.
    """
    hidden = re.compile(rf"\.(?P<name>{names})\.[0-9a-f]{{8}}\.(?P<kind>tmp|old)")
    for path in list(Path(folder).iterdir()):
        left = hidden.fullmatch(path.name)
        if left is None or not path.is_dir():
            continue
        # `replace_directory` was killed between its two renames if the old tree has no successor: it is all there is.
        if left["kind"] == "tmp" or path.with_name(left["name"]).exists():
            shutil.rmtree(path)


def sync_folder(folder: StrPath) -> None:
    """Sync the names in a folder, so that a rename in it outlives a power cut; the files themselves are not synced.

    Windows opens no folders and keeps its names in a journal instead: nothing is done there.

    Parameters
    ----------
    folder : path

    Raises
    ------
    OSError
        The folder is missing or cannot be synced.
    """
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _beside(path: Path, ending: str) -> Path:
    """A hidden name in the folder of `path` that nobody else uses."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{ending}")


def _sync_tree(folder: Path) -> None:
    """Sync everything below `folder`, contents before the folder that names them; links are not followed."""

    def fail(error: OSError) -> None:
        raise error

    for where, _, names in os.walk(folder, topdown=False, onerror=fail):
        for name in names:
            path = Path(where, name)
            if path.is_file() and not path.is_symlink():
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
        sync_folder(Path(where))
