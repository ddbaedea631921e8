"""Exercises loaded from their sources, and reference solutions in Cython compiled once, without optimisation."""

import importlib.util
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from tinygpt.gym import build, worker
from tinygpt.gym.catalogue import exercises


def load(path, function):
    """The function of a Python file."""
    spec = importlib.util.spec_from_file_location(function, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, function)


def from_text(tmp_path, exercise, text):
    """The function of an exercise written in a text."""
    path = tmp_path / f"{exercise.function}.py"
    path.write_text(text)
    return load(path, exercise.function)


def compiled(folder, exercise, source):
    """The function of a Cython file, built by the project's own build.py without optimisation."""
    file = folder / f"{exercise.function}.pyx"
    shutil.copy(source, file)
    text = Path(build.__file__).read_text().replace('"-O3"', '"-O0"')
    (folder / "build.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "build.py", file.name], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "build" / f"{file.stem}{EXTENSION_SUFFIXES[0]}").exists()
    return worker.load(exercise, file)


@pytest.fixture(scope="session")
def solution(tmp_path_factory):
    """A function from exercise to the function of its reference solution."""
    made = {}

    def get(exercise):
        if exercise.name not in made:
            source = exercise.source("solution")
            if source.suffix == ".py":
                made[exercise.name] = load(source, exercise.function)
            else:
                made[exercise.name] = compiled(tmp_path_factory.mktemp(exercise.function), exercise, source)
        return made[exercise.name]

    return get


every_exercise = pytest.mark.parametrize("exercise", exercises().values(), ids=lambda one: one.name)
