"""Where the records of a run go besides metrics.jsonl: the page of the run, and TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinygpt.io.records import Record
from tinygpt.runs.read import RunData
from tinygpt.train.setup import Run

# Field of a record -> what TensorBoard calls it. A common beginning puts curves into one group.
SCALARS = {
    "loss": "loss/train",
    "val_loss": "loss/validation",
    "val_bits_per_byte": "loss/validation_bits_per_byte",
    "lr": "optimizer/lr",
    "grad_norm": "optimizer/grad_norm",
    "epoch": "optimizer/epoch",
    "tokens_per_s": "speed/tokens_per_s",
    "gflops": "speed/gflops",
    "peak_share": "speed/peak_share",
    "seconds": "speed/seconds",
}


class TensorBoard:
    """Writes the numbers of every record as scalars into an event file.

    Parameters
    ----------
    folder : Path

    Raises
    ------
    ImportError
        tensorboardX is not installed; the message names the extra.
    ValueError
        `folder` is no directory or cannot be written.
    """

    def __init__(self, folder: Path):
        try:
            import tensorboardX  # noqa: F401 - found missing here rather than after the text has been read
        except ImportError:
            raise ImportError("--tensorboard needs tensorboardX: pip install 'tinygpt[tensorboard]'") from None
        from tinygpt.io.paths import check_file

        if folder.exists() and not folder.is_dir():
            raise ValueError(f"--tensorboard {folder}: is a file, name a directory")
        check_file(folder / "events", "--tensorboard")
        self.folder = folder
        self.writer: Any = None

    def open(self, first: int) -> None:
        """Begin a file; what an earlier one has of step `first` and of later ones counts no more."""
        from tensorboardX import SummaryWriter

        # The name of a file has the second it was made in: two of one second must differ.
        self.writer = SummaryWriter(str(self.folder), purge_step=first or None, filename_suffix=f".{first}")

    def write(self, record: Record) -> None:
        """Add one record."""
        for name, tag in SCALARS.items():
            if record.get(name) is not None:
                self.writer.add_scalar(tag, record[name], record["step"])

    def close(self) -> None:
        """Write what is left and close the file."""
        if self.writer is not None:
            self.writer.close()


def tensorboard(folder: str | None) -> TensorBoard | None:
    """The sink that ``--tensorboard`` asks for."""
    return None if folder is None else TensorBoard(Path(folder).expanduser())


def run_data(run: Run, out: Path, watched: list[Record], score: float | None) -> RunData:
    """A run as its page shows it, but for its records.

    Parameters
    ----------
    run : Run
    out : Path
        Run directory.
    watched : list of dict
        Lines of watch.jsonl.
    score : float or None
        Loss of the best model on the whole validation split.

    Returns
    -------
    RunData
    """
    return RunData(
        str(out),
        [],
        run.settings.table(),
        run.model.config.vocab_size,
        run.model.num_parameters(),
        run.total_steps,
        watched,
        score=score,
    )
