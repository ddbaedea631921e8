"""Shorten the results of compare.py, decode.py and products.py for the docs, and make tables of them.

A table is a list of column titles, a list of rows, and an ``r`` for every right-aligned column.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

Data = dict[str, Any]
Table = tuple[Sequence[str], list[Sequence[str]], str]

DIGITS = 4
SCRATCH = ("seconds", "check", "calls")  # fields of a contender that the docs do not show
STATE = 4  # arrays that AdamW reads: parameters, gradients, two moments


def compact(results: Data) -> Data:
    """Reduce results to the machine and medians with four digits."""
    if results["kind"] in ("compare", "decode"):
        jobs = [
            job | {"contenders": [{k: v for k, v in one.items() if k not in SCRATCH} for one in job["contenders"]]}
            for job in results["jobs"]
        ]
        return rounded(results | {"jobs": jobs})
    return rounded(results)


def rounded(value: Any) -> Any:
    """Round the floats in a tree of lists and dicts to DIGITS digits; integers stay."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def dump(data: Data) -> str:
    """Format results as JSON with one line for each row of a grid or each contender."""
    rows = [row for part in data.get("grids", []) for row in part["rows"]]
    rows += [one for job in data.get("jobs", []) for one in job["contenders"]]
    held = {id(row): f"@row {i}@" for i, row in enumerate(rows)}

    def marked(value: Any) -> Any:
        if id(value) in held:
            return held[id(value)]
        if isinstance(value, dict):
            return {key: marked(one) for key, one in value.items()}
        return [marked(one) for one in value] if isinstance(value, list) else value

    text = json.dumps(marked(data), indent=1)
    for row in rows:
        text = text.replace(f'"{held[id(row)]}"', json.dumps(row), 1)
    return text


def machine(data: Data, threads: int) -> str:
    """Describe the machine and its ceilings in one line."""
    facts, roof = data["machine"], data["machine"]["ceilings"][str(threads)]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(facts["versions"].items()))
    return (
        f"{facts['processor']}, {threads} of {facts['cores']} processors, {facts['isa']}, "
        f"measured: float32 peak {roof['peak_flops'] / 1e9:.0f} GFLOP/s, read {roof['read_bandwidth'] / 1e9:.0f} GB/s, "
        f"copy {roof['copy_bandwidth'] / 1e9:.0f} GB/s; {versions}; {facts['date']}"
    )


def thread_counts(data: Data) -> list[int]:
    """Return the numbers of threads that were measured."""
    return [int(n) for n in data["machine"]["ceilings"]]


def bound(data: Data, job: Data) -> float:
    """Return the shortest possible time of a float32 job in seconds, given the measured ceilings.

    A training step multiplies at the peak; then AdamW streams its arrays, if they are larger than the caches. A step of
    decoding reads every weight while it multiplies, so the longer of the two times counts.
    """
    roof = data["machine"]["ceilings"][str(job["threads"])]
    multiply = job["flops"] / roof["peak_flops"]
    cache = data["machine"]["cache_bytes"] or 0
    held = 4 * job["sizes"]["parameters"] * (STATE if job["kind"] == "train" else 1)
    if held <= cache:
        return multiply
    if job["kind"] == "train":
        return multiply + job["bytes"] / roof["copy_bandwidth"]
    return max(multiply, job["bytes"] / roof["read_bandwidth"])


def jobs(data: Data, kind: str, threads: int, start: str = "") -> list[Data]:
    """Return the jobs of a kind measured on a number of threads."""
    chosen = [job for job in data["jobs"] if job["kind"] == kind and job["threads"] == threads]
    return [job for job in chosen if job["job"].startswith(start)]


def shape(job: Data) -> str:
    """Describe the model and the batch of a job."""
    s = job["sizes"]
    model = f"{s['layers']} layers, {s['width']} wide, {s['heads']} heads, vocabulary {s['vocab']}"
    return f"{model}, {s['batch']} x {s['length']}"


def duration(seconds: float) -> str:
    """Format a time with three digits and a unit."""
    unit, scale = next((one for one in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)) if seconds * one[1] >= 1), ("µs", 1e6))
    number = seconds * scale
    return f"{number:.3g} {unit}" if number < 999.5 else f"{number:.0f} {unit}"


def race(data: Data, kind: str, threads: int, start: str = "") -> Table:
    """Tabulate every contender of every job: time, spread, rate, bound, and its time over that of tinygpt."""
    heads = ("job", "who", "time", "middle half", "tokens/s", "share of the bound", "times tinygpt")
    lines: list[Sequence[str]] = []
    for job in jobs(data, kind, threads, start):
        least = bound(data, job)
        lines.append((f"{job['job']}: {shape(job)}", "*bound*", duration(least), "", _rate(job, least), "", ""))
        for one in job["contenders"]:
            spread = f"{duration(one['low'])} to {duration(one['high'])}"
            # The peak was measured in float32; bfloat16 may be twice as fast.
            share = "" if "bfloat16" in one["name"] else f"{100 * least / one['median']:.0f} %"
            lines.append(
                (
                    "",
                    one["name"],
                    duration(one["median"]),
                    spread,
                    _rate(job, one["median"]),
                    share,
                    f"{one['ratio']:.2f}",
                )
            )
        lines += [("", name, why, "", "", "", "") for name, why in job["missing"].items()]
    return heads, lines, "  rrrrr"


def _rate(job: Data, seconds: float) -> str:
    return f"{job['tokens'] / seconds:,.0f}"


def memory(data: Data, threads: int) -> Table:
    """Tabulate the memory of a training step: the most that the process had, above that after import."""
    lines = []
    for job in jobs(data, "train", threads):
        ours = next((one["high_water"] for one in job["contenders"] if one["name"] == "tinygpt"), None)
        for i, one in enumerate(job["contenders"]):
            if one["high_water"] is not None and ours:
                share = f"{one['high_water'] / ours:.2f}"
                lines.append(
                    (
                        f"{job['job']}: {shape(job)}" * (i == 0),
                        one["name"],
                        f"{one['high_water'] / 2**20:,.0f} MB",
                        share,
                    )
                )
    return ("job", "who", "above import", "times tinygpt"), lines, "  rr"


def small_weights(data: Data, threads: int) -> Table:
    """Tabulate decoding with each kind of weights: tokens per second, and read bandwidth against its ceiling."""
    roof, lines = data["machine"]["ceilings"][str(threads)]["read_bandwidth"], []
    for job in data["jobs"]:
        if job["threads"] != threads:
            continue
        for i, one in enumerate(job["contenders"]):
            rate = job["tokens"] / one["median"]
            read = f"{100 * rate * job['bytes'] / roof:.0f} %"
            lines.append((job["weights"] * (i == 0), one["name"], f"{rate:.1f}", read, f"{one['ratio']:.2f}"))
        lines += [("", name, why, "", "") for name, why in job["missing"].items()]
    return ("weights", "who", "tokens/s", "of read bandwidth", "times tinygpt"), lines, "  rrr"


def grid(data: Data, name: str, threads: int) -> list[Data]:
    """Return the rows of a grid; ValueError if it was not measured."""
    for one in data["grids"]:
        if one["grid"] == name and one["threads"] == threads:
            return one["rows"]
    raise ValueError(f"there is no grid {name} on {threads} threads")


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean of ratios."""
    return math.exp(statistics.fmean(map(math.log, values)))


def contenders(rows: Iterable[Data]) -> list[str]:
    """Return all contenders that have a ratio, in the order of the rows."""
    return list(dict.fromkeys(name for row in rows for name in row["ratio"]))


def product_means(data: Data, threads: int, by: str = "case") -> Table:
    """Tabulate geometric means of every contender's time over tinygpt's, by a column of the rows and over all."""
    rows = grid(data, "products", threads)
    groups = list(dict.fromkeys(row[by] for row in rows))
    lines = []
    for name in contenders(rows):
        means = [_mean([row for row in rows if row[by] == group], name) for group in groups]
        lines.append((name, *means, _mean(rows, name), _worst(rows, name)))
    heads = (f"times tinygpt, {by}", *map(str, groups), "all", "least")
    return heads, lines, " " + "r" * (len(groups) + 2)


def _mean(rows: Sequence[Data], name: str) -> str:
    ratios = [row["ratio"][name] for row in rows if name in row["ratio"]]
    return f"{geometric_mean(ratios):.2f}" if ratios else ""


def _worst(rows: Sequence[Data], name: str) -> str:
    return f"{min(row['ratio'][name] for row in rows if name in row['ratio']):.2f}"


def worst_products(data: Data, threads: int, name: str, count: int = 8) -> Table:
    """Tabulate the shapes at which a contender does best against tinygpt."""
    rows = sorted(
        (row for row in grid(data, "products", threads) if name in row["ratio"]), key=lambda r: r["ratio"][name]
    )
    ours = f"tinygpt{' bfloat16' * ('bfloat16' in name)}"
    lines = [
        (row["layer"], row["case"], f"{row['M']} x {row['K']} x {row['N']}", _gflops(row, ours), _gflops(row, name),
         f"{row['ratio'][name]:.2f}") for row in rows[:count]
    ]  # fmt: skip
    return ("layer", "case", "M x K x N", f"{ours} GFLOP/s", f"{name} GFLOP/s", "times tinygpt"), lines, "   rrr"


def _gflops(row: Data, name: str) -> str:
    return f"{row['flops'] / row['seconds'][name] / 1e9:.1f}" if name in row["seconds"] else ""


def squares(data: Data, threads: int) -> Table:
    """Tabulate GFLOP/s of square products and their share of the measured float32 peak."""
    rows, peak = grid(data, "squares", threads), data["machine"]["ceilings"][str(threads)]["peak_flops"]
    names = list(rows[0]["seconds"]) if rows else []
    lines = []
    for name in names:
        rates = [row["flops"] / row["seconds"][name] for row in rows]
        lines.append((name, *(f"{rate / 1e9:.0f} ({100 * rate / peak:.0f} %)" for rate in rates)))
    return ("GFLOP/s (of the float32 peak)", *(str(row["M"]) for row in rows)), lines, " " + "r" * len(rows)


def attention(data: Data, threads: int) -> Table:
    """Tabulate forward and backward of attention."""
    rows = grid(data, "attention", threads)
    names = list(rows[0]["seconds"]) if rows else []
    lines = [
        (str(row["T"]), str(row["D"]), f"{row['B']} x {row['H']}", *(_gflops(row, name) for name in names),
         *(f"{ratio:.2f}" for ratio in row["ratio"].values())) for row in rows
    ]  # fmt: skip
    peers = [f"{name}, times tinygpt" for name in (rows[0]["ratio"] if rows else [])]
    heads = ("length", "head", "batch x heads", *(f"{name} GFLOP/s" for name in names), *peers)
    return heads, lines, "rrr" + "r" * (len(names) + len(peers))


def rowwise(data: Data, threads: int) -> Table:
    """Tabulate GB/s of ops on arrays larger than the caches, against plain reading and copying."""
    roof, lines = data["machine"]["ceilings"][str(threads)], []
    for row in grid(data, "rowwise", threads):
        rate = row["bytes"] / row["seconds"]["tinygpt"]
        shares = (f"{100 * rate / roof[name]:.0f} %" for name in ("read_bandwidth", "copy_bandwidth"))
        lines.append((f"`{row['op']}`", duration(row["seconds"]["tinygpt"]), f"{rate / 1e9:.1f}", *shares))
    return ("op", "time", "GB/s", "of read", "of copy"), lines, " rrrr"


def text(data: Data) -> str:
    """Return all tables of a file as plain lines."""
    parts = []
    for n in thread_counts(data):
        parts.append(machine(data, n))
        if data["kind"] == "compare":
            parts += [plain(race(data, kind, n)) for kind in ("train", "decode", "prefill")]
            parts.append(plain(memory(data, n)))
            continue
        if data["kind"] == "decode":
            parts.append(plain(small_weights(data, n)))
            continue
        makers = {"products": product_means, "squares": squares, "attention": attention, "rowwise": rowwise}
        measured = [one["grid"] for one in data["grids"] if one["threads"] == n]
        parts += [plain(makers[name](data, n)) for name in measured]
    return "\n\n".join(parts)


def plain(table: Table) -> str:
    """Format a table in columns."""
    heads, lines, align = table
    rows = [list(map(str, heads)), *(list(map(str, line)) for line in lines)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    cells = [
        [
            f"{cell:>{w}}" if align[i : i + 1] == "r" else f"{cell:<{w}}"
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        for row in rows
    ]
    return "\n".join("  ".join(row).rstrip() for row in cells)
