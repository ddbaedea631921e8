"""The learner's directory: one folder per exercise that was started, and gym.json with the progress."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tinygpt.gym import build
from tinygpt.gym.catalogue import LANGUAGES, Exercise, exercises, find
from tinygpt.io.atomic import write_text
from tinygpt.io.strict import read_object

PROGRESS = "gym.json"


@dataclass
class Record:
    """Progress in one exercise: checks so far, whether it is solved, hints shown, best time in seconds."""

    checks: int = 0
    solved: bool = False
    hints: int = 0
    best_seconds: float | None = None
    mistake: str | None = None  # recognised in the last check, until its hint was shown
    solution_shown: bool = False


class Project:
    """A directory of exercises.

    Parameters
    ----------
    root : Path
        The directory that holds gym.json.
    """

    def __init__(self, root: Path):
        self.root = root
        self.records: dict[str, Record] = {}
        self.current: str | None = None
        if (root / PROGRESS).exists():
            self._read(root / PROGRESS)

    @classmethod
    def around(cls, directory: Path) -> Project:
        """Return the project of a directory: its own, or its parent's if the directory is one of its exercises."""
        for place in (directory, directory.parent):
            if (place / PROGRESS).exists():
                return cls(place)
        return cls(directory)

    def _read(self, path: Path) -> None:
        content = read_object(path)
        known = set(asdict(Record()))
        records, current = content.get("exercises", {}), content.get("current")
        fit = isinstance(records, dict) and all(isinstance(one, dict) and set(one) <= known for one in records.values())
        if not fit or not (current is None or current in records):
            raise ValueError(f"{path}: is not a progress file of the gym; move it away and start again")
        self.records = {name: Record(**one) for name, one in records.items() if name in exercises()}
        self.current = current if current in self.records else None

    def save(self) -> None:
        """Write gym.json."""
        content = {"current": self.current, "exercises": {name: asdict(one) for name, one in self.records.items()}}
        write_text(self.root / PROGRESS, json.dumps(content, indent=2) + "\n")

    def record(self, exercise: Exercise) -> Record:
        """Return the progress of an exercise, to be changed and saved."""
        return self.records.setdefault(exercise.name, Record())

    def chosen(self, name: str | None) -> Exercise:
        """Return the exercise of a name, or the one that was started or checked last.

        Raises
        ------
        ValueError
            The name is unknown or the exercise was not started here; the message says what to type.
        """
        if name is None and self.current is None:
            raise ValueError("no exercise was started in this directory; try 'tinygpt gym start naive-softmax'")
        exercise = find(name or str(self.current))
        if exercise.name not in self.records:
            raise ValueError(f"{exercise.name} was not started here; try 'tinygpt gym start {exercise.name}'")
        return exercise

    def folder(self, exercise: Exercise) -> Path:
        """Return the folder of an exercise."""
        return self.root / exercise.name

    def start(self, exercise: Exercise) -> tuple[Path, bool]:
        """Write the project of an exercise; files that exist already are kept.

        Returns
        -------
        Path
            The file to complete.
        bool
            False if there was one already, which is kept.
        """
        folder = self.folder(exercise)
        folder.mkdir(exist_ok=True)
        stub = exercise.source("stub")
        present = [path for path in self._sources(exercise) if path.exists()]
        if not present:
            shutil.copyfile(stub, folder / f"{exercise.function}{stub.suffix}")
        for source, target in ((exercise.folder / "statement.md", "README.md"), (Path(build.__file__), "build.py")):
            if not (folder / target).exists():
                shutil.copyfile(source, folder / target)
        self.record(exercise)
        self.current = exercise.name
        self.save()
        return self.source(exercise), not present

    def _sources(self, exercise: Exercise) -> list[Path]:
        return [self.folder(exercise) / f"{exercise.function}{ending}" for ending in LANGUAGES]

    def source(self, exercise: Exercise) -> Path:
        """Return the learner's file: Python or Cython, whichever is there.

        Raises
        ------
        ValueError
            There is none, or both.
        """
        present = [path for path in self._sources(exercise) if path.exists()]
        names = [path.name for path in self._sources(exercise)]
        if len(present) > 1:
            raise ValueError(f"{exercise.name}: there are both {names[0]} and {names[1]}; move one of them away")
        if not present:
            again = f"'tinygpt gym start {exercise.name}' writes the stub again"
            raise ValueError(f"{exercise.name}: there is neither {names[0]} nor {names[1]}; {again}")
        return present[0]


def load_progress(directory: Path) -> dict[str, Any]:
    """Return the name of every exercise with its record in a directory, None where it was not started."""
    records = Project.around(directory).records
    return {name: records.get(name) for name in exercises()}
