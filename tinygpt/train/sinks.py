"""Records of a run for other readers than metrics.jsonl: TensorBoard, and the facts that the page of a run shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinygpt.io.records import Record
from tinygpt.runs.read import RunData
from tinygpt.train.setup import Run

# Field of a record -> tag in TensorBoard, which groups curves by the part before the slash.
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
    """Writes the numbers of every record as scalars to an event file.

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
            import tensorboardX  # noqa: F401 - found missing now rather than after the text has been read
        except ImportError:
            raise ImportError("[train] 'tensorboard' needs tensorboardX: pip install 'tinygpt[tensorboard]'") from None
        from tinygpt.io.paths import check_directory

        if folder.exists() and not folder.is_dir():
            raise ValueError(f"[train] 'tensorboard' {folder}: is a file, name a directory")
        check_directory(folder, "[train] 'tensorboard'")
        self.folder = folder
        self.writer: Any = None

    def open(self, first: int) -> None:
        """Open an event file that replaces what earlier files hold of step `first` and later steps."""
        from tensorboardX import SummaryWriter

        # The suffix keeps two files apart that were opened in the same second, which their name states.
        self.writer = SummaryWriter(str(self.folder), purge_step=first or None, filename_suffix=f".{first}")

    def write(self, record: Record) -> None:
        """Add one record."""
        for name, tag in SCALARS.items():
            if record.get(name) is not None:
                self.writer.add_scalar(tag, record[name], record["step"])

    def close(self) -> None:
        """Flush and close the file."""
        if self.writer is not None:
            self.writer.close()


def run_data(run: Run, out: Path, watched: list[Record], score: float | None) -> RunData:
    """Describe a run for its page, without its records.

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
