"""Check that a run learned: validation loss below a share of ln(vocabulary). usage: check_run.py RUN SHARE"""

import math
import sys
from pathlib import Path

import tinygpt
from tinygpt.runs.metrics import read_metrics

run, share = Path(sys.argv[1]), float(sys.argv[2])
_, tokenizer = tinygpt.load(str(run))
loss = min(record["val_loss"] for record in read_metrics(run / "metrics.jsonl") if "val_loss" in record)
guessing = math.log(tokenizer.vocab_size)
print(f"validation loss {loss:.3f}, guessing {guessing:.3f}: {loss / guessing:.2f} of it")
if not loss < share * guessing:
    sys.exit(f"the run did not learn: {loss:.3f} is not below {share} x {guessing:.3f}")
