"""Atomic writes: temporary file, fsync, rename.

After a kill or a power cut, a reader finds the old content or the new content, never a part of it. The order ensures
this: the bytes reach the disk before the name does. The name is stored in the folder, so the folder is synced last.
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
    """Write a file atomically.

    Parameters
    ----------
    path : path
        File to write, in an existing folder. An existing file is replaced; a symbolic link is followed.
    data : bytes
        The whole content.

    Raises
    ------
    ValueError
        `path` exists and is not a regular file.
    OSError
        The folder is missing or cannot be written, or the disk is full. `path` is then unchanged, and no temporary
        file is left.
    """
    # Mode "x" refuses an existing name, and gives the permissions of any new file under the user's umask.
    with replacing(path) as temporary, naming_file(path), open(temporary, "xb") as file:
        file.write(data)


@contextmanager
def replacing(path: StrPath) -> Iterator[Path]:
    """Replace a file atomically with one that is written inside the `with` block.

    Parameters
    ----------
    path : path
        File to write, in an existing folder. An existing file is replaced; a symbolic link is followed.

    Yields
    ------
    Path
        Temporary name in the same folder, to write the new file under.

    Raises
    ------
    ValueError
        `path` exists and is not a regular file.
    OSError
        The folder is missing or cannot be written, or the disk is full. After any error, also one raised in the block,
        `path` is unchanged and no temporary file is left.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise ValueError(f"{path}: cannot be written, because it exists and is not a regular file")
    # Use the same folder, because a rename is atomic only within one file system.
    temporary = _beside(target, "tmp")
    try:
        yield temporary
        sync_file(temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(target.parent)


@contextmanager
def naming_file(path: StrPath) -> Iterator[None]:
    """Context in which an error of the system that names no file, such as that of a write or a sync, gets its name.

    Parameters
    ----------
    path : path
        The file for the message.

    Raises
    ------
    OSError
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None


def sync_file(path: StrPath) -> None:
    """Write the content of a file to the disk, so that it survives a power cut."""
    with naming_file(path), open(path, "rb+") as file:
        os.fsync(file.fileno())


def write_text(path: StrPath, text: str) -> None:
    r"""Write a text file atomically, as UTF-8 and without translating ``\n``.

    Parameters
    ----------
    path : path
        File to write, in an existing folder. An existing file is replaced; a symbolic link is followed.
    text : str
        The whole content.

    Raises
    ------
    ValueError
        `path` exists and is not a regular file, or `text` has a lone surrogate, which UTF-8 cannot encode.
    OSError
        The folder is missing or cannot be written, or the disk is full. `path` is then unchanged.
    """
    write_bytes(path, text.encode("utf-8"))


def replace_directory(temporary: StrPath, final: StrPath) -> None:
    """Give a finished temporary directory its final name.

    Every file and folder below is synced, then one rename makes all of it visible at once. If `final` already exists,
    a rename before that one moves the old directory aside. A kill between the two leaves both trees whole: the old one
    under a hidden name beside `final`, and nothing under `final`, until `remove_leftovers` gives it its name back.

    Parameters
    ----------
    temporary : path
        A directory on the same file system, preferably in the same folder. It no longer exists afterwards.
    final : path
        The final name. An existing directory of that name is removed once the new one is in place.

    Raises
    ------
    ValueError
        `temporary` is not a directory, or `final` exists and is not one.
    OSError
        A sync or a rename failed; an old `final` is restored.
    """
    source, target = Path(temporary), Path(final)
    if not source.is_dir():
        raise ValueError(f"{temporary}: must be a directory")
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise ValueError(f"{final}: cannot be replaced, because it exists and is not a directory")
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


def make_directory(path: StrPath) -> None:
    """Create a directory and its parents, so that a power cut after files were synced into it does not lose its name.

    Parameters
    ----------
    path : path
        May exist already.

    Raises
    ------
    OSError
        A directory cannot be created, or its folder cannot be synced.
    """
    target = Path(path).absolute()
    missing = [folder for folder in (target, *target.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def remove_directory(path: StrPath) -> None:
    """Remove a directory so that a kill in the middle leaves no part of it under its name."""
    hidden = _beside(Path(path), "tmp")
    os.rename(path, hidden)
    shutil.rmtree(hidden)


def remove_leftovers(folder: StrPath, names: str) -> None:
    """Remove the hidden files and directories that killed writers left in a folder.

    A directory that `replace_directory` had moved aside gets its name back if nothing has taken its place.

    Parameters
    ----------
    folder : path
        No other process may be writing there, because its temporary files would be removed too.
    names : str
        Regular expression of the names that they were to get.

    Raises
    ------
    OSError
        A file or directory cannot be removed.
    """
    hidden = re.compile(leftover(names))
    for path in list(Path(folder).iterdir()):
        left = hidden.fullmatch(path.name)
        if left is None or path.is_symlink():
            continue
        if path.is_file():
            path.unlink()
        elif path.is_dir() and left["kind"] == "old" and not os.path.lexists(path.with_name(left["name"])):
            os.rename(path, path.with_name(left["name"]))
        elif path.is_dir():
            shutil.rmtree(path)


def leftover(names: str) -> str:
    """Return the regular expression of the hidden names that writers of `names`, a regular expression, use."""
    return rf"\.(?P<name>{names})\.[0-9a-f]{{8}}\.(?P<kind>tmp|old)"


def sync_folder(folder: StrPath) -> None:
    """Sync the names in a folder, so that a rename in it survives a power cut; the files themselves are not synced.

    Does nothing on Windows, which cannot open folders and keeps names in a journal instead.

    Parameters
    ----------
    folder : path
        An existing folder.

    Raises
    ------
    OSError
        The folder is missing or cannot be synced.
    """
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with naming_file(folder):
            os.fsync(handle)
    finally:
        os.close(handle)


def _beside(path: Path, ending: str) -> Path:
    """Make up a hidden, unused name in the folder of `path`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{ending}")


def _sync_tree(folder: Path) -> None:
    """Sync everything below `folder`, files before the folder that names them; links are not followed."""

    def fail(error: OSError) -> None:
        raise error

    for where, _, names in os.walk(folder, topdown=False, onerror=fail):
        for name in names:
            path = Path(where, name)
            if path.is_file() and not path.is_symlink():
                sync_file(path)
        sync_folder(Path(where))
