"""Runs the learner's build and code in processes with a time limit, and turns every end into an outcome or one line."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import tinygpt
from tinygpt.gym.catalogue import Exercise

BUILD_SECONDS = 300.0  # a compiler takes seconds; on a busy machine, a minute
POLL = 0.02  # seconds between two looks at a running process
OUTCOMES = ("right", "wrong", "broken", "timed", "slow", "trained")
LAST_LINES = 12  # of a learner's own output and of a compiler's messages
Event = dict[str, Any]


class Stopped(Exception):
    """The learner's code did not come to an end of its own, or could not be built; the message is for the learner."""


def needs_build(file: Path) -> bool:
    """Tell whether a Cython file, or its build.py, is newer than the compiled module."""
    if file.suffix != ".pyx":
        return False
    built = [path.stat().st_mtime for path in (file.parent / "build").glob(f"{file.stem}.*.so")]
    sources = [path.stat().st_mtime for path in (file, file.parent / "build.py") if path.exists()]
    return not built or max(built) < max(sources)


def build(file: Path) -> float:
    """Run the project's build.py; returns the seconds that it took.

    Raises
    ------
    Stopped
        Cython or a compiler is missing, or the file does not compile.
    """
    for module in ("Cython", "setuptools"):
        if importlib.util.find_spec(module) is None:
            raise Stopped(f"{file.name} needs {module} to be compiled: pip install 'tinygpt[gym]'")
    start = time.monotonic()
    command = [sys.executable, "build.py", file.name]
    done = _finish(command, file.parent, BUILD_SECONDS)
    if done is None:
        raise Stopped(f"building {file.name} took more than {BUILD_SECONDS:.0f} s and was stopped")
    status, output = done
    if status:
        raise Stopped(_compiler_message(file.name, output))
    return time.monotonic() - start


def _finish(command: list[str], folder: Path, limit: float) -> tuple[int, str] | None:
    """Run a command to its end; None if it was stopped at the limit."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, start_new_session=True)
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _kill(process)
        output.seek(0)
        return status, output.read().decode("utf-8", "replace")


def _compiler_message(name: str, output: str) -> str:
    """Cut the output of a failed build down to what is about the learner's file."""
    if "command 'gcc' failed: No such file" in output or "command 'cc' failed: No such file" in output:
        return f"{name} needs a C compiler, such as gcc or clang, and there is none"
    lines = [line for line in output.splitlines() if line.strip()]
    at = [i for i, line in enumerate(lines) if name in line and ": " in line and "Error compiling" not in line]
    errors = [i for i in at if "warning" not in lines[i]]
    shown = lines[max(0, errors[0] - 6) : errors[0] + 1] if errors else lines[-LAST_LINES:]
    return f"{name} does not compile:\n" + "\n".join(shown)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process with everything that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run(
    action: str,
    exercise: Exercise,
    file: Path,
    limit: float,
    watch: Callable[[Event], None] = lambda event: None,
    arguments: tuple[str, ...] = (),
) -> tuple[Event, str]:
    """Run the worker on a learner's file.

    Parameters
    ----------
    action : str
        ``check``, ``time`` or ``train``.
    exercise : Exercise
    file : Path
        The learner's file, built if it is Cython.
    limit : float
        Longest time between two events, in seconds.
    watch : callable
        Receives every event as it happens.
    arguments : tuple of str
        Further arguments of the action.

    Returns
    -------
    dict
        The last event.
    str
        What the learner's code printed, its last lines.

    Raises
    ------
    Stopped
        The code ran into the limit, crashed, or ended the process.
    """
    with tempfile.TemporaryDirectory() as folder, open(Path(folder, "output"), "w+b") as output:
        events = Path(folder, "events")
        events.touch()
        process = _worker([action, exercise.name, str(file), str(events), *arguments], file.parent, output)
        last: Event = {"event": "started"}
        try:
            for event in _events(process, events, limit):
                last = event
                watch(event)
        finally:
            in_time = process.poll() is not None
            _kill(process)
        output.seek(0)
        printed = output.read().decode("utf-8", "replace")
    if last["event"] not in OUTCOMES:
        raise Stopped(_ending(file.name, last, process.returncode if in_time else None, limit, printed))
    return last, "\n".join(printed.splitlines()[-LAST_LINES:])


def _worker(arguments: list[str], folder: Path, output: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start the worker in a folder, with this tinygpt; -P keeps files of the folder from being taken for modules."""
    path = os.pathsep.join(filter(None, [str(Path(tinygpt.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "tinygpt.gym.worker", *arguments],
        cwd=folder,
        stdout=output,
        stderr=output,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
    )


def _events(process: subprocess.Popen[bytes], log: Path, limit: float) -> Iterator[Event]:
    """Yield events as they are written, until the process ends or is silent for too long."""
    deadline = time.monotonic() + max(limit, 60.0)  # until "started" the time is Python's, not the learner's
    with log.open(encoding="utf-8") as lines:
        part = ""
        while True:
            ended = process.poll() is not None
            part += lines.read()
            *whole, part = part.split("\n")
            for line in whole:
                yield json.loads(line)
                deadline = time.monotonic() + limit
            if ended or (not whole and time.monotonic() > deadline):
                return
            if not whole:
                time.sleep(POLL)


def _ending(name: str, last: Event, status: int | None, limit: float, printed: str) -> str:
    """Say in one line how a process ended without an outcome."""
    where = f" in case {last['number']} ({last['title']})" if last["event"] == "trial" else ""
    if status is None:
        return f"{name} was stopped after {limit:g} s{where}: an endless loop, or far too slow for this case"
    if status < 0:
        what = signal.strsignal(-status) or f"signal {-status}"
        advice = "; it read or wrote outside an array, so check the bounds of every loop"
        return f"{name} crashed{where}: {what.lower()}{advice if -status in (signal.SIGSEGV, signal.SIGBUS) else ''}"
    why = printed.strip().splitlines()[-1:] or ["nothing was printed"]
    return f"{name} ended the program{where}, with status {status}: {why[0]}"
