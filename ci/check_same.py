"""Compare two runs: every loss equal to 1e-5 of itself; says whether the weights are the same bits.

usage: check_same.py RUN RUN
"""

import sys
from pathlib import Path

from tinygpt.runs.metrics import read_metrics

SHARE = 1e-5


def losses(run: Path) -> list[float]:
    """Return the losses of all steps and evaluations of a run, in order."""
    records = read_metrics(run / "metrics.jsonl")
    return [record[name] for record in records for name in ("loss", "val_loss") if name in record]


first, second = (Path(name) for name in sys.argv[1:])
one, two = losses(first), losses(second)
if not one or len(one) != len(two):
    sys.exit(f"{first} has {len(one)} losses, {second} has {len(two)}")
off = max(abs(x - y) / abs(x) for x, y in zip(one, two, strict=True))
one_file, two_file = (run / "model.safetensors" for run in (first, second))
bits = "the same bits" if one_file.read_bytes() == two_file.read_bytes() else "differ"
print(f"{first} and {second}: {len(one)} losses, off by {off:.1e} at most; weights {bits}")
if not off <= SHARE:
    sys.exit(f"losses must be equal to {SHARE} of themselves")
