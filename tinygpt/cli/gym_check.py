"""Output of `tinygpt gym check` and `tinygpt gym train`."""

from __future__ import annotations

import math
import textwrap
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

    from tinygpt.gym.catalogue import Exercise
    from tinygpt.gym.project import Project

YOURS = "yours"
BAR = 30  # columns of the fastest bar
LABEL = 13  # columns of a label with its gap
SAME_CURVE = 0.02  # relative difference of two losses that rounding explains over a few hundred steps
SHOWN_STEPS = 6  # rows in the table of losses
MEAN_OF = 10  # steps: single batches are too noisy to show a curve
TIMING_SECONDS = 60.0  # for a rung to be timed or a step to be trained, however short --seconds is
DISTURBED = "~"


def check(console: Console, project: Project, exercise: Exercise, seconds: float) -> int:
    """Build and check the learner's file, then time it; returns the exit status."""
    from tinygpt.cli.app import FAILED
    from tinygpt.gym.runner import Stopped, run

    file = project.source(exercise)
    record = project.record(exercise)
    project.current, record.checks, record.mistake = exercise.name, record.checks + 1, None
    project.save()
    console.print(f"[bold]{exercise.name}[/]  {file.name}")
    titles: list[str] = []
    try:
        _build(console, file)
        outcome, printed = run("check", exercise, file, seconds, partial(_trial, console, titles))
    except Stopped as error:
        return _problem(console, str(error))
    _print_own(console, printed)
    if outcome["event"] == "broken":
        return _problem(console, outcome["problem"])
    if outcome["event"] == "wrong":
        _explain(console, outcome, exercise)
        record.mistake = outcome["mistake"] or None
        project.save()
        return FAILED
    _passed(console, titles[-1:])
    console.print(f"[green]all {len(titles)} cases are right[/]")
    fast = exercise.op is None or _race(console, exercise, file, seconds, record)
    if not fast:
        project.save()
        return FAILED
    record.solved = True
    project.save()
    _congratulate(console, project, exercise)
    return 0


def _build(console: Console, file: Path) -> None:
    from tinygpt.gym.runner import build, needs_build

    if needs_build(file):
        with console.status(f"building {file.name}"):
            taken = build(file)
        _fact(console, "built", f"{file.name} in {taken:.1f} s")


def _fact(console: Console, label: str, text: str, style: str = "") -> None:
    """Print a label with a text of one or several lines beside it."""
    for i, line in enumerate(lines_of(console, text)):
        console.print(Text(f"  {'' if i else label:<{LABEL - 2}}", style or "dim") + Text(line, style))


def lines_of(console: Console, text: str) -> list[str]:
    """Split a text into lines that fit beside a label; only a terminal has a width to keep."""
    width = max(20, console.width - LABEL) if console.is_terminal else 10_000
    wrapped = (textwrap.wrap(line, width, drop_whitespace=False) or [""] for line in text.splitlines() or [""])
    return [part for line in wrapped for part in line]


def _problem(console: Console, text: str) -> int:
    from tinygpt.cli.app import FAILED

    _fact(console, "problem", text, "red")
    return FAILED


def _trial(console: Console, titles: list[str], event: dict[str, Any]) -> None:
    """Print the case before as passed, since the next one begins."""
    if event["event"] == "trial":
        _passed(console, titles[-1:])
        titles.append(event["title"])


def _passed(console: Console, titles: list[str]) -> None:
    for title in titles:
        console.print(Text(f"  {'ok':<{LABEL - 2}}", "green") + Text(title))


def _print_own(console: Console, printed: str) -> None:
    """Print what the learner's own code printed."""
    if printed:
        _fact(console, "printed", printed)


def _explain(console: Console, failure: dict[str, Any], exercise: Exercise) -> None:
    """Print the first failing case: inputs, expected, got, likely reason."""
    if failure["unwritten"]:
        _fact(console, "to do", failure["problem"], "yellow")
        _fact(console, "start with", exercise.hints[0])
        return
    console.print(Text(f"  {'wrong':<{LABEL - 2}}", "red") + Text(failure["title"]))
    for label, values in (("inputs", failure["inputs"]), ("expected", failure["wanted"]), ("got", failure["got"])):
        text = "\n".join(_assignment(name, value) for name, value in values)
        if text:
            _fact(console, label, text)
    _fact(console, "difference" if failure["got"] else "problem", failure["problem"], "red")
    if failure["reason"]:
        _fact(console, "likely", failure["reason"], "yellow")
    console.print("tinygpt gym hint  says more" if failure["hint"] else "tinygpt gym hint  gives a hint")


def _assignment(name: str, value: str) -> str:
    """Print a value under its name, further lines below the first."""
    first, *rest = value.splitlines()
    return "\n".join([f"{name} = {first}", *(f"{' ' * (len(name) + 3)}{line}" for line in rest)])


def _race(console: Console, exercise: Exercise, file: Path, seconds: float, record: Any) -> bool:
    """Time the rungs and the learner's kernel, and draw the bars; returns False if a rung to beat was faster."""
    from tinygpt.gym.runner import Stopped, run

    try:
        with console.status("timing"):
            outcome, _ = run("time", exercise, file, max(seconds, TIMING_SECONDS))
    except Stopped as error:
        _problem(console, str(error))
        return False
    if outcome["event"] != "timed":
        _problem(console, f"wrong on the case that is timed: {outcome['problem']}")
        return False
    times = outcome["seconds"]
    sizes = "  ".join(f"{letter} {size}" for letter, size in exercise.sizes.items())
    console.print(f"speed on one thread, {sizes} (logarithmic scale)")
    for line in bars(times):
        console.print(line)
    console.print(standing(times))
    if outcome["disturbed"]:
        console.print(f"{DISTURBED} other programs were busy meanwhile, so that times may be too long", style="dim")
    mine = times[YOURS]
    record.best_seconds = mine if record.best_seconds is None else min(mine, record.best_seconds)
    rung = exercise.beat
    if rung is not None and mine >= times[rung]:
        text = f"it takes {mine / times[rung]:.2f} times as long as '{rung}', which is to be beaten"
        _fact(console, "too slow", text, "yellow")
        console.print("tinygpt gym hint  gives a hint")
        return False
    return True


def bars(times: dict[str, float]) -> list[Text]:
    """Draw a bar per rung, slowest first, on a logarithmic scale of speed; the learner's is highlighted."""
    slowest, fastest = max(times.values()), min(times.values())
    span = math.log(slowest / fastest) or 1.0
    lines = []
    for name, seconds in sorted(times.items(), key=lambda one: -one[1]):
        columns = 1 + round((BAR - 1) * math.log(slowest / seconds) / span)
        style = "bold green" if name == YOURS else ""
        ratio = f"{slowest / seconds:,.1f} x" if seconds < slowest else ""
        text = f"  {name:<{LABEL - 2}}{'█' * columns:<{BAR}} {_time(seconds):>10}  {ratio:>10}"
        lines.append(Text(text, style))
    return lines


def standing(times: dict[str, float]) -> str:
    """Say between which rungs the learner's kernel is."""
    mine = times[YOURS]
    slower = [name for name in times if name != YOURS and times[name] > mine]
    faster = [name for name in times if name != YOURS and times[name] <= mine]
    parts = []
    if slower:
        best = min(slower, key=times.__getitem__)
        parts.append(f"{times[best] / mine:,.1f} times as fast as '{best}'")
    if faster:
        nearest = max(faster, key=times.__getitem__)
        parts.append(f"'{nearest}' is {mine / times[nearest]:,.1f} times as fast as yours")
    return "yours is " + ", and ".join(parts) if slower else parts[0]


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:,.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:,.1f} us"


def _congratulate(console: Console, project: Project, exercise: Exercise) -> None:
    """Say that an exercise is solved and what comes next."""
    from tinygpt.gym.catalogue import exercises

    solved = sum(record.solved for record in project.records.values())
    console.print(f"[bold green]solved[/]    {solved} of {len(exercises())} exercises")
    if exercise.trains:
        console.print("next      tinygpt gym train   trains a model with your kernel in use")
    following = next((one for one in exercises() if one not in project.records), None)
    if following is not None:
        console.print(f"{'          ' if exercise.trains else 'next      '}tinygpt gym start {following}")


def train(console: Console, project: Project, exercise: Exercise, seconds: float, steps: int) -> int:
    """Train a small model with the fastest rung and with the learner's kernel, and compare the losses."""
    from rich.progress import Progress

    from tinygpt.gym.runner import Stopped, run

    if not exercise.trains:
        raise ValueError(f"{exercise.name} has no kernel that training uses; gym train works for the kernel exercises")
    if not project.record(exercise).solved:
        raise ValueError(f"{exercise.name} is not solved yet; run 'tinygpt gym check {exercise.name}' first")
    file = project.source(exercise)
    losses: dict[str, list[float]] = {}
    taken: dict[str, float] = {}
    try:
        _build(console, file)
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("training two models", total=2 * steps)

            def watch(event: dict[str, Any]) -> None:
                if event["event"] == "step":
                    losses.setdefault(event["run"], []).append(event["loss"])
                    taken[event["run"]] = event["seconds"]
                    progress.advance(task)

            outcome, printed = run("train", exercise, file, max(seconds, TIMING_SECONDS), watch, (str(steps),))
    except Stopped as error:
        return _problem(console, str(error))
    if outcome["event"] == "broken":
        return _problem(console, outcome["problem"])
    _print_own(console, printed)
    _compare(console, losses, taken, outcome["ops"])
    return 0


def _compare(console: Console, losses: dict[str, list[float]], taken: dict[str, float], ops: list[str]) -> None:
    """Print both loss curves side by side, and the time of a step."""
    from rich.table import Table

    best = next(name for name in losses if name != YOURS)
    count = len(losses[YOURS])
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("step", best, YOURS):
        table.add_column(name, justify="right")
    for end in sorted({1 + round(i * (count - 1) / (SHOWN_STEPS - 1)) for i in range(SHOWN_STEPS)}):
        means = (sum(losses[name][max(0, end - MEAN_OF) : end]) / min(end, MEAN_OF) for name in (best, YOURS))
        table.add_row(str(end), *(f"{mean:.4f}" for mean in means))
    table.add_row("ms/step", *(f"{1e3 * taken[name] / count:.1f}" for name in (best, YOURS)))
    with_yours = f"with your kernel for {' and '.join(ops)}"
    console.print(f"loss of a small model (mean of {MEAN_OF} steps), all kernels '{best}' and {with_yours}")
    console.print(table)
    apart = max(abs(one / other - 1) for one, other in zip(losses[YOURS], losses[best], strict=True))
    if apart <= SAME_CURVE:
        console.print(f"[green]the same curve[/] to {100 * apart:.2g} %: the model learns with your kernel")
    else:
        console.print(f"[red]the curves part[/] by {100 * apart:.2g} %: your kernel is wrong for inputs of training")
