""".gitignore: against hand-made cases and against git itself."""

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from tinygpt.data import rules
from tinygpt.data.discover import discover


def names(*arguments, **options):
    return [document.path for document in discover(arguments, **options)[0]]


def skipped(*arguments, **options):
    return dict(discover(arguments, **options)[1].skipped)


def test_ignored_files_and_folders(tmp_path, fill):
    """Catches an ignored folder that is entered, and one that counts once per file."""
    fill(tmp_path, {".gitignore": "*_old.py\nlocal/\n", "a.py": None, "a_old.py": None, "x/b_old.py": None})
    fill(tmp_path, {"local/a.py": "1", "local/b.py": "2", "x/local/c.py": "3", "y/local.py": None})
    assert names(tmp_path) == ["a.py", "y/local.py"]
    assert skipped(tmp_path) == {rules.IGNORED: 4}


def test_the_deepest_gitignore_has_the_first_word(tmp_path, fill):
    """Catches files that are read in another order, and a pattern that is not relative to its own folder."""
    fill(tmp_path, {".gitignore": "a.py\n/x/c.py\n", "x/.gitignore": "!a.py\n/d.py\n"})
    fill(tmp_path, dict.fromkeys(("a.py", "c.py", "d.py", "x/a.py", "x/c.py", "x/d.py", "x/y/d.py", "y/a.py")))
    assert names(tmp_path) == ["c.py", "d.py", "x/a.py", "x/y/d.py"]


def test_an_ignored_folder_cannot_be_taken_back_from_inside(tmp_path, fill):
    """Catches a file below an ignored folder that comes back by a pattern of its own."""
    fill(tmp_path, {".gitignore": "x/\n!x/a.py\n", "x/.gitignore": "!*\n", "x/a.py": None, "b.py": None})
    assert names(tmp_path) == ["b.py"]


@pytest.mark.parametrize("line", ["!/src", "!src", "!src/", "!**/src", "!/**/src/"])
def test_a_folder_that_is_taken_back_does_not_take_back_its_files(tmp_path, fill, line):
    """Catches a match through a folder: git still ignores src/x.py here, perhaps for good reason."""
    fill(tmp_path, {".gitignore": f"x.py\n/*\n{line}\n", "src/x.py": None, "src/a.py": None, "b.py": None})
    assert names(tmp_path) == ["src/a.py"]


def test_rules_of_the_repository_above_hold(tmp_path, fill, repository):
    """Catches a walk that begins to read .gitignore at the directory that was given."""
    root = repository(tmp_path / "root", {".gitignore": "*_old.py\n", "a/.gitignore": "b/c.py\n"})
    fill(root, {"a/b/c.py": None, "a/b/d.py": None, "a/b/d_old.py": None})
    assert names(root / "a" / "b") == ["d.py"]
    assert skipped(root / "a" / "b") == {rules.IGNORED: 2}


def test_rules_beyond_the_repository_do_not_hold(tmp_path, fill, repository):
    """Catches rules of a folder that git would not look into, and of one that is in no repository."""
    fill(tmp_path, {".gitignore": "*.py\n"})
    root = repository(tmp_path / "root", {"a.py": None, "x/b.py": None})
    assert names(root) == ["a.py", "x/b.py"]
    assert names(root / "x") == ["b.py"]
    assert names(fill(tmp_path / "plain", {"c.py": None})) == ["c.py"]


@pytest.mark.parametrize("line", ["out/", "*"])
def test_an_ignored_folder_that_is_named_is_read(tmp_path, fill, repository, line):
    """Catches rules above that leave nothing of a folder that was asked for; its own rules still hold."""
    root = repository(tmp_path, {".gitignore": f"{line}\n", "out/.gitignore": "b.py\n", "out/sub/c.py": None})
    fill(root, {"out/a.py": None, "out/b.py": None})
    assert names(root / "out") == ["a.py", "sub/c.py"]
    assert names(root / "out" / "sub") == ["c.py"]


def test_odd_gitignore_files(tmp_path, fill):
    """Catches a pattern that ends the run, CRLF in a pattern, a mark before it, and bytes that are not UTF-8."""
    lines = [b"\xef\xbb\xbfa.py", b"!", b"\\", b"", b"# c.py", b"b.py  ", b"\xe9.py", b"", b"d\x0be.py"]
    fill(tmp_path, {".gitignore": b"\r\n".join(lines)})
    fill(tmp_path, {"a.py": None, "b.py": None, "c.py": None, "e.py": None})
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9.py")).write_text("latin")
    assert names(tmp_path) == ["c.py", "e.py"]
    assert skipped(tmp_path) == {rules.IGNORED: 3}


def test_a_gitignore_that_cannot_be_read_is_an_error(tmp_path, monkeypatch, fill):
    """Catches private files that are read because the list of them is not readable."""
    fill(tmp_path, {".gitignore": "a.py\n", "a.py": None})

    def read(path, do=Path.read_bytes):
        if path.name == ".gitignore":
            raise PermissionError(13, "Permission denied", str(path))
        return do(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    with pytest.raises(PermissionError, match=r"\.gitignore"):
        discover(tmp_path)


PATTERNS = r"""*.py !a.py a a/ /a b/*.py !b/a.py **/b b/** a/**/b * !*/ !*.py /b/ !a/ [ab].py a* ?.py !b #x \!a.py
    b\ .py */a /* !/a **/a.py a/** ! // *.p[xy] ** a** /**/b/ !/b **/a/b a/**/a/b *.py/ !**/a c.py/* !c.py/a /a/*/b"""
LINES = [*PATTERNS.split(), "", "a.py  "]


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize("seed", range(20))
def test_ignored_is_what_git_ignores(tmp_path, seed, fill):
    """Catches any other reading of random patterns in random trees than git's own."""
    draw = random.Random(seed)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    for i in range(14):
        folder = tmp_path.joinpath(*draw.choices(["a", "b", "c.py"], k=draw.randint(0, 3)))
        file = folder / draw.choice(["a.py", "b.py", "q.py"])
        if not file.is_dir():
            fill(tmp_path, {file.relative_to(tmp_path).as_posix(): f"{seed} {i}"})
    folders = [tmp_path, *sorted({path.parent for path in tmp_path.rglob("*.py") if path.is_file()})]
    for folder in draw.sample(folders, min(len(folders), 3)):
        (folder / ".gitignore").write_text("\n".join(draw.choices(LINES, k=draw.randint(1, 4))))
    command = ["git", "-C", str(tmp_path), "ls-files", "--others", "--exclude-standard", "-z"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    listed = sorted(path for path in output.split("\0") if path.endswith(".py"))
    if listed:
        assert names(tmp_path) == listed
    else:
        with pytest.raises(ValueError, match=r"^no source file in"):
            discover(tmp_path)
