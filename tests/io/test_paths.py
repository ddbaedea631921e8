"""Checks that a path can be written, before any work is done."""

import os
from pathlib import Path

import pytest

from tinygpt.io import paths


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current directory with a file and a directory that is not writable, even for root."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "locked").mkdir()
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked" and allowed(path, mode))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("path", ["new", "new/page", "runs/tiny", "file", "/tmp"], ids=str)
def test_writable_paths_are_accepted(path):
    """Catches a check that refuses a folder that can be created, creates it, or leaves a file behind."""
    before = sorted(Path().iterdir())
    if path != "/tmp":
        paths.check_file(Path(path), "--out")
    if path != "file":
        paths.check_directory(Path(path), "--out")
    assert sorted(Path().iterdir()) == before


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("check", "path", "message"),
    [
        (paths.check_file, ".", "--out .: is a directory, name a file"),
        (paths.check_file, "file/page.html", "--out file/page.html: cannot write in "),
        (paths.check_file, "locked/page.html", "--out locked/page.html: cannot write in "),
        (paths.check_file, "locked/new/page.html", "--out locked/new/page.html: cannot write in "),
        (paths.check_file, "new/below/it/page.html", "--out new/below/it/page.html: the directory new does not exist"),
        (paths.check_file, "/proc/page.html", "--out /proc/page.html: cannot write in /proc"),
        (paths.check_directory, "new/below/run", "--out new/below/run: the directory new does not exist"),
        (paths.check_directory, "/proc/run", "--out /proc/run: no permission to write in /proc"),
        (paths.check_directory, "file", "--out file: file is a file; choose a directory"),
        (paths.check_directory, "file/run", "--out file/run: file is a file; choose a directory"),
        (paths.check_directory, "locked", "--out locked: no permission to write in locked"),
        (paths.check_directory, "locked/run", "--out locked/run: no permission to write in locked"),
    ],
)
def test_unwritable_paths_are_refused(check, path, message):
    """Catches work lost because its result cannot be written, and an error that does not name the path."""
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the text is compared
        check(Path(path), "--out")
    assert str(error.value).startswith(message)
