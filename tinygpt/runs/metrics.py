"""Metrics records: one line of metrics.jsonl per step and per evaluation, readable during the run."""

from __future__ import annotations

import time
from pathlib import Path

from tinygpt.io.atomic import write_text
from tinygpt.io.records import Record, check_numbers, line, read_records

FLUSH_SECONDS = 1.0  # most seconds that a record waits in memory while further records are written
# Fields of a record of a step, and of an evaluation.
NUMBERS = ("loss", "lr", "grad_norm", "tokens_per_s", "gflops", "peak_share", "seconds", "epoch")
EVALUATION = ("val_loss", "val_bits_per_byte")


class MetricsLog:
    """A file of records that a run appends to.

    Parameters
    ----------
    path : Path
        The file; created if missing.
    keep_until : int
        Records of this step and later ones are dropped first, because a resumed run repeats these steps.

    Attributes
    ----------
    records : list of dict
        All records in the file, in order.
    """

    def __init__(self, path: Path, keep_until: int = 0):
        kept = [record for record in read_metrics(path) if record["step"] < keep_until] if path.exists() else []
        write_text(path, "".join(map(line, kept)))
        self.records: list[Record] = kept
        self._file = path.open("a", encoding="utf-8")
        self._flushed = time.monotonic()

    def write(self, record: Record) -> None:
        """Append one record; it reaches the file with `flush`, or with the first record FLUSH_SECONDS later."""
        self._file.write(line(record))
        self.records.append(record)
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write all records to the file; done before a checkpoint, which must not be newer than its records."""
        self._file.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Write all records and close the file."""
        self._file.close()


def read_metrics(path: Path) -> list[Record]:
    """Read the records of a metrics.jsonl.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    list of dict
        All records, without a last line that a killed run left unfinished.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ValueError
        The file is not UTF-8, or a line before the last is not a JSON object with a step.
    """
    return read_records(path).records


def check_metrics(record: Record) -> None:
    """Raise ValueError unless a record is that of a step or an evaluation, with finite numbers."""
    kind = next((name for name in ("loss", "val_loss") if record.get(name) is not None), None)
    if kind is None:
        raise ValueError("must have a loss or a val_loss")
    check_numbers(record, (*NUMBERS, *EVALUATION))
