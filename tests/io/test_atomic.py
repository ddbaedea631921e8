"""Atomic writes: a file or directory is complete, or the old one is still there."""

import os
import stat

import pytest

from tinygpt.io import atomic


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def failing(*args, **kwargs):
    raise OSError(28, "no space left")


@pytest.mark.parametrize("data", [b"", b"\0\r\n\xff", b"x" * 1_000_000])
def test_bytes_arrive_as_they_are(tmp_path, data):
    """Catches text mode, a missing last write, and a temporary file left behind."""
    atomic.write_bytes(tmp_path / "file", data)
    assert (tmp_path / "file").read_bytes() == data
    assert listing(tmp_path) == ["file"]


def test_text_is_utf8_with_unchanged_line_ends(tmp_path):
    """Catches the platform's encoding or line ends."""
    atomic.write_text(tmp_path / "file", "a\nä\r\n日")
    assert (tmp_path / "file").read_bytes() == "a\nä\r\n日".encode()


def test_text_with_a_surrogate_leaves_the_old_file(tmp_path):
    """Catches a file opened before the text is known to be encodable."""
    (tmp_path / "file").write_text("old")
    with pytest.raises(ValueError, match="surrogate"):
        atomic.write_text(tmp_path / "file", "\ud800")
    assert (tmp_path / "file").read_text() == "old"
    assert listing(tmp_path) == ["file"]


def test_a_file_is_replaced_not_overwritten(tmp_path):
    """Catches a write into the old file: a reader that has it open must keep its content."""
    path = tmp_path / "file"
    path.write_text("old content")
    with open(path) as reader:
        atomic.write_text(path, "new")
        assert reader.read() == "old content"
    assert path.read_text() == "new"


def test_permissions_are_those_of_a_new_file(tmp_path):
    """Catches tempfile's mode 0600, which makes files unreadable for others."""
    (tmp_path / "plain").write_text("x")
    atomic.write_text(tmp_path / "file", "x")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_a_link_is_followed(tmp_path):
    """Catches a rename that replaces a link and leaves its target unchanged."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "other" / "file")
    atomic.write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "other" / "file").read_text() == "new"
    assert listing(tmp_path / "other") == ["file"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, call):
    """Catches a temporary file left behind, and a rename before the bytes are on disk."""
    (tmp_path / "file").write_text("old")
    monkeypatch.setattr(os, call, failing)
    with pytest.raises(OSError, match="no space"):
        atomic.write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"
    assert listing(tmp_path) == ["file"]


def test_sync_comes_before_rename_and_the_folder_last(tmp_path, monkeypatch):
    """Catches an order in which a power failure leaves an empty file under the new name."""
    calls = []
    monkeypatch.setattr(os, "replace", lambda a, b, do=os.replace: (calls.append("rename"), do(a, b)))

    def sync(handle, do=os.fsync):
        calls.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        do(handle)

    monkeypatch.setattr(os, "fsync", sync)
    atomic.write_bytes(tmp_path / "file", b"x")
    assert calls == ["file", "rename", "folder"]


def test_a_folder_in_the_way_is_an_error(tmp_path):
    """Catches an error without the path, and a temporary file beside the folder."""
    (tmp_path / "name").mkdir()
    with pytest.raises(ValueError, match=r"name: .* not a regular file"):
        atomic.write_bytes(tmp_path / "name", b"")
    assert listing(tmp_path) == ["name"]


def test_a_missing_folder_is_an_error(tmp_path):
    """Catches parent folders that are created silently."""
    with pytest.raises(FileNotFoundError):
        atomic.write_bytes(tmp_path / "nowhere" / "file", b"")
    assert listing(tmp_path) == []


def tree(folder, text):
    (folder / "below").mkdir(parents=True)
    (folder / "a").write_text(text)
    (folder / "below" / "b").write_text(text)
    return folder


def test_a_directory_gets_its_name(tmp_path):
    """Catches a copy without subfolders, and a temporary directory left behind."""
    atomic.replace_directory(tree(tmp_path / "tmp", "new"), tmp_path / "step-1")
    assert listing(tmp_path) == ["step-1"]
    assert (tmp_path / "step-1" / "below" / "b").read_text() == "new"


def test_every_file_and_folder_is_synced_before_the_rename(tmp_path, monkeypatch):
    """Catches a file in a subfolder, or the subfolder's own entries, lost in a power failure."""
    source = tree(tmp_path / "tmp", "new")
    inodes = {path.stat().st_ino for path in [source, *source.rglob("*")]}
    synced = set()
    at_rename = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.add(os.fstat(handle).st_ino))
    monkeypatch.setattr(os, "rename", lambda a, b, do=os.rename: (at_rename.append(set(synced)), do(a, b)))
    atomic.replace_directory(source, tmp_path / "final")
    assert at_rename == [inodes]
    assert tmp_path.stat().st_ino in synced


def test_an_old_directory_is_replaced_as_a_whole(tmp_path):
    """Catches a merge of both: files that only the old directory has must be gone."""
    tree(tmp_path / "final", "old")
    (tmp_path / "final" / "only-old").write_text("old")
    atomic.replace_directory(tree(tmp_path / "tmp", "new"), tmp_path / "final")
    assert listing(tmp_path) == ["final"]
    assert listing(tmp_path / "final") == ["a", "below"]
    assert (tmp_path / "final" / "a").read_text() == "new"


def test_a_failed_rename_puts_the_old_directory_back(tmp_path, monkeypatch):
    """Catches an old checkpoint lost because the new one could not be moved."""
    tree(tmp_path / "final", "old")
    source = tree(tmp_path / "tmp", "new")

    def rename(a, b, do=os.rename):
        failing() if os.fspath(a) == os.fspath(source) else do(a, b)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(OSError, match="no space"):
        atomic.replace_directory(source, tmp_path / "final")
    assert listing(tmp_path) == ["final", "tmp"]
    assert (tmp_path / "final" / "a").read_text() == "old"
    assert (tmp_path / "tmp" / "a").read_text() == "new"


def test_only_directories_are_moved_and_replaced(tmp_path):
    """Catches a file renamed to a checkpoint's name, and a user's file removed for one."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "tmp").mkdir()
    with pytest.raises(ValueError, match="file: must be a directory"):
        atomic.replace_directory(tmp_path / "file", tmp_path / "final")
    with pytest.raises(ValueError, match=r"file: .* not a directory"):
        atomic.replace_directory(tmp_path / "tmp", tmp_path / "file")
    assert listing(tmp_path) == ["file", "tmp"]


def test_a_temporary_directory_is_hidden_and_goes_away(tmp_path):
    """Catches a directory left behind after an error, one with a visible name, and one that cannot be moved."""
    with pytest.raises(OSError, match="no space left"), atomic.temporary_directory(tmp_path / "step-1"):
        failing()
    assert listing(tmp_path) == []
    with atomic.temporary_directory(tmp_path / "step-1") as made:
        assert made.parent == tmp_path
        assert made.name.startswith(".step-1.")
        (made / "file").write_text("whole")
        atomic.replace_directory(made, tmp_path / "step-1")
    assert listing(tmp_path) == ["step-1"]


def test_a_removal_that_is_killed_leaves_no_half_directory(tmp_path, monkeypatch):
    """Catches a directory that is emptied under its own name."""
    (tmp_path / "step-1").mkdir()
    (tmp_path / "step-1" / "file").write_text("whole")
    monkeypatch.setattr(atomic.shutil, "rmtree", failing)
    with pytest.raises(OSError, match="no space left"):
        atomic.remove_directory(tmp_path / "step-1")
    monkeypatch.undo()
    (left,) = listing(tmp_path)
    assert left.startswith(".step-1.")
    atomic.remove_leftovers(tmp_path, "step-[0-9]+")
    assert listing(tmp_path) == []


def test_leftovers_are_removed_and_nothing_else(tmp_path):
    """Catches removal of unrelated names, and an old tree that stays hidden although its replacement is missing."""
    kept = [".cache", ".step-2.0123abc.tmp", ".step-x.0123abcd.tmp", "step-2"]
    tree(tmp_path / ".step-1.0123abcd.old", "whole")
    for name in [*kept, ".step-1.0123abcd.tmp", ".step-2.0123abcd.old", ".step-3.89abcdef.tmp"]:
        (tmp_path / name).mkdir()
    for name in (".step-4.0123abcd.tmp", ".step-5.tmp"):
        (tmp_path / name).write_text("a file")
    (tmp_path / ".step-6.0123abcd.tmp").symlink_to(tmp_path / "step-2")
    atomic.remove_leftovers(tmp_path, "step-[0-9]+")
    assert listing(tmp_path) == sorted([*kept, ".step-5.tmp", ".step-6.0123abcd.tmp", "step-1"])
    assert (tmp_path / "step-1" / "a").read_text() == "whole"


def test_the_names_of_new_directories_are_synced(tmp_path, monkeypatch):
    """Catches a directory that a power cut takes away with all the synced files in it."""
    synced = []
    monkeypatch.setattr(atomic, "sync_folder", lambda folder: synced.append(folder))
    atomic.make_directory(tmp_path / "a" / "b" / "c")
    atomic.make_directory(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b" / "c").is_dir()
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
