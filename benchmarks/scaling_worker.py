"""One measurement of scaling.py: training steps on the ranks of a job; rank 0 prints the medians as JSON.

usage: [mpiexec -n N] python benchmarks/scaling_worker.py '{"model": "small", "steps": 40, "settings": {...}}'
"""

from __future__ import annotations

import json
import statistics
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
from jobs import MODELS

from tinygpt import GPT, GPTConfig, optim
from tinygpt.data.windows import Windows
from tinygpt.distributed.communicator import Communicator
from tinygpt.distributed.launch import open_job
from tinygpt.kernels import threads
from tinygpt.train.loop import Trainer
from tinygpt.train.outputs import NoOutputs
from tinygpt.train.parallel import DataParallel
from tinygpt.train.report import Report
from tinygpt.train.settings import TrainSettings
from tinygpt.train.setup import Run

WARM = 2  # steps before the first that is measured
TOKENS = 200_000  # of the text, which is random: what it says does not matter for the speed


def trainer(model: str, given: dict[str, Any], comm: Communicator) -> Trainer:
    """Build a run of one of the models that compare.py measures."""
    shape = MODELS[model]
    settings = TrainSettings(
        layers=shape.layers, embed=shape.width, heads=shape.heads, seq=shape.length, **{"batch": shape.batch, **given}
    )
    settings.distributed.validate()
    config = GPTConfig(
        vocab_size=shape.vocab, block_size=shape.context, n_layer=shape.layers, n_head=shape.heads, n_embd=shape.width
    )
    net = GPT(config, seed=0)
    tokens = np.random.default_rng(0).integers(0, shape.vocab, TOKENS).astype(np.int32)
    optimizer = optim.AdamW(net.parameters(), 1e-4)
    windows = Windows(tokens, shape.length)
    run = Run(settings, None, None, net, optimizer, optim.constant(1e-4), windows, 10**9, 1.0)  # type: ignore[arg-type]
    return Trainer(run, Path(), NoOutputs(settings.output, Report()), comm)


def sent_bytes(device: str) -> int:
    """Bytes that a network device has sent since it exists."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == device:
            return int(numbers.split()[8])
    raise ValueError(f"there is no device {device}")


def measure(asked: dict[str, Any], comm: Communicator) -> dict[str, Any]:
    """Train for some steps, and return the medians over steps of the slowest rank."""
    one = trainer(asked["model"], asked.get("settings", {}), comm)
    reduction = one.team.reduction if isinstance(one.team, DataParallel) else None
    if reduction is not None and not asked.get("overlap", True):
        reduction.complete = lambda start: None  # type: ignore[method-assign]  # finish() then starts every bucket
    seconds, waited, steps, device = [], [], asked["steps"], asked.get("device")
    for one.step in range(WARM + steps):
        if one.step == WARM:
            comm.any(False)
            before, began = sent_bytes(device) if device else 0, time.perf_counter()
        start = time.perf_counter()
        one.one_step()
        seconds.append(time.perf_counter() - start)
        waited.append(reduction.waited if reduction else 0.0)
    comm.any(False)
    return {
        "seconds": max(comm.gather((time.perf_counter() - began) / steps)),
        "median": max(comm.gather(statistics.median(seconds[WARM:]))),
        "waited": max(comm.gather(statistics.median(waited[WARM:]))),
        "sent": (sent_bytes(device) - before) / steps if device else None,
        "buckets": [4 * (b.stop - b.start) for b in reduction.buckets] if reduction else None,
        "gradient": 4 * len(one.run.optimizer.arena.data),
    }


def main() -> None:
    """Measure what the first argument asks for."""
    asked, comm = json.loads(sys.argv[1]), open_job()
    threads.set_num_threads(asked["threads"])
    try:
        found = measure(asked, comm)
    except Exception:
        traceback.print_exc()
        comm.abort(1)  # the other ranks would wait for this one
        raise
    if comm.first:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
