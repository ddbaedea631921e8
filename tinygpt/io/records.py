"""Line records: files with one JSON object per line, such as metrics.jsonl, read without trusting them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tinygpt.io.strict import is_count, naming, one_line, parse_object, require_file, shown

MAX_STEP = 2**53  # largest count that JavaScript, which draws the pages, represents exactly
MAX_LINE = 2**24  # bytes; a line of watch.jsonl takes about 5 million for a model with 10,000 tensors

Record = dict[str, Any]


def line(record: Record) -> str:
    """Format a record as a line; ValueError for NaN and infinity, which JSON does not have."""
    return json.dumps(record, allow_nan=False) + "\n"


class Records:
    """The records of a file, read one by one, so that a long file takes no more memory than a short one.

    Parameters
    ----------
    path : Path
        File with one JSON object per line.
    check : function, optional
        Called with every record; raises ValueError for one that is not valid.

    Attributes
    ----------
    torn : int or None
        After iteration, the number of the last line if a killed run left it unfinished. That line is left out.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ValueError
        The path is not a regular file, the text is not UTF-8, or a line before the last is not a valid record. The
        message names the file and the line.
    """

    def __init__(self, path: Path, check: Callable[[Record], None] | None = None):
        require_file(path)
        self.path, self.check = path, check
        self.torn: int | None = None

    def __iter__(self) -> Iterator[Record]:
        offset = 0
        with open(self.path, "rb") as file:
            for number, text in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), 1):
                record = self._record(number, text, offset)
                offset += len(text)
                if record is not None:
                    yield record

    def _record(self, number: int, text: bytes, offset: int) -> Record | None:
        """Parse one line; None for an empty or an unfinished one."""
        if not text.strip():
            return None
        try:
            text.decode()
            with naming(f"{self.path}: line {number}"):
                record = _parsed(text)
        except UnicodeDecodeError as error:
            if not text.endswith(b"\n") and len(text) <= MAX_LINE:
                self.torn = number
                return None
            raise ValueError(f"{self.path}: not UTF-8: {error.reason} at byte {offset + error.start}") from None
        except ValueError:
            if not text.endswith(b"\n") and len(text) <= MAX_LINE:
                self.torn = number
                return None
            raise
        with naming(f"{self.path}: line {number}"):
            step = record.get("step")
            if step is None or not (step == -1 or is_count(step)) or step > MAX_STEP:
                raise ValueError(f"must have a step from -1 (before the first) to 2^53, got {shown(step)}")
            if self.check is not None:
                self.check(record)
        return record


def _parsed(text: bytes) -> Record:
    """Parse one line."""
    if len(text) > MAX_LINE:
        raise ValueError(f"must be at most {MAX_LINE} bytes long")
    try:
        return parse_object(text)
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
    """Tell whether a JSON value is a finite number in the range of a double; True and False are not."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= 1e300 if isinstance(value, int) else math.isfinite(value)
