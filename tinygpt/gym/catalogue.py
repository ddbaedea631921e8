"""The exercises as the gym sees them, read from their folders."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from tinygpt.io.strict import read_toml

FOLDER = Path(__file__).parent / "exercises"
LANGUAGES = (".py", ".pyx")


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    Parameters
    ----------
    name : str
        As on the command line, for example ``naive-softmax``.
    number : int
        Place in the list.
    level : str
        Difficulty: first steps, practice or advanced.
    title : str
        One line for the list.
    function : str
        The function that the learner writes, in a file of the same name.
    hints : tuple of str
        From a nudge to nearly the answer.
    op : str, optional
        The op of `tinygpt.kernels.spec` that the function computes; None for an exercise that is no kernel.
    sizes : dict
        Arguments of the op's case factory that is timed.
    beat : str, optional
        The rung that the function must be faster than.
    """

    name: str
    number: int
    level: str
    title: str
    function: str
    hints: tuple[str, ...]
    op: str | None = None
    sizes: dict[str, Any] = field(default_factory=dict)
    beat: str | None = None

    @property
    def folder(self) -> Path:
        """Folder of the exercise in the package."""
        return FOLDER / self.name.replace("-", "_")

    def source(self, stem: str) -> Path:
        """Return the file `stem` in Python or Cython: ``stub`` or ``solution``."""
        return next(path for path in (self.folder / f"{stem}{ending}" for ending in LANGUAGES) if path.exists())

    @property
    def statement(self) -> str:
        """The task, as Markdown."""
        return (self.folder / "statement.md").read_text(encoding="utf-8")

    @property
    def module(self) -> ModuleType:
        """The exercise's trials.py; importing it loads the kernels."""
        return importlib.import_module(f"tinygpt.gym.exercises.{self.folder.name}.trials")

    @property
    def trials(self) -> list[Any]:
        """The cases, in order; made once, because references and bounds take time."""
        return _trials(self.module)

    @property
    def trains(self) -> bool:
        """Tell whether a training step can use the function."""
        return self.op is not None or hasattr(self.module, "train_ops")

    def adapted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Give the learner's function the signature of its op."""
        return self.module.adapt(function) if hasattr(self.module, "adapt") else function

    def train_ops(self, function: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
        """Return the ops of a training step that can use the learner's function; empty if there are none."""
        if hasattr(self.module, "train_ops"):
            return self.module.train_ops(function)
        return {} if self.op is None else {self.op: self.adapted(function)}


@cache
def _trials(module: ModuleType) -> list[Any]:
    return module.trials()


@cache
def exercises() -> dict[str, Exercise]:
    """Return every exercise by name, in the order of the list."""
    found = [_read(path.parent) for path in FOLDER.glob("*/exercise.toml")]
    return {one.name: one for one in sorted(found, key=lambda one: one.number)}


def _read(folder: Path) -> Exercise:
    settings = read_toml(folder / "exercise.toml")
    hints = tuple(settings.pop("hints"))
    return Exercise(name=folder.name.replace("_", "-"), hints=hints, **settings)


def find(name: str) -> Exercise:
    """Return the exercise of a name.

    Raises
    ------
    ValueError
        There is none; the message offers the nearest name.
    """
    known = exercises()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1, cutoff=0.5)
        offer = f"did you mean '{near[0]}'?" if near else "'tinygpt gym' lists them"
        raise ValueError(f"there is no exercise '{name}'; {offer}")
    return known[name]
