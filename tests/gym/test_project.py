"""The learner's directory: what start writes, what is kept, what progress survives."""

import json

import pytest

from tinygpt.gym.catalogue import find
from tinygpt.gym.project import Project

SOFTMAX = find("naive-softmax")


def test_start_writes_a_project(tmp_path):
    """Catches a project without its task, its stub or its build."""
    file, written = Project(tmp_path).start(SOFTMAX)
    assert written
    assert file == tmp_path / "naive-softmax" / "softmax.py"
    assert sorted(path.name for path in file.parent.iterdir()) == ["README.md", "build.py", "softmax.py"]
    assert (file.parent / "README.md").read_text() == SOFTMAX.statement
    assert "raise NotImplementedError" in file.read_text()


def test_start_keeps_the_learners_work(tmp_path):
    """Catches a second start that replaces hours of work by the stub."""
    project = Project(tmp_path)
    file, _ = project.start(SOFTMAX)
    file.write_text("mine")
    (file.parent / "build.py").write_text("my flags")
    assert project.start(SOFTMAX) == (file, False)
    assert file.read_text() == "mine"
    assert (file.parent / "build.py").read_text() == "my flags"


def test_a_python_exercise_may_be_solved_in_cython(tmp_path):
    """Catches a start that writes the stub beside a file in the other language."""
    project = Project(tmp_path)
    file, _ = project.start(SOFTMAX)
    other = file.rename(file.with_suffix(".pyx"))
    assert project.start(SOFTMAX) == (other, False)
    file.write_text("")
    with pytest.raises(ValueError, match=r"^naive-softmax: there are both softmax.py and softmax.pyx; move one"):
        project.source(SOFTMAX)
    file.unlink()
    other.unlink()
    with pytest.raises(ValueError, match=r"^naive-softmax: there is neither .*'tinygpt gym start naive-soft"):
        project.source(SOFTMAX)


def test_progress_is_kept(tmp_path):
    """Catches progress that ends with the process, and one that a subfolder does not see."""
    project = Project(tmp_path)
    project.start(SOFTMAX)
    project.record(SOFTMAX).checks = 3
    project.save()
    for place in (tmp_path, tmp_path / "naive-softmax"):
        again = Project.around(place)
        assert again.root == tmp_path
        assert again.records["naive-softmax"].checks == 3
        assert again.chosen(None) == SOFTMAX


def test_an_exercise_must_be_started(tmp_path):
    """Catches a check of nothing, and an error without the next step."""
    project = Project(tmp_path)
    with pytest.raises(ValueError, match=r"try 'tinygpt gym start naive-softmax'$"):
        project.chosen(None)
    with pytest.raises(ValueError, match=r"^stable-softmax was not started here; try 'tinygpt gym start stable"):
        project.chosen("stable-softmax")


def test_a_name_is_corrected():
    """Catches an error that leaves the learner to search for the name."""
    with pytest.raises(ValueError, match=r"^there is no exercise 'naive-softmx'; did you mean 'naive-softmax'\?$"):
        find("naive-softmx")
    with pytest.raises(ValueError, match=r"^there is no exercise 'zzz'; 'tinygpt gym' lists them$"):
        find("zzz")


@pytest.mark.parametrize(
    "content",
    ["[]", '{"exercises": []}', '{"exercises": {"naive-softmax": {"colour": 1}}}', '{"current": "naive-softmax"}', "{"],
)
def test_a_broken_progress_file_is_named(tmp_path, content):
    """Catches a traceback, and a file that is overwritten because nobody could read it."""
    (tmp_path / "gym.json").write_text(content)
    with pytest.raises(ValueError, match=r"gym\.json: "):
        Project.around(tmp_path)
    assert (tmp_path / "gym.json").read_text() == content


def test_an_exercise_that_is_gone_is_forgotten(tmp_path):
    """Catches a progress file of another version that cannot be read."""
    (tmp_path / "gym.json").write_text(json.dumps({"current": "old", "exercises": {"old": {}, "naive-softmax": {}}}))
    project = Project(tmp_path)
    assert list(project.records) == ["naive-softmax"]
    assert project.current is None
