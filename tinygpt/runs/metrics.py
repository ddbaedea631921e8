"""Metrics records: one line of metrics.jsonl per step and per evaluation, readable during the run."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tinygpt.io.atomic import naming_file, replacing
from tinygpt.io.records import Record, Records, check_numbers, is_number, line

FLUSH_SECONDS = 1.0  # most seconds that a record waits in memory while further records are written
MOST_KEPT = 20_000  # records in memory, about 12 MB
PER_STRETCH = 4  # records of a stretch that stay
# Fields of a record of a step, and of an evaluation.
NUMBERS = ("loss", "lr", "grad_norm", "tokens_per_s", "gflops", "peak_share", "seconds", "epoch")
EVALUATION = ("val_loss", "val_bits_per_byte")


class Kept:
    """Records of a run of any length in bounded memory.

    All records are kept until there are more than `most`. From then on, records are grouped into stretches of equal
    length. Of each stretch stay the first record, those with the lowest and the highest loss, and the one with the
    highest gradient norm, so that no peak is lost. When there are too many stretches, two become one.

    Parameters
    ----------
    most : int
        Records that are kept at most, apart from a few hundred of the newest stretch.

    Attributes
    ----------
    stretch : int
        Records in one stretch; 1 while all are kept.
    """

    def __init__(self, most: int = MOST_KEPT):
        self.most, self.stretch = most, 1
        self._stretches: dict[str, list[list[Record]]] = {}
        self._newest: dict[str, list[Record]] = {}
        self._filled: dict[str, int] = {}  # records in the newest stretch so far
        self._last: dict[str, Record] = {}

    def add(self, record: Record) -> None:
        """Add one record; steps must not go back."""
        kind = "val_loss" if record.get("val_loss") is not None else "loss"
        newest = self._newest.setdefault(kind, [])
        newest.append(record)
        self._last[kind] = record
        self._filled[kind] = self._filled.get(kind, 0) + 1
        if len(newest) > 2 * PER_STRETCH:
            newest[:] = _telling(newest, kind)
        if self._filled[kind] < self.stretch:
            return
        stretches = self._stretches.setdefault(kind, [])
        stretches.append(_telling(newest, kind))
        self._newest[kind], self._filled[kind] = [], 0
        if len(stretches) > max(2, self.most // (1 if self.stretch == 1 else PER_STRETCH)):
            self._merge()

    def _merge(self) -> None:
        """Make the stretches twice as long, or at first as long as keeps the number of records."""
        factor = 2 * PER_STRETCH if self.stretch == 1 else 2
        self.stretch *= factor
        for kind, stretches in self._stretches.items():
            joined = [[*itertools.chain(*stretches[i : i + factor])] for i in range(0, len(stretches), factor)]
            self._stretches[kind] = [_telling(records, kind) for records in joined]

    @property
    def records(self) -> list[Record]:
        """The records that are kept, by step; the evaluation of a step follows it."""
        found: list[Record] = []
        for kind in ("loss", "val_loss"):
            for records in (*self._stretches.get(kind, []), self._newest.get(kind, [])):
                found += records
            last = self._last.get(kind)
            if last is not None and (not found or found[-1] is not last):
                found.append(last)
        return sorted(found, key=lambda record: record["step"])


def _telling(records: list[Record], kind: str) -> list[Record]:
    """Choose the records of a stretch that stay, in their order."""
    if len(records) <= PER_STRETCH:
        return list(records)
    places = range(len(records))
    keep = {0, min(places, key=lambda i: _value(records[i], kind)), max(places, key=lambda i: _value(records[i], kind))}
    keep.add(max(places, key=lambda i: _value(records[i], "grad_norm")))
    keep |= {i for i in places if records[i].get("resumed")}
    return [records[i] for i in sorted(keep)]


def _value(record: Record, name: str) -> float:
    """Return a figure of a record; 0 if it has none."""
    value = record.get(name)
    return float(value) if value is not None and is_number(value) else 0.0


class MetricsLog:
    """Log of records that are appended to a file; as many as a page needs stay in memory.

    Parameters
    ----------
    path : Path
        File with one JSON object per line; created if missing.
    keep_until : int
        Records of this step and later ones are dropped first, because a resumed run repeats these steps.
    most : int
        Records that are kept in memory at most.
    owed : bool
        Drop an evaluation after the last step that is kept too, because a resumed run repeats it.
    """

    def __init__(self, path: Path, keep_until: int = 0, most: int = MOST_KEPT, owed: bool = False):
        self.kept = Kept(most)
        self.path = path
        with replacing(path) as temporary, naming_file(path), open(temporary, "x", encoding="utf-8") as file:
            for record in _until(path, keep_until, owed) if path.exists() else ():
                file.write(line(record))
                self.kept.add(record)
        self._file = path.open("a", encoding="utf-8")
        self._flushed = time.monotonic()

    @property
    def records(self) -> list[Record]:
        """Records of the run so far, thinned if there are more than `most`."""
        return self.kept.records

    def write(self, record: Record) -> None:
        """Append one record. It reaches the file within a second, with the next write, or with `flush`."""
        with naming_file(self.path):
            self._file.write(line(record))
        self.kept.add(record)
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Hand everything to the operating system, so that readers find it and a kill of this process loses nothing."""
        with naming_file(self.path):
            self._file.flush()
        self._flushed = time.monotonic()

    def sync(self) -> None:
        """Write everything to the disk, so that a power cut loses nothing."""
        self.flush()
        with naming_file(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flush and close the file."""
        with naming_file(self.path):
            self._file.close()


def _until(path: Path, step: int, owed: bool) -> Iterator[Record]:
    """Yield the records before `step`; with `owed` without an evaluation after the last of them.

    Steps never go back. What follows the record of the last step may be damaged, because only the records that lead to
    a checkpoint are synced: a write that failed half-way leaves a torn line.
    """
    last = -1
    try:
        for record in Records(path):
            last = record["step"]
            if last >= step or (owed and last == step - 1 and "val_loss" in record):
                return
            yield record
    except ValueError:
        if last < step - 1:
            raise


def read_metrics(path: Path) -> list[Record]:
    """Read all records of a metrics.jsonl; `tinygpt.io.records.Records` reads a long one piece by piece.

    Parameters
    ----------
    path : Path

    Returns
    -------
    list of dict
        Without a last line that a killed run left unfinished.

    Raises
    ------
    ValueError
        The file is not UTF-8, or another line is not a JSON object with a step.
    """
    return list(Records(path))


@dataclass
class Progress:
    """Steps made, training time and best validation loss of a run.

    Attributes
    ----------
    steps : int
        Number of steps made.
    seconds : float or None
        Training time of these steps; None if the records do not say.
    best : float or None
        Lowest validation loss; None without an evaluation.
    """

    steps: int = 0
    seconds: float | None = None
    best: float | None = None


def read_progress(path: Path) -> Progress:
    """Read the progress of a run from its metrics.jsonl, one record at a time.

    Parameters
    ----------
    path : Path

    Returns
    -------
    Progress

    Raises
    ------
    ValueError
        As for `read_metrics`, or a record is neither that of a step nor that of an evaluation.
    """
    found = Progress()
    for record in Records(path, check_metrics):
        if record.get("loss") is not None:
            found.steps, found.seconds = record["step"] + 1, record.get("seconds")
        loss = record.get("val_loss")
        if loss is not None and (found.best is None or loss < found.best):
            found.best = loss
    return found


def check_metrics(record: Record) -> None:
    """Raise ValueError unless a record is that of a step or an evaluation, with finite numbers."""
    kind = next((name for name in ("loss", "val_loss") if record.get(name) is not None), None)
    if kind is None:
        raise ValueError("must have a loss or a val_loss")
    check_numbers(record, (*NUMBERS, *EVALUATION))
