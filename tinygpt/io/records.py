"""Files with one JSON object per line, such as metrics.jsonl: written line by line, read without trusting them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tinygpt.io.strict import is_count, naming, one_line, parse_object, require_file, shown

MAX_STEP = 2**53  # what JavaScript, which draws the pages, still counts exactly
MAX_LINE = 2**24  # characters: a line of watch.jsonl of a model with thousands of tensors has a few million

Record = dict[str, Any]


class Lines(NamedTuple):
    """What `read_records` finds."""

    records: list[Record]
    torn: int | None  # number of a last line that was begun and never finished


def line(record: Record) -> str:
    """A record as a line; ValueError if a number in it is none that JSON has."""
    return json.dumps(record, allow_nan=False) + "\n"


def read_records(path: Path, check: Callable[[Record], None] | None = None) -> Lines:
    """The records of a file, each of which has a step.

    Parameters
    ----------
    path : Path
    check : function, optional
        Raises ValueError for a record that is not as it must be.

    Returns
    -------
    Lines
        Without a last line that a killed run left unfinished; `torn` has its number.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        Not a regular file, not UTF-8, or another line is no JSON object with a step; the message names file and line.
    """
    require_file(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from None
    records: list[Record] = []
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        with naming(f"{path}: line {number}"):
            try:
                record = _parsed(text)
            except ValueError:
                if number == len(lines):  # it has no line end
                    return Lines(records, number)
                raise
            step = record.get("step")
            if step is None or not (step == -1 or is_count(step)) or step > MAX_STEP:
                raise ValueError(f"must have a step from -1 (before the first) to 2^53, got {shown(step)}")
            if check is not None:
                check(record)
        records.append(record)
    return Lines(records, None)


def _parsed(text: str) -> Record:
    if len(text) > MAX_LINE:
        raise ValueError(f"must be at most {MAX_LINE} characters long, got {len(text)}")
    try:
        return parse_object(text.encode("utf-8"))
    except ValueError as error:
        raise ValueError(one_line(str(error))) from None


def check_numbers(record: Record, names: Sequence[str], needed: Sequence[str] = ()) -> None:
    """Raise ValueError unless the named fields that are there are finite numbers, and the needed ones are there.

    Parameters
    ----------
    record : dict
    names : sequence of str
        Fields that may be missing or null.
    needed : sequence of str
        Fields that may not.
    """
    for name in needed:
        if record.get(name) is None:
            raise ValueError(f"'{name}' is missing")
    for name in names:
        value = record.get(name)
        if value is not None and not is_number(value):
            raise ValueError(f"'{name}' must be a finite number, got {shown(value)}")


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a finite number that a double holds; True and False are not."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= 1e300 if isinstance(value, int) else math.isfinite(value)
