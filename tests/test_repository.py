"""Checks on the repository's files: map, version, README, generated files and machine paths.

In a checkout, git lists the files; in an unpacked source distribution, the disk does.
"""

import importlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path, PurePosixPath

import pytest

import tinygpt

ROOT = Path(__file__).resolve().parent.parent
IN_GIT = (ROOT / ".git").exists()
# Every file of these kinds is on the map of modules, and every such folder on the map in the README.
MAPPED_FOLDERS = ("csrc/", "tinygpt/", "benchmarks/", "ci/", "tools/")
MAPPED_SUFFIXES = (".py", ".pyx", ".h")
EXERCISES = "tinygpt/gym/exercises/"  # one folder each, all alike; tests/gym holds them complete
LONGEST_SENTENCE = 250  # characters; a longer first sentence does not fit on the map
# A docstring names its subject first, so these words cannot begin one.
UNNAMED = re.compile(
    r'''^[ \t]*[rR]?"""(What|Whatever|Whoever|Who|Those|They|It|As|Of|How many|Whether|Which|Where|When)\b.*''',
    re.MULTILINE,
)
# Files that builds, tests and runs leave behind.
GENERATED = re.compile(
    r"(^|/)(__pycache__|build|dist|_build|_generated|\.[a-z]+_cache|\.hypothesis|\.benchmarks|[^/]+\.egg-info)/"
    r"|^runs/|\.(so|pyd|pyc|o|whl|tmp|log)$|^csrc/.*\.c(pp)?$|^PKG-INFO$|^setup\.cfg$"
)
# A folder of one machine. The look-behind excludes addresses and relative paths.
MACHINE_PATH = re.compile(r"(?<![\w.~*})/])/(root|home|tmp|work|Users|mnt)/\w")


def git(*arguments):
    command = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def tracked():
    """Paths of the repository's files, separated by /."""
    if IN_GIT:
        names = [name for name in git("ls-files", "-z").split("\0") if name]
        return sorted(name for name in names if (ROOT / name).exists())
    files = (path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file())
    return sorted(name for name in files if not GENERATED.search(name))


FILES = tracked()


def mapped():
    """Read the map of folders in the README: ``path   description`` in a text block below ## Map."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"^## Map\n.*?^```text\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert block, "README.md must have a heading '## Map' with a ```text block below it"
    lines = [line.split(maxsplit=1) for line in block[1].splitlines() if line.strip()]
    without = [line[0] for line in lines if len(line) == 1]
    assert not without, f"every line of the map must describe its folder: {without}"
    paths = [path for path, _ in lines]
    assert len(paths) == len(set(paths)), "the map names a path twice"
    return dict(lines)


def tool(monkeypatch, name):
    """Import a program of tools/."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "tools"), *sys.path])
    monkeypatch.delitem(sys.modules, "report", raising=False)
    return importlib.import_module(name)


def test_the_repository_was_found():
    """Catches an empty listing, with which every other test here would pass."""
    assert {"README.md", "pyproject.toml", "csrc/matmul.pyx", "tinygpt/__init__.py"} <= set(FILES)
    assert "tests/test_repository.py" in FILES or IN_GIT


def test_every_module_is_on_the_map(monkeypatch):
    """Catches a module without a docstring, one missing from the map, and a first sentence that is too long."""
    lines = tool(monkeypatch, "module_map").modules()
    wanted = [name for name in FILES if name.startswith(MAPPED_FOLDERS) and name.endswith(MAPPED_SUFFIXES)]
    assert len(wanted) > 50
    assert not set(wanted) - set(lines), "the map leaves these out"
    assert not [name for name in wanted if len(lines[name].split()) < 2], "these need a first sentence"
    assert not [name for name, line in lines.items() if len(line) > LONGEST_SENTENCE], "these first sentences are long"


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("One thing.", "One thing."),
        ("One thing, on\n   two lines. And another.", "One thing, on two lines."),
        ("No stop at all\n\nMore.", "No stop at all"),
        ("As Keskar et al. 2019 do it, eq. (4). Then more.", "As Keskar et al. 2019 do it, eq. (4)."),
        ("Reads config.json and a.b. `x` is next.", "Reads config.json and a.b."),
        ("Check a run. usage: check RUN", "Check a run."),
    ],
)
def test_the_first_sentence_ends_where_it_should(monkeypatch, docstring, sentence):
    """Catches a line of the map cut at an abbreviation, or continued into the next sentence."""
    assert tool(monkeypatch, "module_map").first_sentence(docstring) == sentence


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith((".py", ".pyx", ".pxd"))])
def test_docstrings_name_their_subject(name):
    """Catches a first line that is no sentence on its own, such as "What is counted of one op"."""
    assert not [found[0].strip() for found in UNNAMED.finditer((ROOT / name).read_text(encoding="utf-8"))]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('def f():\n    """What is counted."""', True),
        ('r"""As above."""', True),
        ('"""Whether a run ends."""', True),
        ('"""Tell whether a run ends."""', False),
        ('"""Offset in the file."""', False),
        ('text = """What?"""', False),
    ],
)
def test_the_pattern_finds_docstrings_without_a_subject(text, found):
    """Catches a pattern that finds nothing, or takes any text for a docstring."""
    assert bool(UNNAMED.search(text)) == found


def test_every_folder_is_on_the_map():
    """Catches a new folder that the README's map lacks; hidden folders and single exercises of the gym need no line."""
    entries = mapped()
    folders = {name.partition("/")[0] for name in FILES if "/" in name and not name.startswith(".")}
    folders |= {str(PurePosixPath(name).parent) for name in FILES if name.startswith(MAPPED_FOLDERS)}
    folders = {folder for folder in folders if not folder.startswith(EXERCISES)}
    missing = sorted(folder for folder in folders if f"{folder}/" not in entries)
    assert not missing, f"no line in README.md's map: {missing}"


def test_the_map_names_existing_folders_only():
    """Catches a line of the map whose folder was renamed or removed."""
    known = {f"{folder}/" for name in FILES for folder in map(str, PurePosixPath(name).parents)}
    assert not [path for path in mapped() if path not in known]


@pytest.mark.parametrize("name", FILES)
def test_no_machine_paths(name):
    """Catches a folder of the author's machine in a published file."""
    try:
        text = (ROOT / name).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return  # an image, which contains no text
    found = [line for line in text.splitlines() if MACHINE_PATH.search(line)]
    assert not found


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("see /" + "root/x", True),
        ("'/" + "tmp/x'", True),
        ("/" + "home/me", True),
        ("(/" + "Users/me)", True),
        ("https://example.org/" + "home/page", False),
        ("$HOME/" + "tmp/x and ../" + "work/x", False),
    ],
)
def test_the_pattern_finds_machine_paths(line, found):
    """Catches a pattern that finds nothing, or takes a web address for a path."""
    assert bool(MACHINE_PATH.search(line)) == found


def test_nothing_generated_is_tracked():
    """Catches a build, a cache or a run that was committed."""
    assert not [name for name in FILES if GENERATED.search(name)]
    if IN_GIT:
        assert git("ls-files", "-z", "--cached", "--ignored", "--exclude-standard") == ""


@pytest.mark.parametrize(
    "name",
    ["a/__pycache__/b", "tinygpt/core/x.cpython-311.so", "csrc/matmul.c", "build/x", "docs/_build/x", "runs/tiny/x",
     ".ruff_cache/x", "tinygpt.egg-info/x"],
)  # fmt: skip
def test_the_pattern_finds_generated_files(name):
    """Catches a pattern that finds nothing."""
    assert GENERATED.search(name)


def test_there_is_one_version():
    """Catches a release whose files disagree on the version, and one missing from the changelog."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == tinygpt.__version__
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[:2] == ["Unreleased", tinygpt.__version__]


def filled_part(name):
    """Return the text in README.md between <!-- name --> and <!-- /name -->."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", text, re.DOTALL)
    assert found, f"README.md has no part <!-- {name} -->"
    return found[1].strip()


@pytest.mark.parametrize("name", ["train", "generate"])
def test_the_measured_parts_of_the_readme_are_filled(name):
    """Catches a README without transcripts; tools/readme.py --run makes them."""
    assert filled_part(name)


def test_the_chart_of_the_readme_is_drawn_from_the_data(monkeypatch):
    """Catches a chart edited by hand, or older than the data; tools/ladder_chart.py draws it."""
    program = tool(monkeypatch, "ladder_chart")
    drawn = program.picture(json.loads(program.DATA.read_text(encoding="utf-8")))
    assert program.PICTURE.read_text(encoding="utf-8") == drawn


def test_the_chart_shows_every_measured_rung(monkeypatch):
    """Catches a measured rung or peer that is missing, and bars out of proportion."""
    program = tool(monkeypatch, "ladder_chart")
    found = program.speeds(json.loads(program.DATA.read_text(encoding="utf-8")))
    assert set(found) == set(program.IDEAS)
    drawn = program.PICTURE.read_text(encoding="utf-8")
    widths = [float(width) for width in re.findall(r'<rect class="(?:rung|peer)" [^>]*width="([0-9.]+)"', drawn)]
    ratios = [found[name] / width for name, width in zip(program.IDEAS, widths, strict=True)]
    assert max(ratios) < 1.02 * min(ratios)
