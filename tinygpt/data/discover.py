"""Find source files and read them.

A directory is searched with all its folders, a glob is a search that keeps the matching files, and a file given by name
is read as it is. Every file that a search skips is counted with the reason, so that the user can see why a corpus is
smaller than expected.

- A file is source code if its extension is in the set. A glob such as ``docs/*.md`` adds its own extension.
- A search skips files that ``.gitignore`` ignores, that are hidden, generated, minified, too large, binary, empty, not
  UTF-8 or unreadable, and every copy of a file except the first. A skipped folder counts once.
- A search does not follow symbolic links. A target inside the directory is found under its own name; a target outside
  does not belong to the directory.
- A file given by name may be ignored, hidden, generated, large or of any extension. A binary one is an error.
- A file that looks like a password, a private key or an access token is never read. Given by name, it is an error.
- A byte order mark is dropped; CRLF becomes LF, and so does CR in a text without LF. Nothing else changes.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from glob import has_magic
from pathlib import Path, PurePath

from tinygpt.data import gitignore, rules
from tinygpt.data.rules import EXTENSIONS, MAX_BYTES, parse_extensions

__all__ = ["EXTENSIONS", "MAX_BYTES", "Document", "Summary", "discover", "parse_extensions"]

StrPath = str | os.PathLike[str]
Parts = tuple[str, ...]  # the components of a path below a root, or of a glob

SHOWN_EXTENSIONS = 6


@dataclass(frozen=True)
class Document:
    """The path and the text of one file.

    Parameters
    ----------
    path : str
        Relative to the directory that was given, or to the deepest common directory of several arguments; with ``/``.
    text : str
        Content without byte order mark, with LF line ends; never empty.
    """

    path: str
    text: str


@dataclass
class Summary:
    """Counts of the files that were read, and of those that were skipped, by reason.

    Parameters
    ----------
    files : int
        Number of files that were read.
    characters : int
        Total length of the texts.
    bytes : int
        Total length of the texts in UTF-8.
    extensions : Counter
        Number of files for each extension in lower case; "" for names without an extension.
    skipped : Counter
        Number of files and folders that were skipped, by reason.
    not_source : Counter
        Files of the walked directories whose extension is not in the set, by extension.
    """

    files: int = 0
    characters: int = 0
    bytes: int = 0
    extensions: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    not_source: Counter[str] = field(default_factory=Counter)

    def passed_over(self) -> str:
        """List the text files that were not read, as in ``79 .rst, 20 .html``; "" if there were none."""
        found = [(name, count) for name, count in _most_common(self.not_source) if name in rules.OTHER_TEXT]
        return ", ".join(f"{count:,} {name}" for name, count in found[:SHOWN_EXTENSIONS])

    def describe(self) -> str:
        """Summarise in one line: ``214 files, 1.9 MB of .py .h  (31 skipped: 22 ignored by .gitignore, 9 binary)``."""
        line = f"{self.files:,} {'file' if self.files == 1 else 'files'}, {_size(self.bytes)}"
        names = [name for name, _ in _most_common(self.extensions) if name]
        if names:
            line += " of " + " ".join(names[:SHOWN_EXTENSIONS])
        if len(names) > SHOWN_EXTENSIONS:
            line += f" and {len(names) - SHOWN_EXTENSIONS} more"
        if self.skipped:
            line += f"  ({self.skipped.total():,} skipped: {_reasons(self.skipped)})"
        return line


def discover(
    arguments: StrPath | Iterable[StrPath], extensions: Collection[str] = EXTENSIONS, max_bytes: int = MAX_BYTES
) -> tuple[list[Document], Summary]:
    """Find and read source files.

    Parameters
    ----------
    arguments : path or iterable of paths
        Directories, files and globs (``*``, ``?``, ``[...]``, ``**`` for any number of folders).
    extensions : collection of str
        Extensions of source files, in lower case with the dot, as `parse_extensions` returns them.
    max_bytes : int
        Size in bytes above which a file is skipped, unless it is given by name.

    Returns
    -------
    documents : list of Document
        Sorted by path, so that the same files give the same list on every machine.
    summary : Summary
        Counts of what was read and skipped.

    Raises
    ------
    FileNotFoundError
        A path does not exist, or a glob matches nothing.
    ValueError
        A file given by name is binary, not a regular file or looks like a secret; or no file is left to read.
    OSError
        A ``.gitignore`` cannot be read.
    """
    given = [arguments] if isinstance(arguments, str | os.PathLike) else list(arguments)
    search = _Search(frozenset(extensions), max_bytes)
    for argument in given:
        search.add(os.fspath(argument))
    documents, summary = _read_all(search)
    if not documents:
        raise ValueError(_nothing(given, summary, search.unwanted))
    return documents, summary


@dataclass(frozen=True)
class _Wanted:
    """Selection of files and folders in a search; an empty pattern selects every folder.

    Parameters
    ----------
    extensions : frozenset of str
        Extensions of source files.
    pattern : tuple of str
        Components of a glob, from the first one with a wildcard on.
    """

    extensions: frozenset[str]
    pattern: Parts = ()

    def file(self, parts: Parts) -> bool:
        """Tell whether a file, by its path below the root, matches and has an extension of the set or of the glob."""
        if not _matches(parts, self.pattern):
            return False
        last = self.pattern[-1] if self.pattern else ""
        brings_its_own = bool(last) and ("." in last or not has_magic(last)) and fnmatchcase(parts[-1], last)
        # ".py" alone is the name of a hidden file.
        name = parts[-1].lower()
        return brings_its_own or any(name.endswith(end) and name != end for end in self.extensions)

    def folder(self, parts: Parts) -> bool:
        """Tell whether something below a folder can match."""
        for part, wanted in zip(parts, self.pattern, strict=False):
            if wanted == "**":
                return True
            if not fnmatchcase(part, wanted):
                return False
        return True


class _Search:
    """Collection of paths, argument by argument; a path counts once even if several arguments lead to it.

    Attributes
    ----------
    found : dict
        Maps an absolute path without links to the argument that names the file, or to None if a search found it.
    skipped : dict
        Maps a path to the reason why it is skipped.
    unwanted : Counter
        Number of files that are not source code, by extension.
    roots : list of str
        Directories that the arguments refer to; paths of documents are relative to their common directory.
    """

    def __init__(self, extensions: frozenset[str], max_bytes: int):
        self.extensions = extensions
        self.max_bytes = max_bytes
        self.found: dict[str, str | None] = {}
        self.skipped: dict[str, str] = {}
        self.unwanted: Counter[str] = Counter()
        self.roots: list[str] = []

    def add(self, argument: str) -> None:
        """Collect the files of one argument."""
        path = os.path.expanduser(argument)
        if os.path.isdir(path):
            self._walk(os.path.realpath(path), _Wanted(self.extensions))
        elif os.path.exists(path):
            self._take(argument, path)
        elif has_magic(path):
            self._glob(argument, path)
        else:
            raise FileNotFoundError(f"'{argument}': no such file or directory")

    def _take(self, argument: str, path: str) -> None:
        """Collect a file that is given by name, or raise an error."""
        real = os.path.realpath(path)
        if not os.path.isfile(real):
            raise ValueError(f"'{argument}': must be a directory or a regular file")
        if rules.is_secret_name(os.path.basename(path)) or rules.is_secret_name(os.path.basename(real)):
            raise ValueError(_secret(argument))
        self.found[real] = argument
        self.skipped.pop(real, None)
        self.roots.append(os.path.dirname(real))

    def _glob(self, argument: str, path: str) -> None:
        """Search the folder before the first wildcard for files that match the rest."""
        parts = PurePath(path).parts
        first = next(i for i, part in enumerate(parts) if has_magic(part))
        root = os.path.realpath(os.path.join(*parts[:first]) if first else os.curdir)
        if not os.path.isdir(root) or not self._walk(root, _Wanted(self.extensions, parts[first:])):
            raise FileNotFoundError(f"'{argument}': no source file matches; ** matches any number of folders")

    def _walk(self, root: str, wanted: _Wanted) -> bool:
        """Collect the files below a folder. True if any file was selected, even if it was then skipped.

        A list of folders replaces recursion, so that the depth of folders is not limited.
        """
        self.roots.append(root)
        any_file = False
        folders: list[tuple[str, Parts, gitignore.Rules]] = [(root, (), gitignore.above(root))]
        while folders:
            folder, parts, outer = folders.pop()
            try:
                with os.scandir(folder) as listing:
                    entries = list(listing)
            except OSError:
                self.skipped[folder] = rules.UNREADABLE
                continue
            inner = outer.inside(folder)
            for entry in entries:
                below = (*parts, entry.name)
                if not entry.is_dir(follow_symlinks=False):
                    any_file |= self._consider(entry, below, inner, wanted)
                elif wanted.folder(below) and self._enters(entry, inner):
                    folders.append((entry.path, below, inner))
        return any_file

    def _enters(self, entry: os.DirEntry[str], inner: gitignore.Rules) -> bool:
        """Tell whether to search a folder, and record the reason if not."""
        if entry.name == ".git":
            return False  # not part of the source tree, so it is not counted either
        reason = None
        if rules.is_hidden(entry.name):
            reason = rules.HIDDEN
        elif inner.ignores(entry.path, is_folder=True):
            reason = rules.IGNORED
        elif rules.is_generated_folder(entry.path, entry.name):
            reason = rules.GENERATED
        if reason is not None:
            self.skipped[entry.path] = reason
        return reason is None

    def _consider(self, entry: os.DirEntry[str], parts: Parts, inner: gitignore.Rules, wanted: _Wanted) -> bool:
        """Collect a file or record why it is skipped; False if it is not source code."""
        to_folder = entry.is_symlink() and os.path.isdir(entry.path)
        if not (wanted.folder(parts) if to_folder else wanted.file(parts)):
            self.unwanted[os.path.splitext(entry.name)[1].lower()] += 1
            return False
        if entry.path in self.found:
            return True
        reason = _reason_before_reading(entry, inner, self.max_bytes)
        if reason is None:
            self.found[entry.path] = None
            self.skipped.pop(entry.path, None)  # another argument may have skipped it by rules that do not hold here
        else:
            self.skipped[entry.path] = reason
        return True


def _matches(parts: Parts, pattern: Parts) -> bool:
    """Tell whether a path, or a folder above it, matches a glob component by component."""
    if not pattern:
        return True
    if pattern[0] == "**":
        return any(_matches(parts[i:], pattern[1:]) for i in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _reason_before_reading(entry: os.DirEntry[str], inner: gitignore.Rules, max_bytes: int) -> str | None:
    """Return the reason to skip a file, judged by its name, kind and size; None if there is none."""
    if entry.is_symlink():
        return rules.LINK
    if rules.is_secret_name(entry.name):
        return rules.SECRET
    if rules.is_hidden(entry.name):
        return rules.HIDDEN
    if inner.ignores(entry.path, is_folder=False):
        return rules.IGNORED
    if not entry.is_file(follow_symlinks=False):
        return rules.SPECIAL
    if rules.is_generated_name(entry.name):
        return rules.GENERATED
    try:
        size = entry.stat(follow_symlinks=False).st_size
    except OSError:
        return rules.UNREADABLE
    return rules.TOO_LARGE if size > max_bytes else None


def _read_all(search: _Search) -> tuple[list[Document], Summary]:
    """Read the files in the order of their paths, so that the same one of several equal files is always kept."""
    summary = Summary(skipped=Counter(search.skipped.values()), not_source=search.unwanted)
    documents = []
    seen = set()
    base = os.path.commonpath(search.roots) if search.roots else ""
    names = {Path(path).relative_to(base).as_posix(): path for path in search.found}
    for name, path in sorted(names.items()):
        text, reason = _read(path, search.found[path])
        data = text.encode("utf-8")
        digest = hashlib.sha256(data).digest()
        if reason is None and digest in seen:
            reason = rules.DUPLICATE
        if reason is not None:
            summary.skipped[reason] += 1
            continue
        seen.add(digest)
        documents.append(Document(name, text))
        summary.files += 1
        summary.characters += len(text)
        summary.bytes += len(data)
        summary.extensions[os.path.splitext(name)[1].lower()] += 1
    return documents, summary


def _read(path: str, argument: str | None) -> tuple[str, str | None]:
    """Read a file. Returns its text and None, or "" and the reason to skip it; raises if an argument names it."""
    try:
        data = Path(path).read_bytes()
    except OSError:
        return "", rules.UNREADABLE
    if rules.is_secret_content(data):
        if argument is not None:
            raise ValueError(_secret(argument))
        return "", rules.SECRET
    if b"\0" in data:
        if argument is not None:
            raise ValueError(f"'{argument}': must be text in UTF-8, got a binary file (it has NUL bytes)")
        return "", rules.BINARY
    try:
        text = _lines(data.removeprefix(b"\xef\xbb\xbf").decode("utf-8"))
    except UnicodeDecodeError:
        return "", rules.NOT_UTF8
    if not text.strip():
        return "", rules.EMPTY
    if argument is None and rules.is_generated_text(text):
        return "", rules.GENERATED
    if argument is None and rules.is_minified(text):
        return "", rules.MINIFIED
    return text, None


def _lines(text: str) -> str:
    """Return a text with lines ended by LF: CRLF is replaced, and CR in a text without LF (Mac OS up to 9)."""
    text = text.replace("\r\n", "\n")
    return text if "\n" in text else text.replace("\r", "\n")


def _secret(name: str) -> str:
    return f"'{name}': looks like a password or a private key, which a model would learn by heart; leave it out"


def _nothing(given: list[StrPath], summary: Summary, unwanted: Counter[str]) -> str:
    """Explain in one line that there is no file to read: where, what was skipped, what to do."""
    line = f"[discover] no source file in {', '.join(os.fspath(one) for one in given) or 'no argument'}"
    if summary.skipped:
        line += f" ({summary.skipped.total():,} skipped: {_reasons(summary.skipped)})"
    others = [name for name, _ in _most_common(unwanted) if name]
    if others:
        return line + f"; to read the files found there, give 'extensions' {','.join(others[:3])}"
    named = [reason for reason in rules.TAKEN_WHEN_NAMED if summary.skipped[reason]]
    if named:
        return line + f"; files that are {' or '.join(named)} are read if you give their own paths"
    if summary.skipped:
        return line + "; a file must be readable UTF-8 text, not empty, and not a secret"
    return line + "; give a directory, a file or a quoted glob"


def _reasons(skipped: Counter[str]) -> str:
    return ", ".join(
        f"{count:,} {reason if count == 1 else rules.PLURALS.get(reason, reason)}"
        for reason, count in _most_common(skipped)
    )


def _most_common(counter: Counter[str]) -> list[tuple[str, int]]:
    """Sort by count, the highest first; equal counts by name."""
    return sorted(((key, count) for key, count in counter.items() if count), key=lambda item: (-item[1], item[0]))


def _size(count: int) -> str:
    """Format a number of bytes with a unit, a power of 1000."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"
