"""Fail every single write, sync and rename of a training run once, and cut the power at every moment; then resume.

usage: python tests/soak/faults.py [--out docs/data/faults.json]

The run is short (4 steps, 3 checkpoints, 3 evaluations), because its calls repeat. Each call fails as on a full disk
(ENOSPC), as on a broken one (EIO), and as on a disk that stays full until the process has ended. A power cut keeps only
what was synced, or by chance some of the rest, as file systems may. tests/train/test_faults.py takes a sample of this.
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
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults import after_fault, after_power_cut, cuts, reference, seeded
from tiny_run import tiny, write_sources

from tinygpt import __version__
from tinygpt.io import atomic

PACE = {"steps": 4, "eval_every": 2, "checkpoint_every": 2, "dropout": 0.1, "grad_accum": 2, "batch": 2, "keep": 1}
CHANCES = 3  # random outcomes of every power cut


def main() -> int:
    """Run all faults, and write how many there were."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, help="JSON file of the result")
    given = parser.parse_args()
    os.fsync = lambda handle: None  # type: ignore[assignment, misc] - real syncs would only take time
    folder, began = Path(tempfile.mkdtemp(prefix="tinygpt-faults-")), time.monotonic()
    sources = write_sources(folder / "sources")
    whole, calls = reference(tiny(sources, folder / "whole" / "new" / "out", **PACE))
    failed = power = 0
    for code, stays in ((errno.ENOSPC, False), (errno.EIO, False), (errno.ENOSPC, True)):
        for at in range(calls):
            root = folder / f"at-{at}"
            after_fault(tiny(sources, root / "new" / "out", **PACE), whole, at, code, stays)
            failed += 1
            shutil.rmtree(root)
        print(f"{failed} failed calls, {time.monotonic() - began:.0f} s", flush=True)
    for chance in (None, *range(CHANCES)):
        settings = tiny(sources, folder / f"cut-{chance}" / "new" / "out", **PACE)
        moments = cuts(settings, folder / f"cuts-{chance}", 1, None if chance is None else seeded(chance))
        for directory, synced in moments:
            after_power_cut(settings, directory, whole, synced)
            power += 1
            shutil.rmtree(directory)
        print(f"{power} power cuts, {time.monotonic() - began:.0f} s", flush=True)
    result = {
        "version": __version__,
        "date": time.strftime("%Y-%m-%d"),
        "calls": calls,
        "failed": failed,
        "power_cuts": power,
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
