"""Model of scaling to many machines, computed from the measurements of scaling.py and compare.py.

usage: python benchmarks/scaling_model.py [SCALING.json COMPARE.json]

A step has the same tokens for any number of machines (strong scaling), divided among them. With W machines it takes

    step = compute + max(last, messages - hidden)      synchronous
    step = compute + messages / H                      outer steps, every H steps

compute    time of one machine for its part, in proportion to a measured step: tokens / W, and cores / measured cores
messages   2 (W - 1)/W bytes / (share bandwidth) + buckets 2 log2(W) latency: a reduction that sends the least bytes
           possible, in rounds whose number grows with log2(W), as in recursive halving and doubling
last       the same for the bucket that backward completes last: the token embeddings, which nothing can hide
hidden     efficiency times the time of backward, two thirds of compute

`share` (of the bandwidth that messages reach) and `efficiency` (of hiding) are measured on two hosts with a link of
1 Gbit/s. The model leaves out machines that are slower than others, and networks in which not every pair of machines
has the full bandwidth: both make a real job slower than these numbers.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

DATA = Path(__file__).resolve().parents[1] / "docs" / "data"
MACHINES = (8, 64, 1024)
BANDWIDTHS = (10e9, 100e9)  # bit/s
LATENCY = 20e-6  # seconds of one message between two machines over TCP; an assumption, as two hosts here have less
BACKWARD = 2 / 3  # of a training step: its products are twice those of the forward pass
BUCKET = 2**20  # bytes, as in tinygpt.distributed.reduction
TOKENS = 2**19  # of a step on all machines together, as GPT-2's size is usually trained
CORES = (2, 64)  # of a machine; the first is what was measured
EVERY = 50  # steps between two outer steps


class Job(NamedTuple):
    """A model, and what the work of one machine in a step costs.

    Attributes
    ----------
    compute : float
        Seconds.
    gradient : int
        Bytes of all gradients, 4 for each parameter.
    last : int
        Bytes of the bucket that backward completes last.
    """

    name: str
    compute: float
    gradient: int
    last: int


def messages(size: float, machines: int, bandwidth: float, share: float = 1.0) -> float:
    """Return the seconds that the reduction of `size` bytes takes.

    Parameters
    ----------
    size : float
    machines : int
    bandwidth : float
        Of one machine, bit/s.
    share : float
        Share of the bandwidth that messages reach.
    """
    if machines == 1:
        return 0.0
    rounds = 2 * math.log2(machines) * math.ceil(size / BUCKET)
    return 2 * (machines - 1) / machines * size * 8 / (bandwidth * share) + rounds * LATENCY


def step(
    job: Job, machines: int, bandwidth: float, share: float, efficiency: float, compress: bool = False, every: int = 1
) -> float:
    """Return the seconds of a step of all machines.

    Parameters
    ----------
    job : Job
    machines : int
    bandwidth : float
        Of one machine, bit/s.
    share, efficiency : float
        Measured, see the top of this file.
    compress : bool
        Whether gradients are sent as bfloat16.
    every : int
        Steps between two outer steps; 1 means synchronous.
    """
    scale = 0.5 if compress else 1.0
    total = messages(scale * job.gradient, machines, bandwidth, share)
    if every > 1:
        return job.compute + total / every
    last = messages(scale * job.last, machines, bandwidth, share)
    return job.compute + max(last, total - efficiency * BACKWARD * job.compute)


def constants(rows: Mapping[str, Any]) -> tuple[float, float]:
    """Return the share of the bandwidth and the efficiency of hiding that the part 'network' measured at 1 Gbit/s."""
    found = {row["way"]: row for row in rows["small-1gbit"]}
    after, hidden = found["synchronous, after backward"], found["synchronous"]
    share = after["gradient"] * 8 / after["bits_per_s"] / after["waited"]
    saved = after["seconds"] - hidden["seconds"]
    return min(1.0, share), max(0.0, min(1.0, saved / min(after["waited"], BACKWARD * after["alone"])))


def jobs(compare: Mapping[str, Any]) -> Iterator[Job]:
    """Yield the largest model of compare.py on one machine with 2 and with 64 cores, for a step of TOKENS tokens."""
    row = next(one for one in compare["jobs"] if one["job"] == "train-gpt2")
    seconds = next(one["median"] for one in row["contenders"] if one["name"] == "tinygpt") * TOKENS / row["tokens"]
    size = row["sizes"]
    last = max(BUCKET, 4 * size["vocab"] * size["width"])
    for cores in CORES:
        yield Job(f"{cores} cores", seconds * CORES[0] / cores, 4 * size["parameters"], last)


def predictions(scaling: Mapping[str, Any]) -> Iterator[tuple[str, float, float, float]]:
    """Yield link, bandwidth, measured and predicted seconds of synchronous steps on two hosts: a check of the model."""
    share, efficiency = constants(scaling["network"])
    for link, rows in scaling["network"].items():
        row = next(one for one in rows if one["way"] == "synchronous")
        job = Job(link, row["alone"], row["gradient"], row["buckets"][0])
        yield link, row["bits_per_s"], row["seconds"], step(job, 2, row["bits_per_s"], share, efficiency)


def table(scaling: Mapping[str, Any], compare: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return efficiency and tokens per second for every model, number of machines, bandwidth and way."""
    share, efficiency = constants(scaling["network"])
    ways: dict[str, dict[str, Any]] = {
        "synchronous": {}, "compress bf16": {"compress": True}, f"sync-every {EVERY}": {"every": EVERY},
    }  # fmt: skip
    return [
        {
            "machine": job.name,
            "machines": machines,
            "gbit_per_s": bandwidth / 1e9,
            "way": way,
            "step_s": (seconds := step(part, machines, bandwidth, share, efficiency, **more)),
            "efficiency": part.compute / seconds,
            "tokens_per_s": TOKENS / seconds,
        }
        for job in jobs(compare)
        for machines in MACHINES
        for part in [job._replace(compute=job.compute / machines)]
        for bandwidth in BANDWIDTHS
        for way, more in ways.items()
    ]


def main() -> None:
    """Print the check of the model and the table."""
    files = [Path(name) for name in sys.argv[1:]] or [DATA / "scaling.json", DATA / "compare.json"]
    scaling, compare = (json.loads(file.read_text()) for file in files)
    for link, _, measured, predicted in predictions(scaling):
        print(f"two hosts, {link:14} measured {1e3 * measured:8.1f} ms   model {1e3 * predicted:8.1f} ms")
    for row in table(scaling, compare):
        print(
            f"{row['machine']:9} {row['machines']:5} machines {row['gbit_per_s']:4.0f} Gbit/s  {row['way']:14} "
            f"{row['step_s']:8.2f} s  efficiency {row['efficiency']:4.0%}  {row['tokens_per_s']:12,.0f} tokens/s"
        )


if __name__ == "__main__":
    main()
