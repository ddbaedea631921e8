"""metrics.jsonl: one line per step, one per evaluation, readable while the run goes on."""

from __future__ import annotations

import time
from pathlib import Path

from tinygpt.io.atomic import write_text
from tinygpt.io.records import Record, check_numbers, line, read_records

FLUSH_SECONDS = 1.0
NUMBERS = ("loss", "lr", "grad_norm", "tokens_per_s", "gflops", "peak_share", "seconds", "epoch")
EVALUATION = ("val_loss", "val_bits_per_byte")


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
        write_text(path, "".join(map(line, kept)))
        self.records: list[Record] = kept
        self._file = path.open("a", encoding="utf-8")
        self._flushed = time.monotonic()

    def write(self, record: Record) -> None:
        """Append one record. It reaches the file with the first write a second later, or with `flush`."""
        self._file.write(line(record))
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


def read_metrics(path: Path) -> list[Record]:
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
    return read_records(path).records


def check_metrics(record: Record) -> None:
    """Raise ValueError unless a record is one of a step or of an evaluation."""
    kind = next((name for name in ("loss", "val_loss") if record.get(name) is not None), None)
    if kind is None:
        raise ValueError("must have a loss or a val_loss")
    check_numbers(record, (*NUMBERS, *EVALUATION))
