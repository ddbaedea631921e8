"""Finding and reading files: which files are taken, which are skipped, and how the summary counts them."""

import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from tinygpt.data import rules
from tinygpt.data.discover import Document, Summary, discover


def names(*arguments, **options):
    return [document.path for document in discover(arguments, **options)[0]]


def skipped(*arguments, **options):
    return dict(discover(arguments, **options)[1].skipped)


# Directories


def test_a_directory_is_read_in_the_order_of_its_paths(tmp_path, fill):
    """Catches the file system's order, a folder that is not entered, and a path relative to the wrong root."""
    fill(tmp_path, {"b.py": None, "a/z.go": None, "a.c": None, "a/b/c.pyx": None, "B.py": None, "notes.txt": None})
    documents, _ = discover(tmp_path)
    assert [document.path for document in documents] == ["B.py", "a.c", "a/b/c.pyx", "a/z.go", "b.py"]
    assert documents[0] == Document("B.py", "# B.py\n")


def test_the_current_directory(tmp_path, monkeypatch, fill):
    """Catches a path that begins with ./, and "." skipped as a hidden folder."""
    fill(tmp_path, {"a/b.py": None})
    monkeypatch.chdir(tmp_path)
    assert names(".") == ["a/b.py"]


def test_paths_do_not_depend_on_where_the_tree_is(tmp_path, fill):
    """Catches an absolute path, which would change the validation split on another machine."""
    for place in ("here", "there/below"):
        fill(tmp_path / place, {"x/a.py": "a", "b.py": "b"})
    assert names(tmp_path / "here") == names(tmp_path / "there" / "below") == ["b.py", "x/a.py"]


def test_several_arguments(tmp_path, fill):
    """Catches two files of the same name merged into one, and a file counted once per argument."""
    fill(tmp_path, {"a/x.py": "1", "b/x.py": "2", "b/c/y.py": "3"})
    assert names(tmp_path / "a", tmp_path / "b") == ["a/x.py", "b/c/y.py", "b/x.py"]
    assert names(tmp_path / "b" / "x.py", tmp_path / "b", tmp_path / "b" / "c") == ["c/y.py", "x.py"]
    assert skipped(tmp_path, tmp_path / "b") == {}


def test_a_deep_tree(tmp_path, fill):
    """Catches a recursive walk, which fails at the recursion limit."""
    fill(tmp_path, {"d/" * 200 + "a.py": None})
    depth = 0
    while True:
        try:
            sys._getframe(depth)
        except ValueError:
            break
        depth += 1
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(depth + 150)
    try:
        documents, _ = discover(tmp_path)
    finally:
        sys.setrecursionlimit(before)
    assert [document.path for document in documents] == ["d/" * 200 + "a.py"]


# Files that are skipped within a directory


def test_hidden_files_and_folders(tmp_path, fill):
    """Catches a hidden folder that is read or counted once per file, and .git in the count."""
    fill(tmp_path, {"a.py": None, ".b.py": None, ".c/d.py": None, ".c/e.py": None, ".git/hooks/f.py": None})
    assert names(tmp_path) == ["a.py"]
    assert skipped(tmp_path) == {rules.HIDDEN: 2}


def test_binary_empty_and_not_utf8(tmp_path, fill):
    """Catches a late NUL byte, a file of blanks, and Latin-1 decoded with replacement characters."""
    fill(tmp_path, {"a.py": None, "nul.py": b"x" * 100_000 + b"\0", "empty.py": "", "blank.py": " \n\r\n"})
    fill(tmp_path, {"latin.py": "# é".encode("latin-1"), "cut.py": "日".encode()[:2]})
    assert names(tmp_path) == ["a.py"]
    assert skipped(tmp_path) == {rules.BINARY: 1, rules.EMPTY: 2, rules.NOT_UTF8: 2}


def test_byte_order_mark_and_line_ends(tmp_path, fill):
    """Catches a byte order mark in the vocabulary, and CR LF that a model would have to learn."""
    fill(tmp_path, {"a.py": b"\xef\xbb\xbfa\r\nb\n\r\nc\rd \xef\xbb\xbf"})
    assert discover(tmp_path)[0][0].text == "a\nb\n\nc\rd \ufeff"


def test_of_equal_files_the_first_is_kept(tmp_path, fill):
    """Catches a copy in both splits, also one that differs in line ends only."""
    fill(tmp_path, {"c.py": "x\ny\n", "a/b.py": "x\r\ny\r\n", "b.py": b"\xef\xbb\xbfx\ny\n", "d.py": "x\ny"})
    assert names(tmp_path) == ["a/b.py", "d.py"]
    assert skipped(tmp_path) == {rules.DUPLICATE: 2}


def test_links_within_a_directory_are_not_followed(tmp_path, fill):
    """Catches an endless loop, files outside the directory, and a file counted twice."""
    outside = fill(tmp_path / "outside", {"secret.py": None})
    inside = fill(tmp_path / "inside", {"a.py": None, "sub/b.py": None})
    (inside / "loop").symlink_to(inside)
    (inside / "sub" / "up").symlink_to("..")
    (inside / "self.py").symlink_to("self.py")
    (inside / "out").symlink_to(outside)
    (inside / "out.py").symlink_to(outside / "secret.py")
    (inside / "twice.py").symlink_to("a.py")
    (inside / "broken.py").symlink_to("nowhere")
    (inside / "other.txt").symlink_to("nowhere")
    assert names(inside) == ["a.py", "sub/b.py"]
    assert skipped(inside) == {rules.LINK: 7}


def test_a_link_that_is_named_is_followed(tmp_path, fill):
    """Catches a link given as argument and skipped like one within a directory."""
    inside = fill(tmp_path / "inside", {"a.py": None})
    (tmp_path / "link").symlink_to(inside)
    (tmp_path / "one").symlink_to(inside / "a.py")
    assert names(tmp_path / "link") == ["a.py"]
    assert names(tmp_path / "one") == ["a.py"]


def test_special_files_are_skipped(tmp_path, fill):
    """Catches a read that blocks for ever at a named pipe."""
    fill(tmp_path, {"a.py": None})
    os.mkfifo(tmp_path / "pipe.py")
    assert names(tmp_path) == ["a.py"]
    assert skipped(tmp_path) == {rules.SPECIAL: 1}
    with pytest.raises(ValueError, match=r"pipe\.py': must be a directory or a regular file"):
        discover(tmp_path / "pipe.py")


def test_files_and_folders_that_cannot_be_read(tmp_path, monkeypatch, fill):
    """Catches a PermissionError that ends the run because of one file.

    The calls are replaced, because root may read everything.
    """
    fill(tmp_path, {"a.py": None, "b.py": None, "shut/c.py": None})

    def read(path, do=Path.read_bytes):
        if path.name == "b.py":
            raise PermissionError(13, "Permission denied", str(path))
        return do(path)

    def scan(path, do=os.scandir):
        if os.fspath(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return do(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    monkeypatch.setattr(os, "scandir", scan)
    assert names(tmp_path) == ["a.py"]
    assert skipped(tmp_path) == {rules.UNREADABLE: 2}


# Files given by name


def test_a_named_file_is_always_taken(tmp_path, repository):
    """Catches rules applied to a named file: tinyshakespeare.txt is not source code and larger than 1 MB."""
    repository(tmp_path, {".gitignore": "*.txt\n", "big.txt": "x" * 1_100_000, "build/.a.min.js": "// do not edit\nx"})
    documents, summary = discover([tmp_path / "big.txt", tmp_path / "build" / ".a.min.js"])
    assert [document.path for document in documents] == ["big.txt", "build/.a.min.js"]
    assert summary.extensions == Counter({".txt": 1, ".js": 1})
    assert not summary.skipped


def test_a_named_file_is_not_counted_as_skipped(tmp_path, fill):
    """Catches a file counted as both read and skipped, in either order of the arguments."""
    fill(tmp_path, {".gitignore": "b.py\n", "a.py": None, "b.py": None, "c.txt": None})
    for arguments in ([tmp_path, tmp_path / "b.py"], [tmp_path / "b.py", tmp_path]):
        documents, summary = discover(arguments)
        assert [document.path for document in documents] == ["a.py", "b.py"]
        assert not summary.skipped


def test_a_named_binary_is_an_error(tmp_path, fill):
    """Catches an image that is skipped silently although the user named it."""
    fill(tmp_path, {"a.png": b"\x89PNG\0", "b.py": None})
    with pytest.raises(ValueError, match=r"a\.png': must be text in UTF-8, got a binary file") as caught:
        discover([tmp_path / "b.py", tmp_path / "a.png"])
    assert str(tmp_path / "a.png") in str(caught.value)


def test_a_home_directory(tmp_path, monkeypatch, fill):
    """Catches a quoted ~ that is not expanded."""
    monkeypatch.setenv("HOME", str(tmp_path))
    fill(tmp_path, {"src/a.py": None})
    assert names("~/src") == ["a.py"]
    assert names("~/src/*.py") == ["a.py"]


# Globs


GLOB_TREE = ("a.py", "b.txt", "c.md", "x/a.py", "x/b.txt", "x/y/a.py", "x/y/b.txt", "z1/a.py", "z1/README")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.py", "a.py"),
        ("*", "a.py x/a.py x/y/a.py z1/a.py"),
        ("*.txt", "b.txt"),
        ("**/*.txt", "b.txt x/b.txt x/y/b.txt"),
        ("x/**/*.txt", "b.txt y/b.txt"),
        ("x/**", "a.py y/a.py"),
        ("*/a.py", "x/a.py z1/a.py"),
        ("**/y/*.py", "x/y/a.py"),
        ("z?", "z1/a.py"),
        ("[xz]*/*.[pt]*", "x/a.py x/b.txt z1/a.py"),
        ("z*/README", "z1/README"),
        ("x/../z*/a.py", "z1/a.py"),
    ],
)
def test_globs(tmp_path, monkeypatch, fill, pattern, expected):
    """Catches * that crosses a slash, ** that does not, an ignored extension in a glob, and a wrong root."""
    fill(tmp_path, dict.fromkeys(GLOB_TREE))
    assert names(tmp_path / pattern) == expected.split()
    monkeypatch.chdir(tmp_path)
    assert names(pattern) == expected.split()


def test_a_glob_skips_what_a_directory_skips(tmp_path, fill):
    """Catches a glob that reads ignored, hidden or secret files, and skipped files that it does not match."""
    fill(
        tmp_path,
        {".gitignore": "b.txt\n", "a.txt": None, "b.txt": None, ".c.txt": None, "k.pem": None, ".d/e.txt": None},
    )
    assert names(tmp_path / "*.txt") == ["a.txt"]
    assert skipped(tmp_path / "*.txt") == {rules.IGNORED: 1, rules.HIDDEN: 1}
    assert skipped(tmp_path / "*.txt", tmp_path / "*.pem")[rules.SECRET] == 1


def test_a_name_with_brackets_is_not_a_glob(tmp_path, fill):
    """Catches an existing file that is searched for as a pattern."""
    fill(tmp_path, {"a[1].py": "1", "a1.py": "2", "d[1]/x.py": "3"})
    assert names(tmp_path / "a[1].py") == ["a[1].py"]
    assert names(tmp_path / "d[1]") == ["x.py"]


# Errors


def test_a_missing_path_is_named(tmp_path, fill):
    """Catches an empty corpus where a path is missing."""
    fill(tmp_path, {"a.py": None})
    (tmp_path / "broken").symlink_to("nowhere")
    for missing in (tmp_path / "nosuch", tmp_path / "broken", tmp_path / "a.py" / "x", ""):
        with pytest.raises(FileNotFoundError, match=f"^'{missing}': no such file or directory$"):
            discover([tmp_path, missing])
    for pattern in (tmp_path / "*.go", tmp_path / "nosuch" / "*.py", tmp_path / "a.py" / "*"):
        with pytest.raises(FileNotFoundError, match="': no source file matches") as caught:
            discover([tmp_path, pattern])
        assert str(pattern) in str(caught.value)


def test_a_glob_may_match_files_given_before(tmp_path, fill):
    """Catches a glob reported as without a match because its files are already known."""
    fill(tmp_path, {"a.py": None})
    assert names(tmp_path, tmp_path / "*.py") == ["a.py"]


def test_no_file_to_read(tmp_path, fill):
    """Catches an error that does not name the place, the reason and the fix."""
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match=r"no source file in .*empty; give a directory, a file or a quoted glob$"):
        discover(empty)
    fill(tmp_path / "prose", {"a.txt": None, "b.txt": None, "c.md": None, "none": None})
    with pytest.raises(ValueError, match=r"^\[discover\] no source file in .*prose; .* give 'extensions' \.txt,\.md$"):
        discover(tmp_path / "prose")
    fill(tmp_path / "bad", {"a.py": "", "b.py": b"\0", "c.py": ""})
    with pytest.raises(ValueError, match=r"\(3 skipped: 2 empty, 1 binary\); a file must be readable UTF-8 text"):
        discover(tmp_path / "bad")
    for name, data, reason in (("e.py", "\n", "empty"), ("l.py", b"\xe9", "not UTF-8")):
        fill(tmp_path / "one", {name: data})
        with pytest.raises(ValueError, match=rf"\(1 skipped: 1 {reason}\); a file must be readable UTF-8 text"):
            discover(tmp_path / "one" / name)
    fill(tmp_path / "named", {".a.py": None, "b.min.js": None, "c.py": ""})
    with pytest.raises(ValueError, match=r"; files that are hidden or generated are read if you give their own paths$"):
        discover(tmp_path / "named")
    assert names(tmp_path / "named" / ".a.py", tmp_path / "named" / "b.min.js") == [".a.py", "b.min.js"]
    with pytest.raises(ValueError, match=r"^\[discover\] no source file in no argument"):
        discover([])


# The summary


def test_the_summary_counts(tmp_path, fill):
    """Catches bytes counted as characters, sizes before CR is removed, and skipped files in the count."""
    fill(tmp_path, {"a.py": "é\r\n", "b.PY": "日\n", "c.go": "x", "d.py": ""})
    _, summary = discover(tmp_path)
    assert (summary.files, summary.characters, summary.bytes) == (3, 5, 8)
    assert summary.extensions == Counter({".py": 2, ".go": 1})
    assert summary.skipped == Counter({rules.EMPTY: 1})


def test_the_line_of_the_summary():
    """Catches extensions not sorted by count, and wrong singular or plural forms."""
    skipped_files = Counter({rules.IGNORED: 22, rules.DUPLICATE: 6, rules.BINARY: 3})
    summary = Summary(214, 1_800_000, 1_900_000, Counter({".h": 1, ".pyx": 13, ".py": 200}), skipped_files)
    assert summary.describe() == (
        "214 files, 1.9 MB of .py .pyx .h  (31 skipped: 22 ignored by .gitignore, 6 duplicates, 3 binary)"
    )
    assert Summary(1, 9, 12, Counter({"": 1})).describe() == "1 file, 12 bytes"
    one_each = Counter({rules.DUPLICATE: 1, rules.LINK: 1, rules.SECRET: 1})
    assert Summary(1, 9, 1200, Counter({".c": 1}), one_each).describe() == (
        "1 file, 1.2 kB of .c  (3 skipped: 1 duplicate, 1 possible secret, 1 symbolic link)"
    )
    many = Counter({f".{letter}": 1 for letter in "abcdefgh"})
    assert Summary(8, 1, 1, many).describe().endswith("of .a .b .c .d .e .f and 2 more")


def test_old_mac_line_ends_are_read(tmp_path, fill):
    """Catches a file with CR line ends skipped as minified. CR within other texts stays."""
    fill(tmp_path, {"a.py": b"x = 1\r" * 500, "b.py": b"y = '\r'\n"})
    documents, summary = discover(tmp_path)
    assert [document.text for document in documents] == ["x = 1\n" * 500, "y = '\r'\n"]
    assert not summary.skipped


def test_text_that_is_not_source_is_reported(tmp_path, fill):
    """Catches documentation that is skipped silently although a user may expect it to be read."""
    fill(tmp_path, {"a.py": "1", "a.rst": "2", "b.rst": "3", "c.html": "4", "d.bin": "5"})
    summary = discover(tmp_path)[1]
    assert summary.passed_over() == "2 .rst, 1 .html"
    assert discover([tmp_path / "a.py"])[1].passed_over() == ""


def test_a_named_file_with_a_token_is_an_error(tmp_path, fill):
    """Catches secrets that are read because the file was given by name."""
    fill(tmp_path, {"a.py": 'key = "AKIA' + "A1" * 8 + '"\n', ".env": "PASSWORD=1\n"})
    for name in ("a.py", ".env"):
        with pytest.raises(ValueError, match="looks like a password or a private key"):
            discover([tmp_path / name])
