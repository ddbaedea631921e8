"""Checks a learner's function on the trials of an exercise and explains the first one that fails.

A typical mistake is a wrong solution kept beside the exercise. It is recognised by its results: the learner's function
gives the same wrong values, or raises the same exception, on the same inputs.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tinygpt.gym.catalogue import Exercise
from tinygpt.gym.trials import Trial, Wrong

Function = Callable[..., Any]
SHOWN = 36  # elements of an array that are printed in full
FACTOR_TOLERANCE = 1e-3  # relative spread of got / wanted that still counts as one factor


@dataclass
class Failure:
    """The first trial that fails.

    Parameters
    ----------
    number : int
        Of the trial, from 1.
    title : str
        What is special about its inputs.
    problem : str
        What is wrong, with the first wrong element or the exception and its line.
    inputs, wanted, got : list of (str, str)
        Names and printed values.
    reason : str
        The likely reason; "" if none was recognised.
    hint : str
        How to go on from the recognised mistake; "" if there is none.
    mistake : str
        Name of the recognised mistake.
    unwritten : bool
        The stub still raises NotImplementedError.
    """

    number: int
    title: str
    problem: str
    inputs: list[tuple[str, str]] = field(default_factory=list)
    wanted: list[tuple[str, str]] = field(default_factory=list)
    got: list[tuple[str, str]] = field(default_factory=list)
    reason: str = ""
    hint: str = ""
    mistake: str = ""
    unwritten: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-compatible values."""
        return asdict(self)


def judge(
    exercise: Exercise, function: Function, file: str = "", begin: Callable[[int, str], None] = lambda i, title: None
) -> Failure | None:
    """Run the trials in order.

    Parameters
    ----------
    exercise : Exercise
    function : callable
        The learner's function.
    file : str
        File of the function; an exception is reported with its line there.
    begin : callable
        Is told number and title of each trial before it runs, so that a crash can be placed.

    Returns
    -------
    Failure or None
        None if every trial passes.
    """
    trials = exercise.trials
    for i, trial in enumerate(trials):
        begin(i + 1, trial.title)
        failure, outputs, _ = attempt(trial, function, file)
        if failure is None:
            continue
        failure.number = i + 1
        if not failure.unwritten:
            found = recognise(exercise.module.MISTAKES, [*trials[i:], *trials[:i]], function)
            if found is not None:
                failure.mistake = found.__name__
                failure.reason, failure.hint = reason_and_hint(found)
            else:
                failure.reason = symptom(trial, outputs) if outputs else symptom_of_error(failure.problem)
        return failure
    return None


# The failure if there is one, the outputs if there are any, and the exception if there is one.
Attempt = tuple[Failure | None, dict[str, Any] | None, Exception | None]


def attempt(trial: Trial, function: Function, file: str = "") -> Attempt:
    """Run one trial; returns the failure if there is one, the outputs if there are any, and the exception if any."""
    failure = Failure(0, trial.title, "", _printed(trial.inputs), _printed(trial.shown(trial.wanted)))
    outputs = None
    try:
        with np.errstate(all="ignore"):
            outputs = trial.run(function)
        trial.compare(outputs)
    except NotImplementedError as error:
        failure.problem, failure.unwritten = f"{file or 'the function'} is not written yet", True
        return failure, None, error
    except Wrong as error:
        failure.problem = str(error)
        if outputs is not None:
            failure.got = _printed(trial.shown({name: outputs[name] for name in trial.wanted}))
        return failure, outputs, None
    except Exception as error:  # noqa: BLE001 - a learner's function may raise anything
        failure.problem = f"{type(error).__name__}: {error}{_line(error, file)}"
        return failure, None, error
    return None, outputs, None


def recognise(mistakes: tuple[Function, ...], trials: list[Trial], function: Function) -> Function | None:
    """Find the mistake that behaves like the function on the first trial; the others decide between several."""
    result = attempt(trials[0], function)
    found = [one for one in mistakes if alike(trials[0], attempt(trials[0], one), result)]
    for trial in trials[1:]:
        if len(found) < 2:
            break
        result = attempt(trial, function)
        found = [one for one in found if alike(trial, attempt(trial, one), result)] or found
    return found[0] if found else None


def alike(trial: Trial, one: Attempt, other: Attempt) -> bool:
    """Tell whether two functions behave alike on a trial: both right, the same exception, or the same wrong values."""
    (failure, outputs, error), (others_failure, others, others_error) = one, other
    if failure is None or others_failure is None:
        return failure is others_failure
    if outputs is None or others is None:
        same_words = error is not None or failure.problem == others_failure.problem
        return outputs is others and type(error) is type(others_error) and same_words
    return trial.same(outputs, others)


def reason_and_hint(mistake: Function) -> tuple[str, str]:
    """Split the docstring of a mistake into its first paragraph and the rest, each on one line."""
    first, _, rest = (mistake.__doc__ or "").partition("\n\n")
    return " ".join(first.split()), " ".join(rest.split())


def symptom(trial: Trial, outputs: Mapping[str, Any]) -> str:
    """Describe results that belong to no known mistake by what they have in common."""
    if any(isinstance(wanted, np.ndarray) for wanted in trial.wanted.values()) and "returned" in outputs:
        untouched = [name for name in trial.wanted if np.isnan(np.asarray(outputs[name], np.float64)).all()]
        if untouched and outputs["returned"] is not None:
            return f"The function returns its result. Write it into '{untouched[0]}' instead, as {untouched[0]}[...] = "
        if untouched:
            return f"Nothing was written into '{untouched[0]}': before the call it is full of NaN, and it still is."
        partly = [name for name in trial.wanted if np.isnan(np.asarray(outputs[name], np.float64)).any()]
        if partly and not any(np.isnan(wanted).any() for wanted in trial.wanted.values()):
            return (
                f"Part of '{partly[0]}' is NaN. Either these elements were never written (outputs start as NaN), or "
                "the computation itself made NaN, as inf - inf, inf / inf and 0 / 0 do."
            )
    for name, wanted in trial.wanted.items():
        text = _common(np.asarray(outputs[name]), np.asarray(wanted))
        if text:
            return text
    return ""


def symptom_of_error(problem: str) -> str:
    """Explain an exception that comes from the rules of a check."""
    if "read-only" in problem:
        return "An input was written to. Inputs are read-only: use a variable of your own, or write into the output."
    return ""


def _common(got: np.ndarray, wanted: np.ndarray) -> str:
    """Find one factor, one offset or a transposition between two arrays of numbers."""
    numeric = all(x.dtype.kind in "fiu" for x in (got, wanted))
    if not numeric or got.size < 2 or not np.isfinite(got).all() or not np.isfinite(wanted).all():
        return ""
    got, wanted = got.astype(np.float64), wanted.astype(np.float64)
    if got.ndim == 2 and got.shape == wanted.shape[::-1] and np.allclose(got, wanted.T, rtol=1e-3):
        return "The result is transposed: rows and columns are exchanged."
    if got.shape != wanted.shape:
        return ""
    if not got.any():
        return "Every element is 0."
    solid = abs(wanted) > 1e-6 * abs(wanted).max(initial=0)
    if solid.sum() > 1:
        factors = got[solid] / wanted[solid]
        if np.ptp(factors) <= FACTOR_TOLERANCE * abs(factors).max():
            return f"Every element is {factors.mean():.4g} times what it must be: one factor is missing or too much."
    offsets = got - wanted
    if np.ptp(offsets) <= FACTOR_TOLERANCE * abs(offsets).max():
        return f"Every element differs by the same {offsets.mean():.4g}: one term is missing or too much."
    return ""


def _line(error: Exception, file: str) -> str:
    """Name the last line of the learner's file in a traceback."""
    frames = [one for one in traceback.extract_tb(error.__traceback__) if Path(one.filename).name == Path(file).name]
    return f" ({file}, line {frames[-1].lineno})" if file and frames else ""


def _printed(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, printed(x)) for name, x in values.items()]


def printed(x: Any) -> str:
    """Print a value for a learner: small arrays in full, of larger ones shape and corners."""
    if isinstance(x, np.ndarray) and x.ndim:
        text = np.array2string(x, precision=4, threshold=SHOWN, edgeitems=2, separator=", ", max_line_width=88)
        return text if x.size <= SHOWN else f"shape {x.shape}\n{text}"
    if isinstance(x, (float, np.floating)):
        return f"{x:.6g}"
    return repr(x)
