"""Untrusted JSON and TOML: any nesting or size gives the documented error."""

import json

import pytest

from tinygpt.io.records import Records
from tinygpt.io.strict import MAX_DEPTH, parse_object, read_toml
from tinygpt.runs.directory import read_table

DEEP = (MAX_DEPTH, 500, 900, 20_000, 1_000_000)


@pytest.mark.parametrize("depth", DEEP)
def test_deep_json_is_refused(depth):
    """Catches nesting that the parser accepts but later code, such as json.dumps, fails on with RecursionError."""
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        text = '{"x":' + opening * depth + "1" + closing * depth + "}"
        with pytest.raises(ValueError, match=f"must be JSON of at most {MAX_DEPTH} levels"):
            parse_object(text.encode())


def test_the_deepest_accepted_json():
    """Catches a limit that is off by one, or too low for real files."""
    text = '{"x":' + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1) + "}"
    assert json.dumps(parse_object(text.encode()), separators=(",", ":")) == text


@pytest.mark.parametrize("depth", DEEP)
@pytest.mark.parametrize("read", [read_toml, read_table])
def test_deep_toml_is_refused(tmp_path, depth, read):
    """Catches a RecursionError for a TOML file, from nested arrays in the parser or dotted keys after it."""
    dotted = ".".join("a" * (depth + 1))
    for text in ("x = " + "[" * depth + "]" * depth, f"{dotted} = 1", f"[{dotted}]"):
        (tmp_path / "run.toml").write_text(text[: 2**20])
        with pytest.raises(ValueError, match=r"run\.toml: (must be TOML of at most|not a TOML file)"):
            read(tmp_path / "run.toml")


def test_a_long_toml_file_is_refused(tmp_path):
    """Catches a file of any size that is read to its end."""
    (tmp_path / "run.toml").write_text("#" * (2**20 + 1))
    with pytest.raises(ValueError, match=r"run\.toml: must be at most 1048576 bytes long, got 1048577"):
        read_toml(tmp_path / "run.toml")


def test_a_deep_record_is_refused(tmp_path):
    """Catches a line of metrics.jsonl that is read and later fails with RecursionError in the page."""
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 0, "x": ' + "[" * 500 + "]" * 500 + '}\n{"step": 1}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl: line 1: must be JSON of at most"):
        list(Records(file))
