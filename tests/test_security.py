"""SECURITY.md promises only what a test checks."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)))


def test_every_promise_names_a_test():
    """Catches a promise without a test, and names that this search does not recognise."""
    promises = re.findall(r"^- .*?(?=^\S|^$)", TEXT, re.MULTILINE | re.DOTALL)
    assert len(promises) == TEXT.count("\n- ")
    assert [promise for promise in promises if "`tests/" not in promise] == []
    assert len(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)) == TEXT.count("::")


@pytest.mark.parametrize(("file", "name"), NAMED, ids=[name for _, name in NAMED])
def test_named_tests_exist(file, name):
    """Catches a test that was renamed or removed while its promise stays."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert name in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]


def test_every_dependency_has_its_licence():
    """Catches a dependency of users that the table of licences does not list, and one that is gone."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    work = {"test", "notebooks", "browser", "parity", "bench", "lint", "docs"}
    groups = [lines for name, lines in project["optional-dependencies"].items() if name not in work]
    named = {re.match(r"[\w.-]+", line)[0] for group in [project["dependencies"], *groups] for line in group}
    rows = re.findall(r"^\| ([\w.-]+) \| ([\w-]+) \| (.+) \|$", TEXT.partition("<!-- begin")[2], re.MULTILINE)
    assert {name for name, _, _ in rows} - {"package"} == named
    assert [name for name, _, licence in rows if licence == "not stated"] == []
