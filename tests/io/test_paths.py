"""Checks that a path can be written, before any work is done."""

import os
from pathlib import Path

import pytest

from tinygpt.io import paths


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current directory with a file and a directory that may not be written in, also for root."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "locked").mkdir()
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked" and allowed(path, mode))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("path", ["new", "new/below/it", "file", "/"], ids=str)
def test_what_can_be_written_is_accepted(path):
    """Catches a check that refuses folders which are yet to be made, and one that makes them."""
    if path != "/":
        paths.check_file(Path(path), "--out")
    if path != "file":
        paths.check_directory(Path(path), "--out")
    assert not Path("new").exists()


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("check", "path", "message"),
    [
        (paths.check_file, ".", "--out .: is a directory, name a file"),
        (paths.check_file, "file/page.html", "--out file/page.html: cannot write in "),
        (paths.check_file, "locked/page.html", "--out locked/page.html: cannot write in "),
        (paths.check_file, "locked/new/page.html", "--out locked/new/page.html: cannot write in "),
        (paths.check_directory, "file", "--out file: file is a file; choose a directory"),
        (paths.check_directory, "file/run", "--out file/run: file is a file; choose a directory"),
        (paths.check_directory, "locked", "--out locked: no permission to write in locked"),
        (paths.check_directory, "locked/run", "--out locked/run: no permission to write in locked"),
    ],
)
def test_what_cannot_be_written_is_refused(check, path, message):
    """Catches work that is lost because its result cannot be written, and an error that does not name the path."""
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the text is compared
        check(Path(path), "--out")
    assert str(error.value).startswith(message)
