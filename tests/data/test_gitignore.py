""".gitignore: hand-written cases, and random ones compared with git."""

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from tinygpt.data import rules
from tinygpt.data.discover import discover
from tinygpt.data.gitignore import Rules
from tinygpt.data.wildmatch import translate


def names(*arguments, **options):
    return [document.path for document in discover(arguments, **options)[0]]


def skipped(*arguments, **options):
    return dict(discover(arguments, **options)[1].skipped)


def test_ignored_files_and_folders(tmp_path, fill):
    """Catches an ignored folder that is entered, and one that is counted once per file."""
    fill(tmp_path, {".gitignore": "*_old.py\nlocal/\n", "a.py": None, "a_old.py": None, "x/b_old.py": None})
    fill(tmp_path, {"local/a.py": "1", "local/b.py": "2", "x/local/c.py": "3", "y/local.py": None})
    assert names(tmp_path) == ["a.py", "y/local.py"]
    assert skipped(tmp_path) == {rules.IGNORED: 4}


def test_the_deepest_gitignore_takes_precedence(tmp_path, fill):
    """Catches files applied in the wrong order, and a pattern not relative to its own folder."""
    fill(tmp_path, {".gitignore": "a.py\n/x/c.py\n", "x/.gitignore": "!a.py\n/d.py\n"})
    fill(tmp_path, dict.fromkeys(("a.py", "c.py", "d.py", "x/a.py", "x/c.py", "x/d.py", "x/y/d.py", "y/a.py")))
    assert names(tmp_path) == ["c.py", "d.py", "x/a.py", "x/y/d.py"]


def test_an_ignored_folder_cannot_be_included_from_inside(tmp_path, fill):
    """Catches a file below an ignored folder that its own pattern includes again."""
    fill(tmp_path, {".gitignore": "x/\n!x/a.py\n", "x/.gitignore": "!*\n", "x/a.py": None, "b.py": None})
    assert names(tmp_path) == ["b.py"]


@pytest.mark.parametrize("line", ["!/src", "!src", "!src/", "!**/src", "!/**/src/"])
def test_including_a_folder_does_not_include_its_ignored_files(tmp_path, fill, line):
    """Catches a pattern for a folder applied to its files: git still ignores src/x.py here."""
    fill(tmp_path, {".gitignore": f"x.py\n/*\n{line}\n", "src/x.py": None, "src/a.py": None, "b.py": None})
    assert names(tmp_path) == ["src/a.py"]


def test_rules_of_the_repository_above_apply(tmp_path, fill, repository):
    """Catches .gitignore files above the given directory that are not read."""
    root = repository(tmp_path / "root", {".gitignore": "*_old.py\n", "a/.gitignore": "b/c.py\n"})
    fill(root, {"a/b/c.py": None, "a/b/d.py": None, "a/b/d_old.py": None})
    assert names(root / "a" / "b") == ["d.py"]
    assert skipped(root / "a" / "b") == {rules.IGNORED: 2}


def test_rules_outside_the_repository_do_not_apply(tmp_path, fill, repository):
    """Catches rules from a folder above the repository, or without any repository."""
    fill(tmp_path, {".gitignore": "*.py\n"})
    root = repository(tmp_path / "root", {"a.py": None, "x/b.py": None})
    assert names(root) == ["a.py", "x/b.py"]
    assert names(root / "x") == ["b.py"]
    assert names(fill(tmp_path / "plain", {"c.py": None})) == ["c.py"]


@pytest.mark.parametrize("line", ["out/", "*"])
def test_an_ignored_folder_that_is_named_is_read(tmp_path, fill, repository, line):
    """Catches a named folder skipped because rules above ignore it. Its own rules still apply."""
    root = repository(tmp_path, {".gitignore": f"{line}\n", "out/.gitignore": "b.py\n", "out/sub/c.py": None})
    fill(root, {"out/a.py": None, "out/b.py": None})
    assert names(root / "out") == ["a.py", "sub/c.py"]
    assert names(root / "out" / "sub") == ["c.py"]


def test_odd_gitignore_files(tmp_path, fill):
    """Catches a malformed pattern that ends the run, CRLF, a byte order mark, and bytes that are not UTF-8."""
    lines = [b"\xef\xbb\xbfa.py", b"!", b"\\", b"", b"# c.py", b"b.py  ", b"\xe9.py", b"", b"d\x0be.py"]
    fill(tmp_path, {".gitignore": b"\r\n".join(lines)})
    fill(tmp_path, {"a.py": None, "b.py": None, "c.py": None, "e.py": None})
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9.py")).write_text("latin")
    assert names(tmp_path) == ["c.py", "e.py"]
    assert skipped(tmp_path) == {rules.IGNORED: 3}


def test_a_gitignore_that_cannot_be_read_is_an_error(tmp_path, monkeypatch, fill):
    """Catches private files that are read because their .gitignore is not readable."""
    fill(tmp_path, {".gitignore": "a.py\n", "a.py": None})

    def read(path, do=Path.read_bytes):
        if path.name == ".gitignore":
            raise PermissionError(13, "Permission denied", str(path))
        return do(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    with pytest.raises(PermissionError, match=r"\.gitignore"):
        discover(tmp_path)


# Pieces of patterns: every construct that is special to git's wildmatch, well formed or not.
WORDS = r"""a b c.py a.py *.py * ** ** / / / ? ! \\ \* \! [ ] - ^ # [ab] [!a] [^a] [a-c] [c-a] [z-a].py [] []] [!]]
    [a/b] [a\-c] [[:digit:]] [[:alpha:]] [[:upper:]] [[:punct:]] [[:space:]] [[:none:]] [[:digit:] [:digit:] [a-] [-a]
    [\]] [a-\c] **/ /** /**/ a* *a ?.py [!a].py 5.py é é.py [é] [!é] ~ src src/ */ A.PY a?b /a?b /a[!x]b /a*b /a*.py
    """
PIECES = [*WORDS.split(), " ", "\t", "\r", r"\ ", "a.py ", "a.py\t", "src/\r"]
NAMES = ["a.py", "b.py", "c.py", "5.py", "é.py", "é", "a", "b", "src", "-.py", "].py", "[.py", "!a.py", "#a.py", "A.PY",
         "a.py ", "a.py\t", "*.py", "\\.py", "aa.py", "a-c.py", "^.py"]  # fmt: skip
TREES_AT_ONCE = 40


def random_tree(root, draw):
    """Fill a folder with files of unusual names, and up to three of its folders with random .gitignore files."""
    for i in range(16):
        folder = root.joinpath(*draw.choices(["a", "b", "src", "é", "c.py"], k=draw.randint(0, 3)))
        if not any(place.is_file() for place in (folder, *folder.parents)):
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / draw.choice(NAMES)
            if not file.is_dir():
                file.write_text(f"{draw.random()} {i}")
    folders = [root, *sorted(path for path in root.rglob("*") if path.is_dir())]
    for folder in draw.sample(folders, min(len(folders), 3)):
        lines = ["".join(draw.choices(PIECES, k=draw.randint(1, 5))) for _ in range(draw.randint(1, 4))]
        text = draw.choice(["\n", "\n", "\r\n"]).join(lines) + draw.choice(["", "\n", "\r"])
        (folder / ".gitignore").write_bytes(text.encode())


@pytest.fixture(scope="module")
def git_directory(tmp_path_factory):
    """An empty repository shared by all trees, because `git init` takes longer than a query."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    directory = tmp_path_factory.mktemp("git")
    subprocess.run(["git", "init", "-q", "--bare", str(directory)], check=True)
    return directory


def not_ignored_by_git(git_directory, tree, fold=False):
    """List the files that git would add, without the .gitignore files."""
    command = ["git", "--git-dir", str(git_directory), "--work-tree", str(tree), "-c", "core.bare=false"]
    command += ["-c", f"core.ignorecase={str(fold).lower()}"]
    command += ["-c", "core.excludesFile=", "ls-files", "--others", "--exclude-standard", "-z"]
    output = subprocess.run(command, check=True, capture_output=True, cwd=tree).stdout
    return sorted(name for name in os.fsdecode(output).split("\0") if name and not name.endswith(".gitignore"))


def not_ignored_by_us(folder, above):
    """Walk a folder and list the files that our rules do not ignore."""
    rules_here, found = above.inside(str(folder)), []
    for entry in os.scandir(folder):
        if entry.name == ".gitignore" or rules_here.ignores(entry.path, entry.is_dir()):
            continue
        found += not_ignored_by_us(entry.path, rules_here) if entry.is_dir() else [entry.path]
    return found


@pytest.mark.parametrize("seed", range(10))
def test_ignored_is_what_git_ignores(tmp_path, seed, git_directory):
    """Catches any difference from git for random patterns in random trees."""
    draw = random.Random(seed)
    for i in range(TREES_AT_ONCE):
        tree = tmp_path / str(i)
        tree.mkdir()
        random_tree(tree, draw)
        fold = i % 4 == 0  # core.ignorecase, which git sets where the file system ignores case
        ours = sorted(os.path.relpath(path, tree) for path in not_ignored_by_us(tree, Rules(fold=fold)))
        texts = {str(p.relative_to(tree)): p.read_bytes() for p in tree.rglob(".gitignore")}
        assert ours == not_ignored_by_git(git_directory, tree, fold), (fold, texts)


CLASSES = ("alnum", "alpha", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "xdigit")
SETS = [f"[[:{name}:]]" for name in CLASSES] + [f"[![:{name}:]]" for name in CLASSES]


@pytest.mark.parametrize(
    "pattern", [*SETS, "?", "[!a]", "[a-]", "[+--]", "[a-\\c]", "[\\]]", "a?b", "a[!x]b", "a*b", "*b"]
)
def test_single_bytes_are_matched_as_git_does(tmp_path, pattern, git_directory):
    """Catches a byte missing from or added to a class or set, and a wildcard that matches a slash."""
    names = [bytes([byte]) for byte in range(1, 256) if byte not in b"/."] + [b"axb"]
    for name in names:
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).write_text("x")
    os.makedirs(tmp_path / "nested" / "a", exist_ok=True)
    (tmp_path / "nested" / "a" / "b").write_text("x")
    (tmp_path / "nested" / ".gitignore").write_text(f"/{pattern}\n")
    (tmp_path / ".gitignore").write_text(f"{pattern}\n")
    ours = sorted(os.path.relpath(path, tmp_path) for path in not_ignored_by_us(tmp_path, Rules()))
    assert ours == not_ignored_by_git(git_directory, tmp_path)


def test_git_config_and_info_exclude_are_read(tmp_path, fill, repository):
    """Catches an ignored core.ignorecase, with which Secret.py matches secret.py, or .git/info/exclude."""
    root = repository(tmp_path, {".gitignore": "secret.py\n", "Secret.py": None, "own.py": None, "a.py": None})
    fill(root, {".git/config": "[core]\n\tignorecase = true\n", ".git/info/exclude": "/own.py\n"})
    assert names(root) == ["a.py"]
    fill(root, {".git/config": "[core]\n\tignorecase = false\n"})
    assert names(root) == ["Secret.py", "a.py"]


def test_a_gitignore_that_is_a_link_is_not_followed(tmp_path, fill):
    """Catches a .gitignore link to a file outside the tree; git does not follow it either."""
    fill(tmp_path, {"outside": "a.py\n", "tree/a.py": None})
    (tmp_path / "tree" / ".gitignore").symlink_to(tmp_path / "outside")
    assert names(tmp_path / "tree") == ["a.py"]


@pytest.mark.parametrize("pattern", [b"*a" * 40 + b"b", b"**/*a/" * 20 + b"b", b"*?" * 60 + b"b", b"**/" * 60 + b"b"])
def test_a_hostile_pattern_takes_no_exponential_time(pattern):
    """Catches backtracking over every way to divide a name among the wildcards."""
    regex = translate(pattern)
    assert not regex.match(b"aaaaaaaaa/" * 20 + b"c")
    assert not regex.match(b"a" * 250)
