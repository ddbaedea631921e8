"""Rules of ``.gitignore`` files for one path, read as git reads them: bytes, line by line.

The file in the deepest folder decides first; within a file the last pattern that matches decides. An ignored folder
hides everything below it, whatever the files below say, so a walk does not enter it.

After these files comes ``.git/info/exclude``, the list that a repository keeps for itself. A user's own list outside of
the repository (``core.excludesFile``) is not read, because the same tree must give the same corpus on every machine.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from tinygpt.data.wildmatch import translate

NAME = ".gitignore"


@dataclass(frozen=True)
class Rules:
    """The rules that hold in one folder: its own and those of the folders above.

    Parameters
    ----------
    files : tuple of (str, tuple of _Pattern)
        Folder, with a separator at its end, and the patterns of its file, the last line first. The deepest folder
        is first.
    fold : bool
        Ignore the case of ASCII letters: ``core.ignorecase`` of the repository.
    """

    files: tuple[tuple[str, tuple[_Pattern, ...]], ...] = ()
    fold: bool = False

    def inside(self, folder: str) -> Rules:
        """Return the rules one folder deeper.

        Parameters
        ----------
        folder : str
            Absolute path.

        Raises
        ------
        OSError
            Its ``.gitignore`` cannot be read, so nobody knows which files it keeps out.
        """
        return self.adding(Path(folder, NAME), folder)

    def adding(self, file: Path, folder: str) -> Rules:
        """Return these rules and the ones that `file` has for `folder`; a symbolic link is not followed, as in git."""
        if file.is_symlink() or not file.is_file():
            return self
        patterns = _read(file.read_bytes(), self.fold)
        return replace(self, files=((os.path.join(folder, ""), patterns), *self.files))

    def ignores(self, path: str, is_folder: bool) -> bool:
        """Tell whether a path is ignored, given that none of the folders above it is.

        Parameters
        ----------
        path : str
            Absolute path, below every folder of the rules.
        is_folder : bool
            Patterns such as ``build/`` match folders only.
        """
        for folder, patterns in self.files:
            below = os.fsencode(path.removeprefix(folder).replace(os.sep, "/"))
            below = below.lower() if self.fold else below
            name = below.rpartition(b"/")[2]
            for pattern in patterns:
                if (is_folder or not pattern.folders_only) and pattern.regex.match(
                    name if pattern.names_only else below
                ):
                    return not pattern.negated
        return False


def above(folder: str) -> Rules:
    """Return the rules that reach a folder from above it: those of its git repository, from the root down.

    Parameters
    ----------
    folder : str
        Absolute path without links.

    Returns
    -------
    Rules
        Empty outside a repository, and empty where the rules ignore the folder itself, because a user who names an
        ignored folder wants its files.
    """
    places = [Path(folder), *Path(folder).parents]
    up = next((i for i, place in enumerate(places) if (place / ".git").exists()), None)
    if up is None:
        return Rules()
    own = places[up] / ".git"
    base = Rules(fold=_ignores_case(own / "config"))
    rules = base.adding(own / "info" / "exclude", str(places[up]))
    for i in range(up, 0, -1):
        rules = rules.inside(str(places[i]))
        if rules.ignores(str(places[i - 1]), is_folder=True):
            return base
    return rules


def _ignores_case(config: Path) -> bool:
    """Tell whether a repository ignores the case of names, as git records on file systems that do."""
    if config.is_symlink() or not config.is_file():
        return False
    return re.search(rb"^\s*ignorecase\s*=\s*true\s*$", config.read_bytes(), re.IGNORECASE | re.MULTILINE) is not None


@dataclass(frozen=True)
class _Pattern:
    """One line of a file.

    Parameters
    ----------
    regex : re.Pattern of bytes
        Matches the whole path relative to the folder of the file, or the name alone.
    negated : bool
        The line begins with ``!`` and takes back what lines before it ignore.
    folders_only : bool
        The line ends with ``/``.
    names_only : bool
        There is no other ``/``, so the name counts alone, in any folder.
    """

    regex: re.Pattern[bytes]
    negated: bool
    folders_only: bool
    names_only: bool

    @classmethod
    def read(cls, line: bytes, fold: bool) -> _Pattern:
        negated = line.startswith(b"!")
        bare = line.removeprefix(b"!")
        text = bare.removesuffix(b"/")
        return cls(translate(text.removeprefix(b"/"), fold), negated, text != bare, b"/" not in text)


def _read(data: bytes, fold: bool) -> tuple[_Pattern, ...]:
    """Read the lines of a file, the last one first: without byte order mark, comments, one CR and spaces at an end."""
    patterns = []
    for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        if line and not line.startswith(b"#"):
            # git handles a line as a C string, which ends at a NUL byte.
            pattern = _without_spaces(line.removesuffix(b"\r").partition(b"\0")[0])
            patterns.append(_Pattern.read(pattern, fold))
    return tuple(reversed(patterns))


def _without_spaces(line: bytes) -> bytes:
    """Drop the spaces at the end; a backslash keeps the one after it."""
    kept = line.rstrip(b" ")
    backslashes = len(kept) - len(kept.rstrip(b"\\"))
    return line[: len(kept) + backslashes % 2]
