r"""Patterns of ``.gitignore``, translated to regular expressions that match the same bytes as git's wildmatch.

=============== ==================================================================================================
``?``           one byte except ``/``; a letter such as é has two bytes
``*``           any bytes except ``/``
``**/``         at the start or after ``/``: nothing, or any number of whole folders
``**``          at the end, after ``/``: everything below
``[a-c]``       one byte of the set except ``/``; ``[!a-c]`` and ``[^a-c]`` one byte outside of it
``[[:digit:]]`` inside a set: one of twelve classes of ASCII bytes
``\``            the next byte matches itself
=============== ==================================================================================================

Design
- A regular expression, because a large tree is matched a million times. Rejected: the loops of git's
  wildmatch.c in Python.
- Every wildcard with the bytes up to the next one is an atomic group, so that matching never needs exponential time.
  The first place where these bytes fit is enough: the next wildcard can skip whatever a later place would skip.
- A pattern with an unclosed set, an unknown class or a backslash at its end matches nothing, as in git.
"""

from __future__ import annotations

import re
import string

CLASSES = {
    b"alnum": (string.ascii_letters + string.digits).encode(),
    b"alpha": string.ascii_letters.encode(),
    b"blank": b" \t",
    b"cntrl": bytes(range(32)) + b"\x7f",
    b"digit": string.digits.encode(),
    b"graph": bytes(range(33, 127)),
    b"lower": string.ascii_lowercase.encode(),
    b"print": bytes(range(32, 127)),
    b"punct": string.punctuation.encode(),
    b"space": b" \t\n\r",
    b"upper": string.ascii_uppercase.encode(),
    b"xdigit": string.hexdigits.encode(),
}
NOTHING = re.compile(rb"(?!)")


def translate(pattern: bytes, fold: bool = False) -> re.Pattern[bytes]:
    """Translate a pattern to a regular expression for a whole path.

    Parameters
    ----------
    pattern : bytes
        Without the marks of a line (``!``, the first and the last slash). It contains no NUL byte.
    fold : bool
        Ignore the case of ASCII letters, as git does with ``core.ignorecase``. The path to match must be in lower case.

    Returns
    -------
    re.Pattern
        `NOTHING` for a malformed pattern.
    """
    # git compares the part before the first wildcard by itself and matches the rest on its own. So ``a**/b`` matches ab
    # and a/x/b: the two stars are at the start of what is left.
    first = re.match(rb"[^*?\[\\]*", pattern).end()  # type: ignore[union-attr]
    plain = pattern.lower() if fold else pattern
    expression, i = re.escape(plain[:first]), first
    in_star = in_folders = b""  # text that closes the open atomic groups
    while i < len(pattern):
        byte = pattern[i : i + 1]
        if byte == b"*":
            end = i + len(pattern[i:]) - len(pattern[i:].lstrip(b"*"))
            is_double = end - i > 1 and (i == first or pattern[i - 1 : i] == b"/")
            if is_double and re.match(rb"\Z|\\?/", pattern[end:]):
                is_folders = pattern[end : end + 1] == b"/"
                expression += in_star + in_folders + (rb"(?>(?:.*?/)??" if is_folders else rb"(?>.*?")
                in_star, in_folders, i = b"", b")", end + is_folders
            else:
                expression += in_star + rb"(?>[^/]*?"
                in_star, i = b")", end
        elif byte == b"[":
            allowed, i = _bracket(pattern, i + 1, fold)
            if not i:
                return NOTHING
            expression += b"[" + b"".join(b"\\x%02x" % one for one in allowed) + b"]" if allowed else b"(?!)"
        elif byte == b"\\":
            if i + 1 == len(pattern):
                return NOTHING
            expression += re.escape(pattern[i + 1 : i + 2])
            i += 2
        else:
            expression += rb"[^/]" if byte == b"?" else re.escape(plain[i : i + 1])
            i += 1
    return re.compile(expression + rb"\Z" + in_star + in_folders, re.DOTALL)


def _bracket(pattern: bytes, i: int, fold: bool) -> tuple[list[int], int]:
    """Read the set that begins after ``[`` at `i`: its bytes, and the place after its ``]``; place 0 if malformed."""
    is_negated = pattern[i : i + 1] in (b"!", b"^")
    start = i = i + is_negated
    members: set[int] = set()
    before = -1  # the byte that a range may begin with
    while i == start or pattern[i : i + 1] != b"]":
        byte, following = pattern[i : i + 1], pattern[i + 1 : i + 2]
        if not byte or (byte == b"\\" and not following):
            return [], 0
        if byte == b"-" and before >= 0 and following not in (b"", b"]"):
            i += 2 if following == b"\\" else 1
            if i == len(pattern):
                return [], 0
            members |= _range(before, pattern[i], fold)
            before = -1
        elif named := re.match(rb"\[:([^\]]*):\]", pattern[i:]):
            if named[1] not in CLASSES:
                return [], 0
            members.update(CLASSES[b"alpha" if fold and named[1] == b"upper" else named[1]])
            before, i = -1, i + len(named[0]) - 1
        else:
            i += byte == b"\\"
            before = pattern[i]
            members.add(before)
        i += 1
    return [one for one in range(1, 256) if (one in members) != is_negated and one != ord("/")], i + 1


def _range(low: int, high: int, fold: bool) -> set[int]:
    """List the bytes of a range, with small letters for capitals if case is ignored; none if the range is reversed."""
    members = bytes(range(low, high + 1))
    return {*members, *members.lower()} if fold else set(members)
