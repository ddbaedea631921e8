"""SECURITY.md promises only what a test checks."""

import ast
import re
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
