"""Data parallel training measured: ranks against threads, bytes on the wire, time hidden behind backward, loss.

usage: python benchmarks/scaling.py OUT.json PART...

A part is one of these, or one case of it, such as ranks=small. A case takes up to a minute on two cores.

ranks    2 ranks with 1 thread against 1 rank with 2 threads, on one machine
network  two hosts joined by links of different bandwidth (Linux and root, see two_hosts.py)
loss     validation loss of compressed gradients and of outer steps against synchronous training

A case of network or loss replaces what OUT.json has of it; one of ranks keeps the fastest rounds of all calls.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from two_hosts import DEVICE, available, environment, two_hosts

HERE = Path(__file__).resolve().parent
# Model -> steps of a round, and rounds, in which both contenders take turns.
RANKS = {"tiny": (150, 3), "small": (30, 3), "medium": (3, 1), "gpt2": (3, 1)}
RATES = {"100mbit": 1e8, "1gbit": 1e9, "10gbit": 1e10}
LINKS = {"small-100mbit": 10, "small-1gbit": 30, "small-10gbit": 40, "medium-1gbit": 3}  # steps of each
EVERY = 10
WAYS: dict[str, dict[str, Any]] = {
    "synchronous": {},
    "synchronous, after backward": {"overlap": False},
    "compress bf16": {"settings": {"compress": "bf16"}},
    f"sync-every {EVERY}": {"settings": {"sync_every": EVERY, "eval_every": EVERY, "checkpoint_every": EVERY}},
}
# Words of the command line for each run of the loss part.
LOSSES = {
    "synchronous": [],
    "compress bf16": ["--compress", "bf16"],
    "sync-every 10": ["--sync-every", "10"],
    "sync-every 50": ["--sync-every", "50"],
}
RUN = ["--layers", "2", "--embed", "64", "--heads", "2", "--seq", "64", "--batch", "8", "--steps", "1000",
       "--eval-every", "1000", "--checkpoint-every", "1000", "--eval-tokens", "64", "--samples", "0"]  # fmt: skip


def worker(asked: dict[str, Any], command: list[str], env: dict[str, str]) -> dict[str, Any]:
    """Run scaling_worker.py under a command."""
    words = [*command, sys.executable, str(HERE / "scaling_worker.py"), json.dumps(asked)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        raise RuntimeError(done.stderr or done.stdout)
    return json.loads(done.stdout.splitlines()[-1])


def ranks(model: str) -> dict[str, Any]:
    """Compare 2 ranks with 1 thread and 1 rank with 2 threads; they take turns, and the fastest round of each counts.

    The fastest, because another program on the machine makes a round slower, and never faster.
    """
    steps, rounds = RANKS[model]
    asked = {"model": model, "steps": steps}
    rows = []
    for _ in range(rounds):
        one = worker(asked | {"threads": 2}, [], plain_environment())["median"]
        two, sharded = (
            worker(asked | {"threads": 1, "settings": given}, ["mpiexec", "-n", "2"], plain_environment())
            for given in ({}, {"shard_optimizer": True})
        )
        row = {"ranks_1_threads_2": one, "ranks_2_threads_1": two["median"], "waited": two["waited"]}
        rows.append(row | {"sharded": sharded["median"]})
    fastest = {key: min(row[key] for row in rows) for key in rows[0]}
    print(model, fastest, flush=True)
    return {model: fastest | {"gradient": two["gradient"], "buckets": two["buckets"]}}


def faster(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Combine two results of `ranks` for one model: the lower number of seconds of each contender."""
    best = {key: min(before.get(key, value), value) for key, value in now.items() if isinstance(value, float)}
    return now | best


def network(link: str) -> dict[str, Any]:
    """Measure steps of two hosts with one thread each, joined by a link such as small-1gbit."""
    if not available():
        sys.exit("the part 'network' needs Linux, root, ip, tc and mpiexec")
    model, rate = link.split("-")
    steps, rows = LINKS[link], []
    alone = worker({"model": model, "steps": steps, "threads": 1, "settings": half(model)}, [], environment())
    with two_hosts(rate) as command:
        for way, more in WAYS.items():
            n = max(steps, EVERY) if "every" in way else steps
            asked = {"model": model, "steps": n, "threads": 1, "device": DEVICE}
            row = worker(asked | more, command, environment())
            rows.append({"model": model, "bits_per_s": RATES[rate], "way": way, "alone": alone["seconds"], **row})
            print(rows[-1], flush=True)
    return {link: rows}


def half(model: str) -> dict[str, int]:
    """Return the settings of the work that one of two ranks does."""
    from jobs import MODELS

    return {"batch": MODELS[model].batch // 2}


def loss(name: str) -> dict[str, Any]:
    """Train on the package's own sources with two ranks; returns the validation loss at the end."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["mpiexec", "-n", "2", sys.executable, "-m", "tinygpt", "train", *RUN, *LOSSES[name]]
        data = ["--data", str(HERE.parent / "tinygpt"), "--out", str(Path(folder, "run")), "--threads", "1"]
        done = subprocess.run([*command, *data], capture_output=True, text=True, check=False, env=plain_environment())
    if done.returncode:
        raise RuntimeError(done.stderr)
    line = next(line for line in done.stdout.splitlines() if line.startswith("validation"))
    print(name, line, flush=True)
    return {name: float(line.split()[2])}


def plain_environment() -> dict[str, str]:
    """Return this environment with the mpiexec of this Python first."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def main() -> None:
    """Measure the parts and write them."""
    from tinygpt.cli.info import processor

    out, wanted = Path(sys.argv[1]), sys.argv[2:]
    found = json.loads(out.read_text()) if out.exists() else {}
    measures = {"ranks": (ranks, RANKS), "network": (network, LINKS), "loss": (loss, LOSSES)}
    for part in wanted:
        name, _, case = part.partition("=")
        measure, cases = measures[name]
        for one in [case] if case else cases:
            section, result = found.setdefault(name, {}), measure(one)
            if name == "ranks" and one in section:
                result[one] = faster(section[one], result[one])
            section.update(result)
            found["machine"] = {"processor": processor(), "date": str(datetime.date.today())}
            out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main()
