"""Tests that every excerpt of a source in the documentation exists: the file, the object, the first and the last line.

Building the documentation finds a missing excerpt too, but takes minutes; a comment is reworded in seconds.
"""

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
EXCERPT = re.compile(r"^```\{literalinclude\} (\S+)\n((?::[a-z-]+:.*\n)*)", re.MULTILINE)


def excerpts(text):
    """Return (path, options) of every excerpt on a page."""
    found = []
    for path, lines in EXCERPT.findall(text):
        pairs = (line[1:].split(":", 1) for line in lines.splitlines())
        found.append((path, {name: unquoted(value.strip()) for name, value in pairs}))
    return found


def unquoted(value):
    return json.loads(value) if value.startswith('"') else value


def definitions(text):
    """Return the dotted names of the functions and classes of a Python source."""
    names = set()

    def visit(node, prefix):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                names.add(prefix + child.name)
                visit(child, f"{prefix}{child.name}.")

    visit(ast.parse(text), "")
    return names


def missing(text, options):
    """Name the option of an excerpt that `text` does not satisfy, by Sphinx's rules; None if it satisfies all."""
    if "pyobject" in options and options["pyobject"] not in definitions(text):
        return "pyobject"
    lines = text.splitlines()
    for name in ("start-at", "start-after"):
        if name in options:
            hits = [number for number, line in enumerate(lines) if options[name] in line]
            if not hits:
                return name
            lines = lines[hits[0] + (name == "start-after") :]
    for name in ("end-at", "end-before"):
        # The end is searched from the first line on, but an excerpt that ends before its first line is empty.
        if name in options and not any(options[name] in line for line in lines[name == "end-before" :]):
            return name
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT / "docs").as_posix())
def test_excerpts_exist(page):
    """Catches a source that was moved or reworded while a page still shows an excerpt of it."""
    for path, options in excerpts(page.read_text(encoding="utf-8")):
        source = (page.parent / path).resolve()
        assert source.is_file(), path
        assert missing(source.read_text(encoding="utf-8"), options) is None, (path, options)


def test_excerpts_are_found():
    """Catches a pattern that finds no excerpts, with which the test above would pass."""
    assert sum(len(excerpts(page.read_text(encoding="utf-8"))) for page in PAGES) > 20


SOURCE = "class A:\n    def f(self):\n        pass\n\n\n# end\n"


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"pyobject": "A.f"}, None),
        ({"pyobject": "f"}, "pyobject"),
        ({"start-at": "def f", "end-before": "# end"}, None),
        ({"start-at": "def g"}, "start-at"),
        ({"start-after": "# end", "end-at": "pass"}, "end-at"),
        ({"start-at": "# end", "end-before": "# end"}, "end-before"),
    ],
)
def test_a_missing_excerpt_is_reported(options, wrong):
    """Catches a check that never fails, and one that fails for an excerpt that exists."""
    assert missing(SOURCE, options) == wrong
