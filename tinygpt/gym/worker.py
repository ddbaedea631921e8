"""Process that runs a learner's code: python -m tinygpt.gym.worker ACTION EXERCISE FILE EVENTS [ARGUMENTS]

The code may crash, loop for ever or end the process, so it never runs in the process of the command line. Everything
that happens is appended to the file EVENTS, one JSON object per line; the last line is the outcome.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader
from pathlib import Path
from typing import Any

from tinygpt import testing
from tinygpt.gym.catalogue import Exercise, find
from tinygpt.gym.judge import judge
from tinygpt.kernels import registry, threads
from tinygpt.kernels.load import undisturbed
from tinygpt.testing.timing import median_seconds, prepare

Function = Callable[..., Any]
RUNG = "gym"  # under which a learner's kernel is registered
YOURS = "yours"
SECONDS = 0.12  # per rung; disturbance by other programs is found only in 0.1 s or more
# A model whose step takes milliseconds with fast kernels and is bearable with Python loops.
SHAPE = {"layers": 1, "embed": 32, "heads": 2, "seq": 32, "batch": 2, "warmup": 10, "lr": 1e-2, "samples": 0}


class Broken(Exception):
    """The learner's file cannot be used; the message says why in one line."""


def load(exercise: Exercise, file: Path) -> Function:
    """Import the learner's file and return the exercise's function.

    Raises
    ------
    Broken
        The file cannot be imported, or has no such function.
    """
    path = file
    if file.suffix == ".pyx":
        path = next(file.parent / "build" / f"{file.stem}{end}" for end in EXTENSION_SUFFIXES if _built(file, end))
    loader = ExtensionFileLoader(file.stem, str(path)) if file.suffix == ".pyx" else None
    spec = importlib.util.spec_from_file_location(file.stem, path, loader=loader)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise Broken(f"{file.name}, line {error.lineno}: {error.msg}") from None
    except Exception as error:  # noqa: BLE001 - a learner's file may raise anything
        raise Broken(f"{file.name} cannot be imported: {type(error).__name__}: {error}") from None
    if not callable(getattr(module, exercise.function, None)):
        raise Broken(f"{file.name} has no function '{exercise.function}'; the name must stay as in the stub")
    return getattr(module, exercise.function)


def _built(file: Path, ending: str) -> bool:
    return (file.parent / "build" / f"{file.stem}{ending}").exists()


def check(exercise: Exercise, function: Function, file: Path, tell: Callable[..., None]) -> None:
    """Run the trials; the outcome is ``right`` or ``wrong``."""
    failure = judge(exercise, function, file.name, lambda number, title: tell("trial", number=number, title=title))
    if failure is None:
        tell("right")
    else:
        tell("wrong", **failure.to_dict())


def contest(exercise: Exercise, function: Function) -> dict[str, Callable[[], Any]]:
    """Return the calls to time, by name: the rungs of the op and the learner's function, all on one thread."""
    if hasattr(exercise.module, "contest"):
        return exercise.module.contest(function)
    assert exercise.op is not None
    case = testing.make(exercise.op, **exercise.sizes)
    rungs = [rung for rung in registry.rungs(exercise.op) if rung != "parallel"]  # on one thread, that is naive
    calls = {rung: prepare(registry.function(exercise.op, rung), case, 1) for rung in rungs}
    return calls | {YOURS: prepare(exercise.adapted(function), case, 1)}


def time(exercise: Exercise, function: Function, file: Path, tell: Callable[..., None]) -> None:
    """Time the rungs and the learner's function; the outcome is ``timed``."""
    with threads.fixed(1):
        try:
            calls = contest(exercise, function)
        except testing.Mismatch as error:
            tell("slow", problem=str(error).partition("] ")[2])
            return
        seconds, disturbed = {}, False
        for name, call in calls.items():
            tell("timing", name=name)
            found = undisturbed(partial(median_seconds, call, SECONDS), best=min)
            seconds[name], disturbed = float(found), disturbed or found.disturbed
    tell("timed", seconds=seconds, disturbed=disturbed)


def train(exercise: Exercise, function: Function, file: Path, tell: Callable[..., None], steps: str) -> None:
    """Train a model with the fastest rung and again with the learner's kernel; the outcome is ``trained``."""
    import tinygpt
    from tinygpt.train.loop import train as run
    from tinygpt.train.report import Report
    from tinygpt.train.settings import TrainSettings

    ops = exercise.train_ops(function)
    registry.register(RUNG, **ops)
    best = registry.default_rung()
    text = [str(Path(tinygpt.__file__).parent / "reference")]
    choice = {best: best, YOURS: ",".join([best, *(f"{op}={RUNG}" for op in ops)])}
    for name, kernels in choice.items():

        class Told(Report):
            """Passes the steps on."""

            def step(self, record, name=name):
                tell("step", run=name, step=record["step"], loss=record["loss"], seconds=record["seconds"])

        with tempfile.TemporaryDirectory() as out:
            paths = {"data": text, "out": str(Path(out, "run")), "kernels": kernels, "steps": int(steps)}
            pace = {"threads": 1, "eval_every": int(steps), "eval_tokens": 512, "checkpoint_every": int(steps)}
            run(TrainSettings(**SHAPE, **paths, **pace), Told())
    tell("trained", ops=list(ops))


ACTIONS: dict[str, Callable[..., None]] = {"check": check, "time": time, "train": train}


def main(action: str, name: str, file: str, events: str, *arguments: str) -> None:
    """Load the learner's function and do one action."""
    with open(events, "a", encoding="utf-8") as log:

        def tell(event: str, **facts: Any) -> None:
            log.write(json.dumps({"event": event, **facts}) + "\n")
            log.flush()

        exercise, path = find(name), Path(file)
        exercise.module  # noqa: B018 - imported now, so that the learner's time does not include it
        tell("started")
        try:
            ACTIONS[action](exercise, load(exercise, path), path, tell, *arguments)
        except Broken as error:
            tell("broken", problem=str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
