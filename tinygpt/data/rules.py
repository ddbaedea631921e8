"""Rules that decide by name or content whether a file is source code, generated, minified or a secret."""

from __future__ import annotations

import os
import re

MAX_BYTES = 1_000_000
MAX_MEAN_LINE = 1000  # characters; lines written by hand have less than 100 on average, minified ones have no limit
HEAD_LINES = 10  # lines at the top in which a tool signs the files that it generates

# Reasons to skip a file, as the summary prints them.
BINARY = "binary"
DUPLICATE = "duplicate"
EMPTY = "empty"
GENERATED = "generated"
HIDDEN = "hidden"
IGNORED = "ignored by .gitignore"
LINK = "symbolic link"
MINIFIED = "minified"
NOT_UTF8 = "not UTF-8"
SECRET = "possible secret"
SPECIAL = "not a regular file"
TOO_LARGE = "too large"
UNREADABLE = "unreadable"
# Reasons that do not apply to a file given by name.
TAKEN_WHEN_NAMED = (HIDDEN, GENERATED, MINIFIED, TOO_LARGE, IGNORED)
# Plural forms; the other reasons do not change in the plural.
PLURALS = {DUPLICATE: "duplicates", LINK: "symbolic links", SECRET: "possible secrets", SPECIAL: "not regular files"}

# fmt: off
_GENERATED_FOLDERS = frozenset((
    "__pycache__", "__pypackages__", "bower_components", "build", "dist", "node_modules", "site-packages", "venv",
    "virtualenv",
))
_GENERATED_NAMES = frozenset((
    "composer.lock", "go.sum", "npm-shrinkwrap.json", "package-lock.json", "pnpm-lock.yaml",
))
_GENERATED_ENDINGS = (
    ".bundle.js", ".designer.cs", ".freezed.dart", ".g.dart", ".lock", ".min.css", ".min.js", ".min.mjs", ".pb.cc",
    ".pb.go", ".pb.h", "_pb2.py", "_pb2.pyi", "_pb2_grpc.py",
)
# fmt: on
# Files that mark a folder as a virtual environment or a cache, whatever its name.
_FOLDER_MARKS = ("pyvenv.cfg", "CACHEDIR.TAG")
# A signature is at the start of a line or follows a word that names its subject. Prose about generated text therefore
# does not count as one.
_SIGNATURE = re.compile(
    r"@generated\b"
    r"|\bdo not edit\b"
    r"|(^\W*|\b(auto|auto-|automatically |code |file |is |was |been ))generated\s+(by|from|automatically)\b",
    re.IGNORECASE | re.MULTILINE,
)

_SECRET_NAMES = re.compile(r"\.(env.*|netrc|pgpass|pypirc)|id_(rsa|dsa|ecdsa|ed25519)(_sk)?|.*\.(key|pem|p12|pfx|ppk)")
# Tokens with a fixed prefix and length: AWS, GitHub, GitLab, Google, Slack, Stripe, OpenAI, npm, PyPI.
_TOKEN = re.compile(
    rb"\b(AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{82}|glpat-[A-Za-z0-9_-]{20}"
    rb"|AIza[A-Za-z0-9_-]{35}|xox[abprs]-[0-9A-Za-z-]{20,}|[sr]k_live_[A-Za-z0-9]{24,}|sk-(proj-)?[A-Za-z0-9]{40,}"
    rb"|npm_[A-Za-z0-9]{36}|pypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{50,})(?![A-Za-z0-9_-])"
)
_PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY")
# Below the first line, a marker counts only if a line of the key follows, because source code may mention the marker.
_KEY_FURTHER_DOWN = re.compile(
    rb"^[^\n]{0,40}-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----[^\n]*\n[ \t]*[A-Za-z0-9+/]{40,}={0,2}[ \t\r]*$", re.MULTILINE
)


def parse_extensions(text: str) -> frozenset[str]:
    """Read a list of extensions.

    Parameters
    ----------
    text : str
        Extensions separated by commas, with or without the dot, in any case: ``.py,.go`` or ``py, go``.

    Returns
    -------
    frozenset of str
        Extensions in lower case, with the dot.

    Raises
    ------
    ValueError
        Nothing is listed, or a part is not an extension.
    """
    found = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        extension = "." + part.removeprefix(".").lower()
        if not re.fullmatch(r"(\.[^\s./\\*?\[\]]+)+", extension):
            raise ValueError(f"[parse_extensions] 'extensions' must look like .py,.go, got '{part}'")
        found.add(extension)
    if not found:
        raise ValueError(f"[parse_extensions] 'extensions' must look like .py,.go, got '{text}'")
    return frozenset(found)


# Programming languages. Data, web pages and prose are read only on request.
EXTENSIONS = parse_extensions(
    ".asm,.bash,.c,.cc,.clj,.cljs,.coffee,.cpp,.cs,.cu,.cuh,.cxx,.dart,.el,.elm,.erl,.ex,.exs,.f,.f03,.f90,.f95,.fs,"
    ".fsx,.go,.gradle,.groovy,.h,.hh,.hpp,.hrl,.hs,.hxx,.inl,.java,.jl,.js,.jsx,.kt,.kts,.lisp,.lua,.m,.mjs,.ml,.mli,"
    ".mm,.nim,.pas,.php,.pl,.pm,.proto,.ps1,.pxd,.pxi,.py,.pyi,.pyx,.r,.rb,.rkt,.rs,.s,.scala,.scm,.sh,.sql,.svelte,"
    ".swift,.tcl,.ts,.tsx,.v,.vhd,.vhdl,.vim,.vue,.zig,.zsh"
)


# Text formats that are read only on request. The summary counts them, because a user may expect them to be read.
OTHER_TEXT = parse_extensions(".adoc,.css,.csv,.htm,.html,.ipynb,.json,.less,.md,.org,.rst,.scss,.tex,.toml,.txt,.xml,"
                              ".yaml,.yml")  # fmt: skip


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder is hidden: its name begins with a dot."""
    return name.startswith(".")


def is_generated_folder(path: str, name: str) -> bool:
    """Tell whether a folder was filled by a tool: packages, builds, caches, virtual environments."""
    return (
        name in _GENERATED_FOLDERS
        or name.endswith(".egg-info")
        or any(os.path.lexists(os.path.join(path, mark)) for mark in _FOLDER_MARKS)
    )


def is_generated_name(name: str) -> bool:
    """Tell whether a file's name shows that a tool generated it."""
    lower = name.lower()
    return lower in _GENERATED_NAMES or lower.endswith(_GENERATED_ENDINGS)


def is_generated_text(text: str) -> bool:
    """Tell whether the first lines contain the signature of a generating tool."""
    return _SIGNATURE.search("\n".join(text.split("\n", HEAD_LINES)[:HEAD_LINES])) is not None


def is_minified(text: str) -> bool:
    """Tell whether the average line is longer than lines that people write."""
    return len(text) > MAX_MEAN_LINE * (text.count("\n") + (not text.endswith("\n")))


def is_secret_name(name: str) -> bool:
    """Tell whether a file's name is a usual name for passwords or private keys."""
    return _SECRET_NAMES.fullmatch(name.lower()) is not None


def is_secret_content(data: bytes) -> bool:
    """Tell whether a file holds an access token, begins with a private key in PEM form, or has one further down."""
    if _TOKEN.search(data):
        return True
    if _PRIVATE_KEY.match(data.removeprefix(b"\xef\xbb\xbf").lstrip()):
        return True
    return b"PRIVATE KEY-----" in data and _KEY_FURTHER_DOWN.search(data) is not None
