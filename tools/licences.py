"""Write the licences of the dependencies into SECURITY.md, as the installed packages state them.

usage: python tools/licences.py
"""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- begin: tools/licences.py -->\n", "<!-- end -->"
# Extras for users; the others are for work on tinygpt.
EXTRAS = ("viz", "tensorboard", "gguf", "chat", "mpi", "serve", "gym")


def dependencies() -> dict[str, str]:
    """Map each package that users install to its extra, or to "always"."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"always": project["dependencies"], **{name: project["optional-dependencies"][name] for name in EXTRAS}}
    found: dict[str, str] = {}
    for group, requirements in groups.items():
        for requirement in requirements:
            found.setdefault(re.match(r"[\w.-]+", requirement)[0], group)
    return found


def licence(package: str) -> str:
    """Return the licence of an installed package in one line."""
    try:
        stated = metadata(package)
    except PackageNotFoundError:
        raise SystemExit(f"{package} is not installed; install the extras {', '.join(EXTRAS)}") from None
    classifiers = [line.rpartition(" :: ")[2] for line in stated.get_all("Classifier", []) if line[:7] == "License"]
    text = stated.get("License-Expression") or ", ".join(classifiers) or stated.get("License") or "not stated"
    return text.strip().splitlines()[0]


def main() -> None:
    """Replace the table between the marks."""
    rows = [f"| {name} | {group} | {licence(name)} |" for name, group in dependencies().items()]
    table = "\n".join(["| package | extra | licence |", "|---|---|---|", *rows]) + "\n"
    file = ROOT / "SECURITY.md"
    before, _, rest = file.read_text(encoding="utf-8").partition(BEGIN)
    file.write_text(before + BEGIN + table + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
