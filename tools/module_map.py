"""Map of the repository: the first sentence of every module's docstring, folder by folder.

usage: python tools/module_map.py [FOLDER]      print the map, or the part below FOLDER

docs/map.md shows the same lines. Nothing is stored, so the map cannot differ from the files.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("csrc", "tinygpt", "benchmarks", "tools", "ci")  # in the order of the map
SUFFIXES = (".py", ".pyx", ".h", "")  # "" is a shell script
STUB = re.compile(r"(^|/)(__pycache__|build|\.[^/]+)/")

# The end of a sentence: a full stop before a capital letter or the end of the paragraph, but not in "et al. 2019".
SENTENCE = re.compile(r"(.*?(?<!\bet al)(?<!\beq)(?<!\be\.g)(?<!\bi\.e)[.!?])(?=\s+[A-Z`(]|\s*$)", re.DOTALL)
SHELL_COMMENT = re.compile(r"\A#!.*\n((?:# .*\n)+)")
C_COMMENT = re.compile(r"\A\s*/\*(.*?)\*/", re.DOTALL)
PYX_DOCSTRING = re.compile(r'\A(?:#.*\n)*"""(.*?)"""', re.DOTALL)


def opening(text: str, suffix: str) -> str:
    """Return the docstring or first comment of a file's text; "" if it has none."""
    if suffix == ".py":
        return ast.get_docstring(ast.parse(text)) or ""
    pattern = {".pyx": PYX_DOCSTRING, ".h": C_COMMENT, "": SHELL_COMMENT}[suffix]
    found = pattern.search(text)
    return re.sub(r"^# ?", "", found[1], flags=re.MULTILINE).strip() if found else ""


def first_sentence(docstring: str) -> str:
    """Return the first sentence of a docstring on one line; the whole first paragraph if no full stop ends it."""
    paragraph = " ".join(docstring.strip().partition("\n\n")[0].split()).partition(" usage:")[0]
    found = SENTENCE.match(paragraph)
    return found[1] if found else paragraph


def modules(root: Path = ROOT) -> dict[str, str]:
    """Return path -> first sentence for every module, sorted by folder; `__init__.py` comes first in its folder."""
    found = {}
    for folder in FOLDERS:
        paths = [path for path in (root / folder).rglob("*") if path.is_file() and path.suffix in SUFFIXES]
        for path in sorted(paths, key=lambda one: (one.parent, one.name != "__init__.py", one.name)):
            name = path.relative_to(root).as_posix()
            if not STUB.search(name):
                found[name] = first_sentence(opening(path.read_text(encoding="utf-8"), path.suffix))
    return found


def by_folder(lines: dict[str, str]) -> dict[str, dict[str, str]]:
    """Group the modules by folder: folder -> file name -> sentence."""
    groups: dict[str, dict[str, str]] = {}
    for path, sentence in lines.items():
        folder, _, name = path.rpartition("/")
        groups.setdefault(folder, {})[name] = sentence
    return groups


def main() -> None:
    """Print the map."""
    below = sys.argv[1].rstrip("/") if len(sys.argv) > 1 else ""
    for folder, files in by_folder(modules()).items():
        if below and not f"{folder}/".startswith(f"{below}/"):
            continue
        print(f"\n{folder}/")
        width = max(map(len, files))
        for name, sentence in files.items():
            print(f"  {name:{width}}  {sentence}")


if __name__ == "__main__":
    main()
