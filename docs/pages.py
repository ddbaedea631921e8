"""Helpers for the cells of several pages: tables from docs/data, a small chart, facts from csrc."""

from __future__ import annotations

import ast
import importlib.util
import json
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from IPython.display import HTML, Markdown

DOCS = Path(__file__).parent
ROOT = DOCS.parent


def _program(name: str, folder: str = "benchmarks"):
    """Import a script of benchmarks/ or tools/, which are not part of the package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def report():
    """Import benchmarks/report.py."""
    return _program("report")


@cache
def summary():
    """Import benchmarks/summary.py."""
    return _program("summary")


@cache
def results() -> dict[str, Any]:
    """Load the benchmark run that the tables show."""
    return report().load(DOCS / "data" / "ladder.json")


def module_map() -> Markdown:
    """List every module with the first sentence of its docstring, a table for each folder."""
    program = _program("module_map", "tools")
    parts = []
    for folder, files in program.by_folder(program.modules()).items():
        heads = (f"`{folder}/`", "first sentence of the docstring")
        parts.append(
            table(heads, [(f"`{name}`", sentence.replace("|", "\\|")) for name, sentence in files.items()]).data
        )
    return Markdown("\n\n".join(parts))


def rows(**wanted: Any) -> list[dict[str, Any]]:
    """Return the rows of the run that have these values."""
    return [row for row in results()["rows"] if all(row.get(key) == value for key, value in wanted.items())]


def machine() -> Markdown:
    """Describe the machine of the run in one line."""
    return Markdown(f"*{report().machine(results())}*")


def ladder(*ops: str, sizes: Sequence[str] | None = None) -> Markdown:
    """Tabulate the rungs of one or several ops, for all sizes or the named ones."""
    tables = []
    for op in ops:
        chosen = {}  # (size, rung) -> the first result
        for row in rows(op=op):
            if sizes is None or row["size"] in sizes:
                chosen.setdefault((row["size"], row["rung"]), row)
        title = f"**{op}**\n\n" if len(ops) > 1 else ""
        tables.append(title + report().ladder({**results(), "rows": list(chosen.values())}, op))
    return Markdown("\n\n".join(tables))


def ratio(op: str, size: str, rung: str, below: str) -> str:
    """Format the speed-up of one rung over another, as in ``3.1 x``."""
    fast, slow = rows(op=op, size=size, rung=rung)[0], rows(op=op, size=size, rung=below)[0]
    return f"{slow['seconds'] / fast['seconds']:.1f} x"


def measured(name: str) -> dict[str, Any] | None:
    """Load the results of compare.py or products.py from docs/data; None if there are none."""
    file = DOCS / "data" / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else None


def not_measured(name: str, folder: str = "benchmarks") -> Markdown:
    """Return a line that takes the place of missing results."""
    return Markdown(f"*There are no results of `{folder}/{name}.py` in this version of the page.*")


def peers(name: str, maker: str, *arguments: Any, **options: Any) -> Markdown:
    """Show a table of summary.py for every measured number of threads, with the machine below."""
    data = measured(name)
    if data is None:
        return not_measured(name)
    tables = []
    for n in summary().thread_counts(data):
        found = getattr(summary(), maker)(data, n, *arguments, **options)
        if found[1]:
            title = f"**{n} thread{'s' * (n > 1)}**"
            tables += [title, table(*found).data, f"*{summary().machine(data, n)}*"]
    return Markdown("\n\n".join(tables))


def neighbours() -> Markdown:
    """Tabulate mean step times alone and beside a busy process, a table for each job of benchmarks/neighbour.py."""
    data = measured("neighbour")
    if data is None:
        return not_measured("neighbour")
    found = {(row["job"], row["contender"], row["neighbours"]): 1e3 * row["median"] for row in data["rows"]}
    names = list(dict.fromkeys(row["contender"] for row in data["rows"]))
    tables = []
    for job in dict.fromkeys(row["job"] for row in data["rows"]):
        lines = [
            (name, f"{found[job, name, 0]:.2f}", f"{found[job, name, 1]:.2f}",
             f"{found[job, name, 1] / found[job, names[0], 1]:.2f} x")
            for name in names if (job, name, 0) in found
        ]  # fmt: skip
        heads = (job, "alone, ms", "beside a busy process, ms", f"against {names[0]}, beside it")
        tables.append(table(heads, lines, "lrrr").data)
    facts = data["machine"]
    tables.append(
        f"*{facts['processor']}, {facts['cores']} cores, {facts['isa']}, float32 peak "
        f"{facts['ceilings']['2']['peak_flops'] / 1e9:.0f} GFLOP/s measured; {facts['date']}*"
    )
    return Markdown("\n\n".join(tables))


def race(kind: str, start: str = "") -> Markdown:
    """Tabulate the contenders of end-to-end jobs of one kind."""
    data = measured("compare")
    if data is None:
        return not_measured("compare")
    tables = []
    for n in summary().thread_counts(data):
        shown = table(*summary().race(data, kind, n, start)).data
        tables += [f"**{n} thread{'s' * (n > 1)}**", shown, f"*{summary().machine(data, n)}*"]
    return Markdown("\n\n".join(tables))


def step_chart() -> Any:
    """Draw every contender's training steps over those of tinygpt, on the largest measured number of threads."""
    import charts

    data = measured("compare")
    if data is None:
        return not_measured("compare")
    jobs = summary().jobs(data, "train", summary().thread_counts(data)[-1], "train-")
    return charts.bars(jobs, [summary().bound(data, job) for job in jobs])


def scaling_chart(start: str) -> Any:
    """Draw every contender's time per token over the number of parameters or the length of the sequences."""
    import charts

    data = measured("compare")
    if data is None:
        return not_measured("compare")
    jobs = summary().jobs(data, "train", summary().thread_counts(data)[-1], start)
    key, label = ("length", "length of a sequence") if start == "length-" else ("parameters", "parameters")
    series: dict[str, tuple[list[float], list[float]]] = {}
    for job in sorted(jobs, key=lambda job: job["sizes"][key]):
        for one in job["contenders"]:
            along, up = series.setdefault(one["name"], ([], []))
            along.append(job["sizes"][key])
            up.append(1e6 * one["median"] / job["tokens"])
    return charts.lines(series, label, "µs per token")


def attention_chart(width: int) -> Any:
    """Draw forward and backward of attention over the length, for heads of one width."""
    import charts

    data = measured("products")
    if data is None:
        return not_measured("products")
    rows = summary().grid(data, "attention", summary().thread_counts(data)[-1])
    chosen = [row for row in rows if row["D"] == width]
    if not chosen:
        return Markdown(f"*Heads of width {width} were not measured in this run.*")
    series = {
        name: ([row["T"] for row in chosen], [row["flops"] / row["seconds"][name] / 1e9 for row in chosen])
        for name in chosen[0]["seconds"]
    }
    return charts.lines(series, "length of a sequence", "GFLOP/s")


def roofline(*rungs: str) -> Any:
    """Draw the kernels of the ladder under the measured roofs."""
    import charts

    facts = results()["machine"]
    if "read_gbytes" not in facts:
        return Markdown("*The bandwidth was not measured in this run.*")
    roof = {"peak_flops": 1e9 * facts["peak_gflops"], "read_bandwidth": 1e9 * facts["read_gbytes"]}
    return charts.roofline(rows(kind="kernel"), roof, rungs)


def served() -> Markdown:
    """Show what tests/soak/load.py measured."""
    run = measured("serve")
    if run is None:
        return Markdown("*There are no results of `tests/soak/load.py` in this version of the page.*")
    answers = ", ".join(f"{count:,} of {name}" for name, count in run["answers"].items())
    lines = [
        ("clients and time", f"{run['clients']}, {run['seconds']:.0f} seconds on {run['cores']} cores"),
        ("parameters", f"{run['parameters']:,}"),
        ("one client", f"{run['tokens_per_s_one']:,.0f} tokens/s"),
        ("all clients", f"{run['tokens_per_s_many']:,.0f} tokens/s, {run['gain']:.1f} times as many"),
        ("time of a request", f"median {run['latency_p50']:.2f} s, 99th percentile {run['latency_p99']:.2f} s"),
        ("requests by status", answers),
        ("errors", str(run["wrong"])),
    ]
    return table(("", ""), lines)


def table(heads: Sequence[str], lines: Iterable[Sequence[Any]], align: str = "") -> Markdown:
    """Make a Markdown table; `align` has an ``r`` for each right-aligned column."""
    marks = ["--:" if i < len(align) and align[i] == "r" else "---" for i in range(len(heads))]
    text = ["| " + " | ".join(map(str, line)) + " |" for line in [heads, marks, *lines]]
    return Markdown("\n".join(text))


def optimizers() -> Markdown:
    """Compare AdamW and Muon after the same seconds of training, as benchmarks/optimizers.py measured them."""
    found = measured("optimizers")
    if found is None:
        return not_measured("optimizers")
    lines = [
        (
            run["optimizer"],
            f"{run['lr']:g}",
            f"{run['steps']:,}",
            f"{run['steps'] * found['step_seconds'][run['optimizer']]:.0f}",
            f"{run['val_loss']:.3f}",
        )
        for run in sorted(found["runs"].values(), key=lambda run: (run["optimizer"], run["lr"]))
    ]
    heads = ("optimizer", "peak learning rate", "steps", "seconds", "validation loss")
    best = {
        one: min(r["val_loss"] for r in found["runs"].values() if r["optimizer"] == one) for one in ("adamw", "muon")
    }
    shape = ", ".join(f"{name} {value}" for name, value in found["shape"].items())
    gain, ms = best["adamw"] - best["muon"], {name: 1e3 * value for name, value in found["step_seconds"].items()}
    text = (
        f"A step takes {ms['adamw']:.0f} ms with AdamW and {ms['muon']:.0f} ms with Muon. At the best rate of each, "
        f"the loss of Muon is {abs(gain):.3f} {'lower' if gain > 0 else 'higher'}."
    )
    made = f"*{found['machine']}, 1 thread, {found['date']}; {shape}.*"
    return Markdown("\n\n".join([table(heads, lines, "lrrrr").data, text, made]))


def soak() -> Markdown:
    """Tell how many processes tests/soak/kill.py has killed, and what came of their runs."""
    found = measured("soak")
    if found is None:
        return not_measured("kill", "tests/soak")
    others = sum(count for name, count in found["signals"].items() if name != "SIGKILL")
    lines = [
        ("processes started", f"{found['lives']:,}"),
        ("killed by SIGKILL", f"{found['kills']:,}"),
        ("of these, with unfinished files left behind", f"{found['in_a_write']:,}"),
        ("ended by SIGTERM, SIGUSR1 or SIGINT", f"{others:,}"),
        ("runs that reached their end and were compared", f"{found['runs']:,}"),
        ("runs that differed in any byte", f"**{found['different']:,}**"),
    ]
    kinds = "; ".join(found["kinds"])
    made = f"\n\n{found['processor']}, {found['date']}, {found['seconds'] / 60:.0f} minutes. Kinds of runs: {kinds}."
    return Markdown(table(("", "count"), lines, "lr").data + made)


def faults() -> Markdown:
    """Tell how many faults tests/soak/faults.py has injected, and what came of their runs."""
    found = measured("faults")
    if found is None:
        return not_measured("faults", "tests/soak")
    lines = [
        ("calls that change the disk", f"{found['calls']:,}"),
        ("runs in which one of them failed", f"{found['failed']:,}"),
        ("power cuts", f"{found['power_cuts']:,}"),
        ("runs that could not be resumed to the same bytes", f"**{found['lost']:,}**"),
    ]
    return Markdown(
        table(("", "count"), lines, "lr").data + f"\n\n{found['date']}, {found['seconds'] / 60:.0f} minutes."
    )


def duration(seconds: float) -> str:
    """Format a time in seconds or milliseconds."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.1f} ms"


def recipe() -> tuple[Markdown, float, float]:
    """Return a table of the recipe's runs, and the mean losses of tinygpt and of PyTorch."""
    found = json.loads((DOCS / "data" / "recipe.json").read_text())
    runs = found["runs"]
    ours = statistics.mean(run["val_loss"] for run in runs)
    theirs = statistics.mean(run["pytorch_val_loss"] for run in runs)
    lines = [(run["seed"], f"{run['val_loss']:.4f}", f"{run['pytorch_val_loss']:.4f}") for run in runs]
    lines.append(("mean", f"**{ours:.4f}**", f"**{theirs:.4f}**"))
    lines.append(("published by nanoGPT", found["published"], ""))
    shown = table(("seed", "validation loss", "the same in PyTorch"), lines, "rrr")
    return Markdown(f"{shown.data}\n\n*{found['machine']}*"), ours, theirs


def recipe_split() -> Markdown:
    """Tabulate losses on the last tenth of the text after learning from different parts of it."""
    found = json.loads((DOCS / "data" / "recipe_split.json").read_text())
    lines = [(run["learned"], f"{run['val_loss']:.3f}", f"**{run['last_tenth_loss']:.3f}**") for run in found["runs"]]
    shown = table(("learned from", "loss on its own validation split", "loss on the last tenth"), lines, "lrr")
    return Markdown(f"{shown.data}\n\n*{found['machine']}, seed {found['seed']}*")


def scaling_ranks() -> Markdown:
    """Show one rank with two threads beside two ranks with one thread, for each model of benchmarks/scaling.py."""
    found = measured("scaling")
    lines = []
    for row in found["ranks"].values():
        one, two = row["ranks_1_threads_2"], row["ranks_2_threads_1"]
        size = f"{row['gradient'] / 4e6:.1f}M"
        lines.append((size, duration(one), duration(two), f"**{one / two:.2f} x**"))
    heads = ("parameters", "1 rank x 2 threads", "2 ranks x 1 thread", "speed against threads")
    return Markdown(f"{table(heads, lines, 'rrrr').data}\n\n{_scaling_machine(found)}")


def scaling_network() -> Markdown:
    """Show steps of two hosts with a limited link between them."""
    found = measured("scaling")
    lines = [
        (f"{row['bits_per_s'] / 1e9:g} Gbit/s", f"{row['gradient'] / 4e6:.1f}M", row["way"], duration(row["alone"]),
         duration(row["seconds"]), duration(row["waited"]) if row["buckets"] else "",
         f"{row['sent'] / 1e6:.2f} MB", f"{row['sent'] / row['gradient']:.3f}")
        for rows in found["network"].values() for row in rows
    ]  # fmt: skip
    heads = ("link", "parameters", "way", "step without messages", "step", "waited", "sent", "of the least")
    return Markdown(f"{table(heads, lines, 'rrlrrrrr').data}\n\n{_scaling_machine(found)}")


def scaling_loss() -> Markdown:
    """Show the validation loss of each way to send less."""
    found = measured("scaling")
    exact = found["loss"]["synchronous"]
    lines = [(name, f"{loss:.3f}", f"{loss - exact:+.3f}") for name, loss in found["loss"].items()]
    return table(("way", "validation loss", "against synchronous"), lines, "lrr")


def scaling_check() -> Markdown:
    """Show steps that scaling_model.py predicts beside those that were measured."""
    rows = _program("scaling_model").predictions(measured("scaling"))
    lines = [
        (f"{bits / 1e9:g} Gbit/s", link.split("-")[0], duration(seconds), duration(predicted))
        for link, bits, seconds, predicted in rows
    ]
    return table(("link", "model", "measured", "predicted"), lines, "rlrr")


def scaling_model() -> Markdown:
    """Show the efficiency that scaling_model.py computes for many machines: a row for each model, network and way."""
    program = _program("scaling_model")
    rows = program.table(measured("scaling"), measured("compare"))
    cells = {(row["machine"], row["gbit_per_s"], row["way"], row["machines"]): row for row in rows}
    lines = []
    for machine, gbit, way in dict.fromkeys(key[:3] for key in cells):
        of_row = [cells[machine, gbit, way, machines] for machines in program.MACHINES]
        shares = [f"{row['efficiency']:.0%}" for row in of_row]
        lines.append((machine, f"{gbit:g} Gbit/s", way, *shares, f"{of_row[-1]['tokens_per_s'] / 1e6:.2f}M"))
    heads = ("machine", "network", "way", *(f"{n:,} machines" for n in program.MACHINES))
    return table((*heads, f"tokens/s of {program.MACHINES[-1]:,}"), lines, "lrlrrrr")


def _scaling_machine(found: Mapping[str, Any]) -> str:
    return f"*{found['machine']['processor']}, 2 cores; {found['machine']['date']}*"


def check_recipe() -> None:
    """Raise AssertionError unless the command on the page of recipes is what benchmarks/recipe.py runs."""
    from tinygpt.cli.app import build_app
    from tinygpt.train.settings import TrainSettings

    page = (DOCS / "recipes.md").read_text()
    command = re.search(r"^tinygpt (train (?:.*\\\n)*.*)$", page, re.MULTILINE)[1].replace("\\\n", " ")
    _, bound, _ = build_app("train").parse_args(command, exit_on_error=False, print_error=False)
    tree = ast.parse((ROOT / "benchmarks" / "recipe.py").read_text())
    # Parse only this function, because importing the module needs PyTorch.
    function = next(node for node in tree.body if getattr(node, "name", "") == "settings")
    names = {"TrainSettings": TrainSettings}
    exec(compile(ast.Module([function], []), "recipe.py", "exec"), names)
    documented = bound.args[0] if bound.args else next(iter(bound.kwargs.values()))
    ran = names["settings"](*documented.corpus.data, documented.output.out, documented.optimisation.seed)
    assert documented.replace(samples=ran.output.samples) == ran, (documented, ran)


def constants(op: str) -> dict[str, int]:
    """Return the tile sizes in csrc/<op>.pyx, by name."""
    text = (ROOT / "csrc" / f"{op}.pyx").read_text()
    return {name: int(value) for name, value in re.findall(r"^    ([A-Z]+) = (\d+)$", text, re.MULTILINE)}


def chart(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x: str = "step",
    y: str = "loss",
    log_x: bool = False,
) -> HTML:
    """Draw up to six lines, given as name -> (x values, y values), in a small picture with the colours of the theme."""
    xs = [value for along, _ in lines.values() for value in along]
    ys = [value for _, up in lines.values() for value in up]
    (x0, x1), (y0, y1) = (min(xs), max(xs)), (min(ys), max(ys))
    width, height, left, bottom = 560, 240, 44, 30

    def place(a: float, b: float) -> str:
        part = math.log(a / x0) / (math.log(x1 / x0) or 1) if log_x else (a - x0) / ((x1 - x0) or 1)
        across = left + (width - left - 8) * part
        return f"{across:.1f},{8 + (height - bottom - 8) * (y1 - b) / ((y1 - y0) or 1):.1f}"

    marks = "".join(
        f'<path class="rule" d="M{place(x0, b)} L{place(x1, b)}"/>'
        f'<text x="{left - 6}" y="{float(place(x0, b).split(",")[1]) + 4:.1f}" text-anchor="end">{b:.2g}</text>'
        for b in (y0 + (y1 - y0) * part / 3 for part in range(4))
    )
    shapes = "".join(
        f'<polyline class="line{i}" points="{" ".join(map(place, along, up))}"/>'
        for i, (along, up) in enumerate(lines.values())
    )
    names = "".join(f'<span class="line{i}">{name}</span>' for i, name in enumerate(lines))
    return HTML(
        f'<figure class="chart"><svg viewBox="0 0 {width} {height}" role="img" aria-label="{y} over {x}">'
        f'{marks}{shapes}<text x="{left}" y="{height - 8}">{x0:g}</text>'
        f'<text x="{width - 8}" y="{height - 8}" text-anchor="end">{x} {x1:g}</text>'
        f"</svg><figcaption>{y}: {names}</figcaption></figure>"
    )
