"""Running from a source tree without kernels: an installed tinygpt of the same version provides them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tinygpt
from tinygpt.core import matmul

PACKAGE = Path(tinygpt.__file__).parent
BUILT = Path(matmul.__file__)

# Started without site-packages and environment, so that only the given paths can provide a tinygpt.
PROGRAM = """
import sys
sys.path[:0] = sys.argv[1:]
try:
    import tinygpt.core.matmul, tinygpt.core.cpu
except ImportError as error:
    print(type(error).__name__, error, sep=": ")
else:
    print(tinygpt.__file__, tinygpt.core.matmul.__file__, tinygpt.core.cpu.__file__, sep="\\n")
"""


@pytest.fixture
def tree(tmp_path):
    """A source tree with the package's start-up code and an empty folder for kernels."""
    core = tmp_path / "tree" / "tinygpt" / "core"
    core.mkdir(parents=True)
    shutil.copy(PACKAGE / "__init__.py", core.parent)
    shutil.copy(PACKAGE / "core" / "__init__.py", core)
    return tmp_path / "tree"


@pytest.fixture
def install(tmp_path):
    """A function that makes a folder like site-packages, with a tinygpt of some version or a part of one."""

    def make(name="site", version=tinygpt.__version__, kernels=True, metadata=True):
        core = tmp_path / name / "tinygpt" / "core"
        core.mkdir(parents=True)
        shutil.copy(PACKAGE / "__init__.py", core.parent)
        shutil.copy(PACKAGE / "core" / "__init__.py", core)
        for library in BUILT.parent.glob(f"*{''.join(BUILT.suffixes)}") if kernels else ():
            (core / library.name).symlink_to(library)
        if metadata:
            facts = tmp_path / name / f"tinygpt-{version}.dist-info"
            facts.mkdir()
            (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tinygpt\nVersion: {version}\n")
        return tmp_path / name

    return make


def said(folder, *path):
    """Return the output of a process started in a folder with the given entries first on its path."""
    command = [sys.executable, "-I", "-S", "-c", PROGRAM, *map(str, path)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def is_one_clear_line(lines):
    (line,) = lines
    assert line.startswith("ImportError: the kernels are not built: ")
    return "pip install -e ." in line


@pytest.mark.parametrize("entry", ["", "the folder"])
def test_an_installed_package_provides_its_kernels(tree, install, entry):
    """Catches a tree that hides the installed package but has no kernels of its own."""
    site = install()
    package, *kernels = said(tree, entry and tree, site)
    assert Path(package).resolve() == tree / "tinygpt" / "__init__.py"
    assert [Path(kernel).parent for kernel in kernels] == [site / "tinygpt" / "core"] * 2


def test_kernels_of_the_tree_come_first(tree, install):
    """Catches kernels of an installed package used in place of those built in the tree."""
    site = install()
    for library in (site / "tinygpt" / "core").glob(f"*{''.join(BUILT.suffixes)}"):
        (tree / "tinygpt" / "core" / library.name).symlink_to(library.resolve())
    _, *kernels = said(tree, tree, site)
    assert [Path(kernel).parent for kernel in kernels] == [tree / "tinygpt" / "core"] * 2


def test_without_kernels_there_is_one_clear_line(tree):
    """Catches 'No module named tinygpt.core.matmul', which does not say what to do."""
    assert is_one_clear_line(said(tree, tree))


@pytest.mark.parametrize(
    "wrong", [{"version": "0.0.1"}, {"kernels": False}, {"metadata": False}], ids=["version", "kernels", "metadata"]
)
def test_an_unsuitable_package_provides_nothing(tree, install, wrong):
    """Catches kernels of another version, whose arguments may differ, and a folder that only looks installed."""
    assert is_one_clear_line(said(tree, tree, install(**wrong)))


def test_the_right_one_is_found_behind_a_wrong_one(tree, install):
    """Catches a search that ends at the first tinygpt on the path."""
    old, right = install("old", version="0.0.1"), install("right")
    _, *kernels = said(tree, tree, old, right)
    assert [Path(kernel).parent for kernel in kernels] == [right / "tinygpt" / "core"] * 2
