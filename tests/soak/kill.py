"""Kill training processes at random moments, resume them, and compare the bytes with a run that was never stopped.

usage: python tests/soak/kill.py --times 1000 [--seed 0] [--out docs/data/soak.json]

Every life of a run is a process of its own, `python -m tinygpt train`. Most end by SIGKILL, which no process can catch;
every eighth gets SIGTERM, SIGUSR1 or SIGINT, which save. A run whose process ends by itself is compared with the run
that was never stopped: weights, optimizer state, records and statistics, byte for byte. A thousand kills take about an
hour on one core. The program stops at the first difference and keeps the directories. With --out, the counts are added
to those that the file has of the same version and machine.
"""

from __future__ import annotations

import argparse
import collections
import json
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_run import state, without_clock, write_sources

from tinygpt import __version__
from tinygpt.cli.info import processor
from tinygpt.io import atomic
from tinygpt.runs import layout
from tinygpt.runs.metrics import read_metrics

PACE = [
    "--steps",
    "60",
    "--eval-every",
    "4",
    "--eval-tokens",
    "64",
    "--checkpoint-every",
    "3",
    "--samples",
    "0",
    "--seq",
    "16",
    "--batch",
    "2",
    "--quiet",
]
SHAPE = ["--layers", "1", "--embed", "16", "--heads", "2"]
KINDS = {
    "dropout, accumulation, bpe": [
        *SHAPE,
        *["--dropout", "0.1", "--grad-accum", "2", "--tokenizer-type", "bpe", "--vocab-size", "300"],
    ],
    "statistics, best checkpoint": [
        *SHAPE,
        *["--watch", "weights,gradients", "--watch-every", "5", "--keep-best", "--log-every", "3"],
    ],
    "Muon, EMA, spike guard": [*SHAPE, "--optimizer", "muon", "--ema", "0.9", "--spike-sigma", "6"],
    "LoRA": ["--lora-rank", "2", "--dropout", "0.1"],
}
SOFT = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
EVERY = 8  # lives, of which one ends by a signal that saves
LONGEST = 120.0  # seconds that a process may take to end by itself


def command(*words: str) -> list[str]:
    """Return the command line of a training process."""
    return [sys.executable, "-m", "tinygpt", "train", *words]


def complete(words: list[str]) -> float:
    """Run a process to its end; returns the seconds that it took."""
    began = time.monotonic()
    done = subprocess.run(command(*words), capture_output=True, text=True, check=False, timeout=LONGEST)
    if done.returncode or done.stdout or done.stderr:
        raise SystemExit(f"{' '.join(words)}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return time.monotonic() - began


def content(out: Path) -> dict[str, object]:
    """Read everything of a finished run that must be the same, apart from times."""
    last = layout.latest_checkpoint(out)
    assert last is not None
    found: dict[str, object] = {"model": state(out), last.name: state(last)}
    for folder in (out / "adapter", last / "adapter"):
        if folder.is_dir():
            found[str(folder.relative_to(out))] = state(folder)
    for name in (layout.METRICS, layout.WATCH):
        if (out / name).exists():
            found[name] = without_clock(read_metrics(out / name))
    return found


def hidden(out: Path) -> bool:
    """Return whether a killed process has left a file or directory that it had not finished."""
    if not out.is_dir():
        return False
    return any(path.name.startswith(".") and path.name.endswith((".tmp", ".old")) for path in out.rglob("*"))


class Soak:
    """Counts of lives and of what ended them.

    Parameters
    ----------
    folder : Path
        Empty directory to work in.
    seed : int
        Seed of the moments and signals.
    """

    def __init__(self, folder: Path, seed: int):
        self.folder, self.random = folder, random.Random(seed)
        self.kills = self.lives = self.compared = self.in_a_write = 0
        self.signals: collections.Counter[str] = collections.Counter()
        sources = write_sources(folder / "sources")
        common = ["--data", str(sources), *PACE]
        base = ["--data", str(sources), "--out", str(folder / "base"), "--steps", "30", *PACE[2:], *SHAPE]
        complete([*base, "--threads", "1"])
        self.runs: dict[str, tuple[list[str], dict[str, object]]] = {}
        self.longest: dict[str, float] = {}  # seconds after which a process is ended at the latest
        for i, (kind, words) in enumerate(KINDS.items()):
            start = ["--from", str(folder / "base")] if kind == "LoRA" else []
            whole = folder / f"whole-{i}"
            seconds = complete([*common, *start, *words, "--out", str(whole), "--threads", "1"])
            self.runs[kind], self.longest[kind] = ([*common, *start, *words], content(whole)), seconds

    def run(self, number: int, kind: str, times: int) -> None:
        """Start a run, kill and resume it until it ends by itself or `times` kills are reached, and compare."""
        words, whole = self.runs[kind]
        out = self.folder / f"run-{number}"
        while self.kills < times:
            self.lives += 1
            threads = ["--threads", str(1 + self.lives % 2)]
            again = ["--resume", "--out", str(out), "--quiet"] if layout.is_run(out) else [*words, "--out", str(out)]
            soft = self.lives % EVERY == 0
            number_of_signal = self.random.choice(SOFT) if soft else signal.SIGKILL
            moment = self.longest[kind] * self.random.uniform(0.3, 1)
            if self._live([*again, *threads], moment, number_of_signal):
                self.longest[kind] *= 0.85  # so that most lives end by a signal, on a machine of any speed
                break
            self.longest[kind] *= 1.03
            self.in_a_write += hidden(out)
        else:
            complete(["--resume", "--out", str(out), "--quiet"] if layout.is_run(out) else [*words, "--out", str(out)])
        found = content(out)
        for name in found.keys() | whole.keys():
            if found.get(name) != whole.get(name):
                raise SystemExit(f"{kind}: {name} differs after {self.kills} kills; see {self.folder}")
        self.compared += 1
        shutil.rmtree(out)

    def _live(self, words: list[str], seconds: float, number: signal.Signals) -> bool:
        """Start a process and end it after some time; returns whether it ended by itself before."""
        process = subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            said = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            said = process.communicate(timeout=LONGEST)
        status = process.returncode
        if status == 0:
            return True
        saved = status == 128 + number and "everything is saved" in said[1]
        early = number == signal.SIGINT and status == 130  # before the first step
        if not (saved or early or status == -number):
            raise SystemExit(f"{' '.join(words)}: status {status}\n{said[0]}{said[1]}; see {self.folder}")
        self.kills += number == signal.SIGKILL
        self.signals[number.name] += 1
        return False


def add(file: Path | None, counts: dict[str, int], signals: dict[str, int], seed: int) -> dict[str, Any]:
    """Add the counts of this program to those of earlier ones in a file, unless it is of other code or hardware."""
    here = {"version": __version__, "processor": processor(), "python": platform.python_version(), "kinds": list(KINDS)}
    before = json.loads(file.read_text()) if file is not None and file.exists() else {}
    if any(before.get(name) != value for name, value in here.items()):
        before = {}
    total = collections.Counter(before.get("signals", {}))
    total.update(signals)
    return {
        **here,
        "date": time.strftime("%Y-%m-%d"),
        "seeds": [*before.get("seeds", []), seed],
        "signals": dict(sorted(total.items())),
        **{name: before.get(name, 0) + value for name, value in counts.items()},
    }


def main() -> int:
    """Kill as often as asked for, and write the counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--times", type=int, default=1000, help="number of SIGKILLs")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments and signals")
    parser.add_argument("--out", type=Path, help="JSON file of the result")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="tinygpt-soak-"))
    soak, began = Soak(folder, given.seed), time.monotonic()
    for number in range(10**9):
        soak.run(number, list(KINDS)[number % len(KINDS)], given.times)
        took = time.monotonic() - began
        left = took / max(1, soak.kills) * (given.times - soak.kills)
        print(
            f"{soak.kills} kills, {soak.compared} runs the same to the byte, about {left / 60:.0f} min left", flush=True
        )
        if soak.kills >= given.times and soak.compared >= len(KINDS):
            break
    counts = {
        "kills": soak.kills,
        "in_a_write": soak.in_a_write,
        "lives": soak.lives,
        "runs": soak.compared,
        "different": 0,
        "seconds": round(time.monotonic() - began),
    }
    result = add(given.out, counts, soak.signals, given.seed)
    print(json.dumps(result, indent=1))
    if given.out is not None:
        atomic.write_text(given.out, json.dumps(result, indent=1) + "\n")
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
