"""The run directory: where a run may be written, and how earlier runs are kept."""

import pytest
from tiny_run import content

from tinygpt.runs import directory


def refused(out, *words, resume=False):
    """Assert that the directory is refused with a one-line error that contains the given words."""
    with pytest.raises(ValueError, match=r"^\[train\] 'out' ") as error:
        directory.check_writable(out, resume)
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


@pytest.fixture
def run(tmp_path):
    """A directory with a run."""
    directory.begin(tmp_path / "run", {"seed": 1})
    return tmp_path / "run"


def test_new_empty_and_run_directories_are_accepted(tmp_path, run):
    """Catches a check that refuses a valid directory."""
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "empty", tmp_path / "new", tmp_path / "new" / "below", run):
        directory.check_writable(out)
    assert not (tmp_path / "new").exists()


def test_a_file_in_the_way_is_refused(tmp_path):
    """Catches a run that trains first and fails at its first write."""
    (tmp_path / "file").write_text("mine")
    refused(tmp_path / "file", "file")
    refused(tmp_path / "file" / "run", "file", "run")


def test_a_directory_with_other_files_is_refused(tmp_path):
    """Catches a run written among other files, and other files moved away."""
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("mine")
    refused(tmp_path / "notes", "not empty")


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_other_files_named_like_an_earlier_run_stay(tmp_path, run, kind):
    """Catches other files under the name of an earlier run that are removed, or a run moved into them."""
    earlier = tmp_path / "run.previous"
    if kind == "file":
        earlier.write_text("mine")
    elif kind == "folder":
        earlier.mkdir()
        (earlier / "thesis.txt").write_text("mine")
    else:
        earlier.symlink_to(tmp_path / "nowhere")
    before = content(tmp_path)
    directory.check_writable(run)
    assert directory.begin(run, {"seed": 2}) == f"{run}.previous-2"
    assert content(tmp_path) == before | {
        "run/run.toml": b"seed = 2\n",
        "run.previous-2/run.toml": before["run/run.toml"],
    }
    assert earlier.is_symlink() == (kind == "link")


def test_the_current_directory_is_not_moved(run, monkeypatch):
    """Catches a rename of the current directory, after which relative paths mean the moved run."""
    monkeypatch.chdir(run)
    for out in (run.parent / "run", run.__class__(".")):
        refused(out, "cannot be moved")
    directory.check_writable(run.__class__("."), resume=True)


def test_every_earlier_run_is_kept(run):
    """Catches a new run that overwrites an earlier one, or removes one that was kept."""
    names = ["run.previous", "run.previous-2", "run.previous-3"]
    for seed, name in enumerate(names, 2):
        directory.check_writable(run)
        assert directory.begin(run, {"seed": seed}) == str(run.with_name(name))
    seeds = [directory.read_table(run.with_name(name) / directory.SETTINGS)["seed"] for name in [*names, "run"]]
    assert seeds == [1, 2, 3, 4]
    assert {path.name for path in run.parent.iterdir()} == {"run", *names}


def test_a_first_run_moves_nothing(tmp_path):
    """Catches a message about an earlier run that does not exist, and missing parent folders."""
    assert directory.begin(tmp_path / "a" / "b", {"seed": 1}) is None
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == [directory.SETTINGS]


@pytest.mark.parametrize("text", [b"seed = ", b"seed = 1\nseed = 2\n", b"\xff"])
def test_broken_settings_are_named(tmp_path, text):
    """Catches an error that does not say which file is broken."""
    path = tmp_path / "run.toml"
    path.write_bytes(text)
    with pytest.raises(ValueError, match="not a TOML file") as error:
        directory.read_table(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
