"""Every exercise: its stub fails helpfully, its solution passes, and wrong solutions get the right hint."""

import re

import numpy as np
import pytest
from Cython.Compiler.TreeFragment import parse_from_strings

from gym.conftest import every_exercise, from_text, load
from gym.wrong import WRONG
from tinygpt.gym.catalogue import exercises, find
from tinygpt.gym.judge import judge, reason_and_hint
from tinygpt.gym.trials import KernelTrial

LEVELS = ["first steps", "practice", "advanced"]
MISTAKES = [(exercise, mistake) for exercise in exercises().values() for mistake in exercise.module.MISTAKES]
SOURCES = [
    (name, mistake, source) for name, table in WRONG.items() for mistake, sources in table.items() for source in sources
]


def test_the_list_is_in_order():
    """Catches two exercises with one number, and a list that goes from hard to easy."""
    known = list(exercises().values())
    assert [one.number for one in known] == sorted({one.number for one in known})
    places = [LEVELS.index(one.level) for one in known]
    assert places == sorted(places)


@every_exercise
def test_an_exercise_is_complete(exercise):
    """Catches a file that is missing, a statement without its task, and a single hint that gives everything away."""
    assert exercise.statement.startswith("# ")
    assert "**Your task.**" in exercise.statement
    assert f"`{exercise.function}." in exercise.statement
    assert len(exercise.hints) >= 3
    assert len(exercise.title) <= 48  # the list then fits into 80 columns
    assert exercise.source("stub").suffix == exercise.source("solution").suffix
    assert f"def {exercise.function}(" in exercise.source("stub").read_text()


@every_exercise
def test_a_stub_says_that_it_is_to_be_written(exercise):
    """Catches a stub that crashes on its own, passes, or is called a mistake."""
    path = exercise.source("stub")
    if path.suffix == ".pyx":
        text = path.read_text()
        parse_from_strings("stub", text)  # raises an error of Cython; a whole build of each would take seconds
        assert re.search(r"^    raise NotImplementedError$", text, re.MULTILINE)
        assert set(c_parts(text)) <= set(c_parts(exercise.source("solution").read_text()))
        return
    failure = judge(exercise, load(path, exercise.function), path.name)
    assert failure is not None
    if exercise.name == "attention-bug":  # its stub is written, and wrong
        assert failure.mistake == "as_given"
        return
    assert failure.unwritten
    assert failure.problem == "stub.py is not written yet"


def c_parts(text):
    """The C code inside a Cython file."""
    return re.findall(r'^cdef extern from \*:\n    """\n(.*?)    """\n', text, re.DOTALL | re.MULTILINE)


@every_exercise
def test_the_solution_passes(exercise, solution):
    """Catches an exercise that cannot be solved as its own solution does it."""
    failure = judge(exercise, solution(exercise))
    assert failure is None, failure


@every_exercise
def test_trials_of_a_kernel_are_cases_of_its_rungs(exercise):
    """Catches an exercise that is checked more loosely than the package's own kernels."""
    kernels = [trial for trial in exercise.trials if isinstance(trial, KernelTrial)]
    assert all(trial.case.op == exercise.op for trial in kernels)
    assert (exercise.op is None) == (not kernels)
    for trial in kernels:
        for bound, wanted in zip(trial.case.bounds.values(), trial.case.wanted.values(), strict=True):
            assert bound.max(initial=0) <= 1e-3 * max(1, abs(wanted[np.isfinite(wanted)]).max(initial=0))


@pytest.mark.parametrize(("exercise", "mistake"), MISTAKES, ids=lambda one: getattr(one, "__name__", None) or one.name)
def test_a_mistake_is_recognised(exercise, mistake):
    """Catches a mistake that passes, or that is taken for another."""
    failure = judge(exercise, mistake)
    assert failure is not None
    assert failure.mistake == mistake.__name__
    assert failure.reason


@pytest.mark.parametrize(("name", "mistake", "source"), SOURCES, ids=lambda one: one if len(one) < 30 else "")
def test_a_learners_mistake_gets_its_hint(tmp_path, name, mistake, source):
    """Catches a mistake that recognises only its own code."""
    exercise = find(name)
    failure = judge(exercise, from_text(tmp_path, exercise, source), f"{exercise.function}.py")
    assert failure is not None
    assert failure.mistake == mistake, failure


@every_exercise
def test_learners_mistakes_are_in_the_table(exercise):
    """Catches an exercise without wrong solutions that were written apart from the package."""
    assert len(WRONG[exercise.name]) >= 3
    assert set(WRONG[exercise.name]) <= {mistake.__name__ for mistake in exercise.module.MISTAKES}


@pytest.mark.parametrize("exercise", exercises().values(), ids=lambda one: one.name)
def test_reasons_and_hints_are_sentences(exercise):
    """Catches a mistake without a hint, and one whose text is no sentence."""
    for mistake in exercise.module.MISTAKES:
        for text in reason_and_hint(mistake):
            assert text.endswith((".", "?")), mistake.__name__
            assert len(text) > 20, mistake.__name__
