"""Fail every single write, sync and rename of a training run once, and cut the power at every moment; then resume.

usage: python tests/soak/faults.py [--out docs/data/faults.json]

The runs are short (4 steps, 3 checkpoints), because their calls repeat: one trains a model, one adapters of a model.
Each call fails as on a full disk (ENOSPC), as on a broken one (EIO), and as on a disk that stays full until the process
has ended. A power cut keeps only what was synced, or by chance some of the rest, as file systems may.
tests/train/test_faults.py takes a sample of this.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults import after_fault, after_power_cut, cuts, further, reference, seeded
from tiny_run import tiny, write_sources

from tinygpt import __version__
from tinygpt.io import atomic
from tinygpt.train.loop import train
from tinygpt.train.settings import TrainSettings

PACE = {"steps": 4, "eval_every": 2, "checkpoint_every": 2, "dropout": 0.1, "grad_accum": 2, "batch": 2, "keep": 1}
CHANCES = 3  # random outcomes of every power cut


def run_all(kind: Callable[[Path], TrainSettings], folder: Path, counts: dict[str, int]) -> None:
    """Run all faults of one kind of run, and count them.

    Parameters
    ----------
    kind : function
        Maps a directory to the settings of a run two levels below it.
    folder : Path
    counts : dict
    """
    whole, calls = reference(kind(folder / "whole"))
    counts["calls"] += calls
    for code, stays in ((errno.ENOSPC, False), (errno.EIO, False), (errno.ENOSPC, True)):
        for at in range(calls):
            after_fault(kind(folder / "at"), whole, at, code, stays)
            counts["failed"] += 1
            shutil.rmtree(folder / "at")
    for chance in (None, *range(CHANCES)):
        settings = kind(folder / "cut")
        for directory, synced in cuts(settings, folder / "cuts", 1, None if chance is None else seeded(chance)):
            after_power_cut(settings, directory, whole, synced)
            counts["power_cuts"] += 1
        for name in ("cut", "cuts"):
            shutil.rmtree(folder / name)
    shutil.rmtree(folder / "whole")


def main() -> int:
    """Run all faults, and write how many there were."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, help="JSON file of the result")
    given = parser.parse_args()
    os.fsync = lambda handle: None  # type: ignore[assignment, misc] - real syncs would only take time
    folder, began = Path(tempfile.mkdtemp(prefix="tinygpt-faults-")), time.monotonic()
    sources = write_sources(folder / "sources")
    train(tiny(sources, folder / "base"))
    counts = {"calls": 0, "failed": 0, "power_cuts": 0}
    for kind in (
        lambda root: tiny(sources, root / "new" / "out", **PACE),
        lambda root: further(sources, folder / "base", root / "new" / "out"),
    ):
        run_all(kind, folder, counts)
        print(counts, f"{time.monotonic() - began:.0f} s", flush=True)
    result = {
        "version": __version__,
        "date": time.strftime("%Y-%m-%d"),
        **counts,
        "lost": 0,
        "seconds": round(time.monotonic() - began),
    }
    print(json.dumps(result, indent=1))
    if given.out is not None:
        atomic.write_text(given.out, json.dumps(result, indent=1) + "\n")
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
