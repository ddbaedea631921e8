"""Checksums of the files in a directory."""

import json

import pytest

from tinygpt.io import checksums


@pytest.fixture
def folder(tmp_path):
    """A directory with two files and their checksums."""
    (tmp_path / "below").mkdir()
    for name in ("a", "below/b"):
        (tmp_path / name).write_text(name)
    checksums.write(tmp_path)
    return tmp_path


def test_unchanged_files_pass(folder):
    """Catches a check that refuses everything, and a refused directory without checksums."""
    checksums.check(folder)
    (folder / "c").write_text("new")
    checksums.check(folder)
    (folder / "a").write_text("changed")
    (folder / checksums.NAME).unlink()
    checksums.check(folder)


@pytest.mark.parametrize("name", ["a", "below/b"])
def test_a_changed_file_is_detected(folder, name):
    """Catches a file that is not checked."""
    (folder / name).write_bytes(b"\0")
    with pytest.raises(ValueError, match=f"{name}: is damaged: its content does not match its checksum"):
        checksums.check(folder)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name}: no such file"):
        checksums.check(folder)


@pytest.mark.parametrize(
    "content",
    ["{}", '{"sha256": []}', json.dumps({"sha256": {"../a": "0" * 64}}), json.dumps({"sha256": {"/a": "0" * 64}}),
     '{"sha256": {"a": "x"}}', '{"sha256": {"a": []}}', '{"sha256": {"a": 1}}', "["],
)  # fmt: skip
def test_an_invalid_list_is_refused(folder, content):
    """Catches a traceback, and a name that leads out of the directory."""
    (folder / checksums.NAME).write_text(content)
    with pytest.raises(ValueError, match=rf"{checksums.NAME}: "):
        checksums.check(folder)
