"""Lock of a run directory: one process at a time writes a run.

Design
- The lock is the operating system's (flock) on a file in the directory. The system drops it when the process ends,
  however it ends, so the file that a killed run leaves behind locks nothing. Rejected: a file that merely exists, with
  the number of its process inside, because another process may have that number by now.
- The file holds the process and the machine that have the lock, for the error message alone.
- Windows has no flock, so nothing is locked there.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import warnings
from pathlib import Path

from tinygpt.io.atomic import make_directory, naming_file
from tinygpt.io.strict import is_count, one_line, parse_object
from tinygpt.runs.layout import LOCK

if os.name != "nt":
    import fcntl

# Answers of a file system without locks: Lustre mounted without them, some network file systems.
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
_MOST_BYTES = 4096  # limit for reading a lock file


class RunLock:
    """Exclusive right to write a run directory, until `release` or the end of the process.

    Parameters
    ----------
    out : Path
        Run directory; created if missing.

    Raises
    ------
    ValueError
        Another process has the lock; the message names it.
    OSError
        The lock file cannot be written.

    Warns
    -----
    RuntimeWarning
        The file system has no locks, so nothing is locked.
    """

    def __init__(self, out: Path):
        self.out = out
        make_directory(out)
        self._handle = _open_locked(out)
        holder = json.dumps({"process": os.getpid(), "machine": socket.gethostname()}) + "\n"
        try:
            with naming_file(out / LOCK):
                os.ftruncate(self._handle, 0)
                os.pwrite(self._handle, holder.encode(), 0)
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        """Give the lock back and remove its file."""
        if self._handle < 0:
            return
        # The file goes first. A process that has opened it meanwhile finds that its name is gone, and opens another.
        if _is_named(self._handle, self.out):
            os.unlink(self.out / LOCK)
        os.close(self._handle)
        self._handle = -1

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def check_free(out: Path) -> None:
    """Raise ValueError if another process is writing a run directory.

    Parameters
    ----------
    out : Path
        Run directory; may be missing.
    """
    if os.name == "nt" or not (out / LOCK).is_file():
        return
    handle = os.open(out / LOCK, os.O_RDWR)
    try:
        _lock(handle, out)
    finally:
        os.close(handle)


def follow(old: Path, new: Path) -> None:
    """Move the lock file of a run directory that was renamed to the one that takes its place; the lock stays in force.

    Parameters
    ----------
    old : Path
        Run directory under its new name; may have no lock file.
    new : Path
        Run directory that now has the former name.

    Raises
    ------
    ValueError
        Another process has begun a run in `new` meanwhile.
    """
    if not (old / LOCK).exists():
        return
    try:
        os.link(old / LOCK, new / LOCK)  # unlike a rename, this never replaces a file
    except FileExistsError:
        raise _taken(new, new / LOCK) from None
    os.unlink(old / LOCK)


def _open_locked(out: Path) -> int:
    """Open and lock the lock file, again if the process that had the lock removed the file in between."""
    while True:
        handle = os.open(out / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(handle, out)
            if _is_named(handle, out):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _lock(handle: int, out: Path) -> None:
    """Lock an open lock file, or raise ValueError if another process has it."""
    if os.name == "nt":
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _taken(out, out / LOCK) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        text = f"{out}: the file system has no locks, so two runs could write here at once"
        warnings.warn(text, RuntimeWarning, stacklevel=4)


def _is_named(handle: int, out: Path) -> bool:
    """Tell whether an open file is the lock file of a directory."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(out / LOCK))
    except FileNotFoundError:
        return False


def _taken(out: Path, file: Path) -> ValueError:
    """Make the error for a run directory that another process is writing, with the facts of its lock file."""
    who = "another process"
    try:
        with open(file, "rb") as stream:
            content = parse_object(stream.read(_MOST_BYTES))
    except (OSError, ValueError):  # just created, or just removed: nothing is known of its owner
        content = {}
    if is_count(content.get("process")) and isinstance(content.get("machine"), str):
        who = f"process {content['process']} on {one_line(content['machine'])}"
    return ValueError(f"[train] 'out' {out}: {who} is training in this directory; wait for it or choose another 'out'")
