"""`tinygpt gym`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from rich.console import Console

    from tinygpt.gym.catalogue import Exercise
    from tinygpt.gym.project import Project, Record

Action = Literal["list", "start", "check", "train", "hint", "solution"]
NAME, STATE = 19, 9  # columns of the list; a title of 48 columns then fits into 80
LEVELS = ("first steps", "practice", "advanced")


@dataclass(kw_only=True)
class GymOptions:
    """Flags of `tinygpt gym`, one field each."""

    seconds: float = 10.0
    """Longest time that one case may take, in seconds; then the code is stopped."""
    steps: int = 100
    """Training steps of gym train."""
    quiet: bool = False
    """Print nothing when all is well: the exit status of gym check tells the result."""

    def validate(self) -> None:
        """Raise ValueError, naming the flag, for a value out of range."""
        if not 0 < self.seconds < 1e6:
            raise ValueError(f"--seconds must be more than 0 and less than 1000000, got {self.seconds:g}")
        if self.steps < 1:
            raise ValueError(f"--steps must be at least 1, got {self.steps}")


def gym(
    action: Annotated[Action, Parameter(help="What to do. Default: list.", show_default=False)] = "list",
    name: Annotated[str | None, Parameter(help="Exercise. Default: the one that you worked on last.")] = None,
    /,
    options: Annotated[GymOptions, Parameter(name="*")] = GymOptions(),  # noqa: B008
) -> int:
    """Exercises in writing kernels, checked and timed.

    gym               list the exercises, with your progress in this directory
    gym start NAME    write a small project: the task, a stub, a way to build it
    gym check         build and check your code, explain the first case that fails,
                      and time it against the rungs of the package
    gym hint          show a hint, the next one each time
    gym train         train a small model with your kernel in use
    gym solution      show a reference solution
    """
    from rich.console import Console

    from tinygpt.gym.project import Project

    options.validate()
    console = Console(highlight=False, soft_wrap=True, quiet=options.quiet)
    project = Project.around(Path.cwd())
    if action == "list":
        if name is not None:
            raise ValueError(f"gym list takes no name; did you mean 'tinygpt gym start {name}'?")
        return _list(console, project)
    if action == "start":
        return _start(console, project, name)
    exercise = project.chosen(name)
    if action == "check":
        from tinygpt.cli.gym_check import check

        return check(console, project, exercise, options.seconds)
    if action == "train":
        from tinygpt.cli.gym_check import train

        return train(console, project, exercise, options.seconds, options.steps)
    return _hint(console, project, exercise) if action == "hint" else _solution(console, project, exercise)


def _list(console: Console, project: Project) -> int:
    """Print every exercise with its state, level by level."""
    from rich.text import Text

    from tinygpt.gym.catalogue import exercises

    known = exercises()
    for level in LEVELS:
        console.print(Text(level, "bold"))
        for exercise in (one for one in known.values() if one.level == level):
            state, style = _state(project.records.get(exercise.name))
            mark = ">" if exercise.name == project.current else " "
            start = Text(f"{mark} {exercise.name:<{NAME}}") + Text(f"{state:<{STATE}}", style)
            console.print(start + Text(exercise.title))
    if not project.records:
        first = next(iter(known))
        console.print(f"{len(known)} exercises. 'tinygpt gym start {first}' writes the first one into this directory.")
        return 0
    solved = sum(record.solved for record in project.records.values())
    console.print(f"{solved} of {len(known)} solved; > marks the exercise of 'tinygpt gym check'")
    following = next((one for one in known if one not in project.records), None)
    if following is not None and (project.current is None or project.records[project.current].solved):
        console.print(f"next  tinygpt gym start {following}")
    return 0


def _state(record: Record | None) -> tuple[str, str]:
    """Describe the progress in one exercise, with a style."""
    if record is None:
        return "-", "dim"
    return ("solved", "green") if record.solved else ("started", "yellow")


def _start(console: Console, project: Project, name: str | None) -> int:
    """Write the project of an exercise and say what to do with it."""
    from tinygpt.gym.catalogue import exercises, find

    if name is None:
        rest = [one for one in exercises() if one not in project.records]
        raise ValueError(f"gym start needs a name, such as '{(rest or list(exercises()))[0]}'; 'tinygpt gym' lists all")
    exercise = find(name)
    file, written = project.start(exercise)
    folder = project.folder(exercise)
    place = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    console.print(f"[bold]{exercise.title}[/]")
    console.print(f"  read      {place / 'README.md'}")
    console.print(f"  complete  {place / file.name}{'' if written else '  (kept as it was)'}")
    console.print("  then      tinygpt gym check")
    console.print("  stuck?    tinygpt gym hint")
    return 0


def _hint(console: Console, project: Project, exercise: Exercise) -> int:
    """Print the hint for the mistake of the last check, or the next hint of the exercise."""
    record = project.record(exercise)
    mistake = next((one for one in exercise.module.MISTAKES if one.__name__ == record.mistake), None)
    record.mistake = None
    if mistake is not None:
        from tinygpt.gym.judge import reason_and_hint

        console.print("[bold]about your last check[/]")
        _tell(console, *reason_and_hint(mistake))
    else:
        number = min(record.hints, len(exercise.hints) - 1)
        record.hints = number + 1
        console.print(f"[bold]hint {number + 1} of {len(exercise.hints)}[/]")
        _tell(console, exercise.hints[number])
        if record.hints == len(exercise.hints):
            console.print("That was the last hint. 'tinygpt gym solution' shows a reference solution.")
    project.save()
    return 0


def _tell(console: Console, *texts: str) -> None:
    """Print texts, each on lines of its own."""
    from tinygpt.cli.gym_check import lines_of

    for text in texts:
        for line in lines_of(console, text):
            console.print(f"  {line}", markup=False)


def _solution(console: Console, project: Project, exercise: Exercise) -> int:
    """Print the reference solution."""
    from rich.syntax import Syntax

    record = project.record(exercise)
    record.solution_shown = True
    project.save()
    path = exercise.source("solution")
    text = path.read_text(encoding="utf-8")
    if console.is_terminal:
        console.print(Syntax(text, "cython" if path.suffix == ".pyx" else "python", background_color="default"))
    else:
        console.print(text, markup=False, end="")
    return 0
