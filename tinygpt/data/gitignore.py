"""What ``.gitignore`` files say about a path, as git reads them.

The file in the deepest folder has the first word; within a file the last pattern that matches decides. A folder that is
ignored hides all below it, whatever files below say, so a walk does not go into it.

A pattern of git matches a path itself; pathspec's also match all below it, and so let ``!/src`` take ``src/x.log`` back
from an earlier ``*.log``, which git does not. The walk has already dealt with the folders above, so a match through one
of them is dropped here.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import pathspec

NAME = ".gitignore"


@dataclass(frozen=True)
class Rules:
    """The rules that hold in one folder: its own and those of the folders above.

    Parameters
    ----------
    files : tuple of (str, _Patterns)
        Folder, with a slash at its end, and the patterns of its file; the deepest folder first.
    """

    files: tuple[tuple[str, _Patterns], ...] = ()

    def inside(self, folder: str) -> Rules:
        """The rules one folder deeper.

        Parameters
        ----------
        folder : str
            Absolute path.

        Raises
        ------
        OSError
            Its ``.gitignore`` cannot be read; nobody knows then what it wants to keep out.
        """
        file = Path(folder, NAME)
        if not file.is_file():
            return self
        # As the names of files are decoded, so that patterns in any encoding meet them.
        text = os.fsdecode(file.read_bytes().removeprefix(b"\xef\xbb\xbf")).replace("\r\n", "\n")
        return Rules(((os.path.join(folder, ""), _Patterns.read(text)), *self.files))

    def ignores(self, path: str, is_folder: bool) -> bool:
        """Whether a path is ignored, if none of the folders above it is.

        Parameters
        ----------
        path : str
            Absolute path, below every folder of the rules.
        is_folder : bool
            Some patterns (``build/``) are for folders only.
        """
        for folder, patterns in self.files:
            verdict = patterns.verdict(path.removeprefix(folder) + ("/" if is_folder else ""))
            if verdict is not None:
                return verdict
        return False


def above(folder: str) -> Rules:
    """The rules that reach a folder from above it: those of its git repository, from the root down.

    Parameters
    ----------
    folder : str
        Absolute path without links.

    Returns
    -------
    Rules
        None outside a repository. None either where they ignore the folder itself: who names it wants it.
    """
    places = [Path(folder), *Path(folder).parents]
    # How many folders up the repository begins; 0, and so no folder above, if there is none.
    up = next((i for i, place in enumerate(places) if (place / ".git").exists()), 0)
    rules = Rules()
    for i in range(up, 0, -1):
        rules = rules.inside(str(places[i]))
        if rules.ignores(str(places[i - 1]), is_folder=True):
            return Rules()
    return rules


@dataclass(frozen=True)
class _Pattern:
    """One line.

    Parameters
    ----------
    spec : pathspec.GitIgnoreSpec
        The line, for any path.
    tail : pathspec.GitIgnoreSpec
        What follows its last ``**``, or all of it: the last parts of a path must match this.
    length : int
        The number of those parts.
    whole : bool
        There is no ``**``, so the path must have this number of parts and no more.
    """

    spec: pathspec.GitIgnoreSpec
    tail: pathspec.GitIgnoreSpec
    length: int
    whole: bool

    @classmethod
    def read(cls, line: str) -> _Pattern:
        """Take a line apart; ValueError if pathspec cannot read it."""
        spec = pathspec.GitIgnoreSpec.from_lines([line])
        bare = re.sub(r"(?<!\\) +$", "", line).removeprefix("!")
        parts = bare.strip("/").split("/")
        folders_only = "/" if bare.endswith("/") else ""
        # Without a slash before its end a pattern is for any depth.
        if "/" not in bare.removesuffix("/"):
            parts = ["**", *parts]
        # "a/**" is all below a, as "a/**/*" is; pathspec lets the former match the folder a too.
        if parts[-1] == "**":
            parts.append("*")
            sign = "!" if line.startswith("!") else ""
            spec = pathspec.GitIgnoreSpec.from_lines([sign + "/" + "/".join(parts) + folders_only])
        last = max((i for i, part in enumerate(parts) if part == "**"), default=-1)
        after = parts[last + 1 :]
        tail = pathspec.GitIgnoreSpec.from_lines(["/" + "/".join(after) + folders_only])
        return cls(spec, tail, len(after), last < 0)

    def verdict(self, path: str) -> bool | None:
        """True for ignored, False for taken back, None if the path itself does not match."""
        include = self.spec.check_file(path).include
        if include is None:
            return None
        parts = path.removesuffix("/").split("/")
        if self.whole and len(parts) != self.length:
            return None
        end = "/".join(parts[-self.length :]) + ("/" if path.endswith("/") else "")
        return include if self.tail.match_file(end) else None


@dataclass(frozen=True)
class _Patterns:
    """The lines of one file, the last one first, and all of them as one spec: most paths match nothing at all."""

    spec: pathspec.GitIgnoreSpec
    lines: tuple[_Pattern, ...]

    @classmethod
    def read(cls, text: str) -> _Patterns:
        """Take a file apart. A line that pathspec cannot read (a lone ``!``) matches nothing in git either."""
        good, lines = [], []
        for line in text.split("\n"):
            if not line.strip() or line.startswith("#"):
                continue
            try:
                lines.append(_Pattern.read(line))
            except ValueError:
                continue
            good.append(line)
        return cls(pathspec.GitIgnoreSpec.from_lines(good), tuple(reversed(lines)))

    def verdict(self, path: str) -> bool | None:
        """What the last matching line says of a path relative to the file's folder; None if there is none."""
        if self.spec.check_file(path).include is None:
            return None
        verdicts = (line.verdict(path) for line in self.lines)
        return next((verdict for verdict in verdicts if verdict is not None), None)
