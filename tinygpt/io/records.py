"""Line records: files with one JSON object per line, such as metrics.jsonl, read without trusting them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tinygpt.io.strict import is_count, naming, one_line, parse_object, require_file, shown

MAX_STEP = 2**53  # largest count that JavaScript, which draws the pages, represents exactly
MAX_LINE = 2**24  # characters; a line of watch.jsonl takes about 5 million for a model with 10,000 tensors

Record = dict[str, Any]


class Lines(NamedTuple):
    """Result of `read_records`."""

    records: list[Record]
    torn: int | None  # number of the last line if a killed run left it unfinished


def line(record: Record) -> str:
    """Format a record as a line; ValueError for NaN and infinity, which JSON does not have."""
    return json.dumps(record, allow_nan=False) + "\n"


def read_records(path: Path, check: Callable[[Record], None] | None = None) -> Lines:
    """Read all records of a file; each must have a step.

    Parameters
    ----------
    path : Path
        File with one JSON object per line.
    check : function, optional
        Called with every record; raises ValueError for one that is not valid.

    Returns
    -------
    Lines
        An unfinished last line is left out, and `torn` has its number.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ValueError
        The path is not a regular file, the text is not UTF-8, or a line before the last is not a valid record. The
        message names the file and the line.
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
                if number == len(lines):  # no line end follows it, so it was never finished
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
    """Parse one line."""
    if len(text) > MAX_LINE:
        raise ValueError(f"must be at most {MAX_LINE} characters long, got {len(text)}")
    try:
        return parse_object(text.encode("utf-8"))
    except ValueError as error:
        raise ValueError(one_line(str(error))) from None


def check_numbers(record: Record, names: Sequence[str], needed: Sequence[str] = ()) -> None:
    """Raise ValueError unless all needed fields are present and all named ones are finite numbers.

    Parameters
    ----------
    record : dict
        One line.
    names : sequence of str
        Fields that are a finite number, null or missing.
    needed : sequence of str
        Fields that must be neither null nor missing.
    """
    for name in needed:
        if record.get(name) is None:
            raise ValueError(f"'{name}' is missing")
    for name in names:
        value = record.get(name)
        if value is not None and not is_number(value):
            raise ValueError(f"'{name}' must be a finite number, got {shown(value)}")


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number in the range of a double; True and False are not."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= 1e300 if isinstance(value, int) else math.isfinite(value)
