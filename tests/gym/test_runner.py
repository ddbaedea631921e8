"""The learner's code in its own process: every way to end it badly becomes one line."""

import sys

import pytest

from tinygpt.gym import runner
from tinygpt.gym.catalogue import find
from tinygpt.gym.project import Project
from tinygpt.gym.runner import Stopped

SOFTMAX = find("naive-softmax")
MATMUL = find("block-matmul")


@pytest.fixture
def file(tmp_path):
    """The file of a started exercise."""
    return Project(tmp_path).start(SOFTMAX)[0]


def check(file, text, limit=20.0, watch=lambda event: None):
    file.write_text(text)
    return runner.run("check", SOFTMAX, file, limit, watch)


def test_a_stub_runs(file):
    """Catches a worker that cannot run what start has written."""
    outcome, printed = check(file, file.read_text())
    assert outcome["event"] == "wrong"
    assert outcome["unwritten"]
    assert outcome["problem"] == "softmax.py is not written yet"
    assert printed == ""


def test_a_solution_runs(file):
    """Catches trials that are not told, and what the code prints being lost."""
    events = []
    text = SOFTMAX.source("solution").read_text() + "\nprint('loaded')\n"
    outcome, printed = check(file, text, watch=events.append)
    assert outcome == {"event": "right"}
    assert printed == "loaded"
    assert [event["number"] for event in events if event["event"] == "trial"] == list(range(1, 8))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("while True: pass", r"was stopped after 1 s in case 1 \(one row, scores 0 and 1\): an endless loop"),
        ("import ctypes; ctypes.string_at(0)", r"crashed in case 1 .*segmentation fault; it read or wrote outside"),
        ("import os; os._exit(3)", r"ended the program in case 1 .* with status 3: nothing was printed"),
        ("raise SystemExit('enough')", r"ended the program in case 1 .* with status 1: enough"),
        ("raise MemoryError", None),
    ],
)
def test_a_bad_end_is_one_line(file, body, message):
    """Catches a command line that hangs, dies with the learner's code, or does not say in which case it happened."""
    text = f"def softmax(x, out):\n    {body}\n"
    if message is None:
        assert check(file, text)[0]["problem"] == "MemoryError:  (softmax.py, line 2)"
        return
    with pytest.raises(Stopped, match=f"^softmax.py {message}") as caught:
        check(file, text, limit=1.0 if "while" in body else 20.0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("def softmax(x, out:\n    pass\n", "softmax.py, line 1: '(' was never closed"),
        ("import nowhere\n", "softmax.py cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
        ("def soft(x, out):\n    pass\n", "softmax.py has no function 'softmax'; the name must stay as in the stub"),
    ],
)
def test_a_file_that_cannot_be_used_is_told(file, text, problem):
    """Catches a traceback of the worker for a mistake of the learner."""
    assert check(file, text)[0] == {"event": "broken", "problem": problem}


def test_an_exception_names_its_line(file):
    """Catches an exception whose place the learner has to search."""
    outcome, _ = check(file, "def softmax(x, out):\n    y = 1\n    return y / z\n")
    assert outcome["problem"] == "NameError: name 'z' is not defined (softmax.py, line 3)"


def test_timing_has_every_rung(file):
    """Catches a rung that is left out, and a kernel that is timed although it is wrong."""
    from tinygpt import kernels

    file.write_text(SOFTMAX.source("solution").read_text())
    outcome, _ = runner.run("time", SOFTMAX, file, 60.0)
    assert outcome["seconds"].keys() == {*kernels.available()["softmax"], "yours"} - {"parallel"}
    assert all(seconds > 0 for seconds in outcome["seconds"].values())
    file.write_text("def softmax(x, out):\n    out[...] = 0\n")
    outcome, _ = runner.run("time", SOFTMAX, file, 60.0)
    assert outcome["event"] == "slow"
    assert "'out' at" in outcome["problem"]


def test_cython_is_built_once(tmp_path):
    """Catches a build that is repeated for nothing, and one that is left out after a change."""
    file, _ = Project(tmp_path).start(MATMUL)
    steps = file.parent / "build.py"
    steps.write_text(steps.read_text().replace('"-O3"', '"-O0"'))
    file.write_text(MATMUL.source("solution").read_text())
    assert runner.needs_build(file)
    assert runner.build(file) > 0
    assert not runner.needs_build(file)
    assert runner.run("check", MATMUL, file, 20.0)[0] == {"event": "right"}
    file.write_text("def matmul(const float[:, ::1] a, b, out):\n    cdef int i = nothing_known\n    for\n")
    import os

    os.utime(file, (2e9, 2e9))
    assert runner.needs_build(file)
    with pytest.raises(Stopped, match=r"^matmul.pyx does not compile:\n(.*\n)*.*matmul.pyx:3:\d+: ") as caught:
        runner.build(file)
    assert len(str(caught.value).splitlines()) < 12


def test_a_missing_cython_is_named(tmp_path, monkeypatch):
    """Catches a traceback of an import instead of the extra to install."""
    file, _ = Project(tmp_path).start(MATMUL)
    monkeypatch.setattr(runner.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Stopped, match=r"^matmul.pyx needs Cython to be compiled: pip install 'tinygpt\[gym\]'$"):
        runner.build(file)


def test_a_missing_compiler_is_named():
    """Catches a page of setuptools output where one line would do."""
    text = "error: command 'gcc' failed: No such file or directory\n"
    assert "needs a C compiler" in runner._compiler_message("matmul.pyx", text)


def test_a_build_that_never_ends_is_stopped(tmp_path, monkeypatch):
    """Catches a build.py that a learner broke and that hangs."""
    (tmp_path / "build.py").write_text("while True: pass\n")
    monkeypatch.setattr(runner, "BUILD_SECONDS", 0.5)
    with pytest.raises(Stopped, match=r"^building matmul.pyx took more than 0 s and was stopped$"):
        runner.build(tmp_path / "matmul.pyx")


def test_the_learners_file_is_not_taken_for_a_module(file):
    """Catches a worker that imports a file of the learner because it has the name of a module."""
    (file.parent / "numpy.py").write_text("raise RuntimeError('shadowed')\n")
    (file.parent / "json.py").write_text("raise RuntimeError('shadowed')\n")
    assert check(file, SOFTMAX.source("solution").read_text())[0] == {"event": "right"}
    assert sys.executable
