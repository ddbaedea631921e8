"""metrics.jsonl: one line per step, one per evaluation, readable while the run goes on."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from tinygpt.files.atomic import write_text

FLUSH_SECONDS = 1.0


class MetricsLog:
    """Appends records to metrics.jsonl, and keeps them in `records`.

    Parameters
    ----------
    path : Path
    keep_until : int
        Records of this step and later are dropped first: a run that goes on from a checkpoint does them again.
    """

    def __init__(self, path: Path, keep_until: int = 0):
        kept = [record for record in read_metrics(path) if record["step"] < keep_until] if path.exists() else []
        write_text(path, "".join(map(_line, kept)))
        self.records: list[dict[str, Any]] = kept
        self._file = path.open("a", encoding="utf-8")
        self._flushed = time.monotonic()

    def write(self, record: dict[str, Any]) -> None:
        """Append one record. It reaches the file with the first write a second later, or with `flush`."""
        self._file.write(_line(record))
        self.records.append(record)
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Let the file have everything: a checkpoint must not be newer than the lines that lead to it."""
        self._file.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Flush and close."""
        self._file.close()


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl.

    Parameters
    ----------
    path : Path

    Returns
    -------
    list of dict
        A last line that a killed run left unfinished is dropped.

    Raises
    ------
    ValueError
        The file is not UTF-8, or another line is no JSON object with a step.
    """
    records = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from None
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}: line {number} is not JSON: {error.msg}") from None
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            raise ValueError(f"{path}: line {number} must be an object with a step")
        records.append(record)
    return records
