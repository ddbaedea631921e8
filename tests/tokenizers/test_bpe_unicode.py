"""Classes of code points: against Python's own database, and the generated header against its generator."""

import importlib.util
import sys
import unicodedata
from pathlib import Path

import pytest

from tinygpt.core import bpe_encode

TOOL = Path(__file__).resolve().parents[2] / "tools" / "unicode_tables.py"
OTHER, LETTER, NUMBER, SPACE = range(4)


@pytest.fixture(scope="module")
def tool():
    specification = importlib.util.spec_from_file_location("tools_unicode_tables", TOOL)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def classes():
    return bpe_encode.classes(0, 0x110000)


def test_the_class_of_every_assigned_code_point(tool, classes):
    """Catches a wrong row, bits in the wrong order, and a swapped class.

    Unassigned code points are left out, because they depend on the version of Unicode.
    """
    known = [code for code in range(0x110000) if unicodedata.category(chr(code)) != "Cn"]
    # Code points that only a newer Python knows are unassigned in the tables, and therefore in no class.
    newer = tuple(map(int, unicodedata.unidata_version.split("."))) > tuple(map(int, tool.VERSION.split(".")))
    known = [code for code in known if not newer or classes[code] != OTHER]
    assert len(known) > 130_000
    assert [code for code in known if classes[code] != tool.class_of(code, unicodedata)] == []


def test_a_few_classes_by_hand(classes):
    """Catches a fault that the database and the table share."""
    by_hand = {"a": LETTER, "Z": LETTER, "é": LETTER, "日": LETTER, "ʰ": LETTER, "5": NUMBER, "²": NUMBER, "Ⅷ": NUMBER}
    by_hand |= dict.fromkeys(" \t\n\x0b\x0c\r\x85\u00a0\u2028\u3000", SPACE)
    by_hand |= dict.fromkeys("_-!😀\u0301\x00\x1c\u200b\ufeff\U0010ffff", OTHER)
    assert {char: classes[ord(char)] for char in by_hand} == by_hand
    assert classes.count(SPACE) == 25


def test_code_points_beyond_the_table(classes):
    """Catches a read past the end of the table, where rows are no longer stored."""
    assert set(classes[0x32400:]) == {OTHER}
    assert bpe_encode.classes(0x10FFFF, 0x110010) == bytes([OTHER] * 17)


def test_the_stated_version_of_unicode(tool):
    """Catches a header of a different version than the generator and the documentation state."""
    assert bpe_encode.unicode_version() == tool.VERSION
    assert f'"{tool.VERSION}"' in tool.HEADER.read_text()


def test_the_tool_reproduces_the_header(tool):
    """Catches a header changed by hand, and a generator that would write a different one."""
    data = tool.database()
    if data is None:
        pytest.skip(f"no unicodedata of Unicode {tool.VERSION}")
    assert tool.header(data) == tool.HEADER.read_text()


def test_the_tool_says_what_it_needs(tool, monkeypatch):
    """Catches a header generated from whatever Unicode version this Python has."""
    monkeypatch.setattr(tool, "VERSION", "1.0.0")
    monkeypatch.setattr(sys, "argv", ["unicode_tables.py"])
    with pytest.raises(SystemExit, match=r"use Python 3\.14, or install unicodedata2==1\.0\.0"):
        tool.main()
