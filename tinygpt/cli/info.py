"""`tinygpt info`."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tinygpt.cli.options import Compute


@dataclass(kw_only=True)
class InfoOptions(Compute):
    """Flags of `tinygpt info`, one field each."""

    model: str | None = None
    """Model directory to describe instead of the machine."""
    quiet: bool = False
    """Print nothing; the exit status is 0 if the model can be loaded."""


def info(options: Annotated[InfoOptions, Parameter(name="*")] = InfoOptions()) -> int:  # noqa: B008
    """Show this machine and build, or describe a model directory."""
    options.apply()
    facts = _machine() if options.model is None else _model(options.model)
    width = max(len(name) for name, _ in facts) + 2
    for name, text in () if options.quiet else facts:
        print(f"{name:<{width}}{text}")
    return 0


def _machine() -> list[tuple[str, str]]:
    """Describe processor, build, threads, peak rates and rungs, as pairs of name and text."""
    import numpy as np

    from tinygpt import __version__
    from tinygpt.core import cpu, matmul
    from tinygpt.kernels import isa, registry, threads
    from tinygpt.kernels.peak import copy_bandwidth, peak_flops, read_bandwidth

    n = threads.get_num_threads()
    openmp = f"yes, specification of {cpu.openmp()}" if cpu.openmp() else "no: this build has a single thread"
    peak = peak_flops(n)
    beside = " beside other programs: may be too low" if peak.disturbed else ""
    bandwidth = f"{read_bandwidth(n) / 1e9:.0f} GB/s read, {copy_bandwidth(n) / 1e9:.0f} GB/s copy, measured"
    rounding = "instructions of this processor" if matmul.bfloat16_instructions() else "emulated: operands are rounded"
    facts = [
        ("tinygpt", __version__),
        ("python", f"{platform.python_version()}, NumPy {np.__version__}"),
        ("processor", processor()),
        ("ISA", f"{isa.get()} (of {', '.join(isa.available())})"),
        ("build", cpu.compiler()),
        ("OpenMP", openmp),
        ("threads", f"{n}  ({', '.join(f'{name} {value}' for name, value in threads.limits().items())})"),
        ("peak", f"{peak / 1e9:.0f} GFLOP/s float32, measured on {n} thread{'s' * (n > 1)}{beside}"),
        ("bandwidth", bandwidth),
        ("bfloat16", f"products: {rounding}"),
        ("rungs", "every rung of each op, the one in use in brackets"),
    ]
    in_use = registry.selection()
    for op, rungs in registry.available().items():
        facts.append((f"  {op}", "  ".join(f"[{rung}]" if rung == in_use[op] else rung for rung in rungs)))
    return facts


def processor() -> str:
    """Return the name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _model(directory: str) -> list[tuple[str, str]]:
    """Describe the model of a directory, its tokenizer and its training run, as pairs of name and text."""
    from tinygpt.files import model_directory
    from tinygpt.runs import layout
    from tinygpt.runs.directory import read_table
    from tinygpt.runs.metrics import read_progress
    from tinygpt.runs.read import as_text

    model, tokenizer = model_directory.load(directory)
    facts = [("model", directory), ("parameters", f"{model.num_parameters():,}")]
    # Options that a config leaves open are shown with the values that the model uses.
    used = asdict(model.config) | {"n_kv_head": model.config.kv_heads, "ffn_dim": model.config.ffn_width}
    facts += [(name, str(value)) for name, value in used.items()]
    kind = "none" if tokenizer is None else f"{type(tokenizer).__name__}, vocabulary {tokenizer.vocab_size}"
    facts.append(("tokenizer", kind))
    log = Path(directory, layout.METRICS)
    if layout.is_run(directory) and log.exists():
        run = read_progress(log)
        if run.steps:
            facts.append(("trained", f"{run.steps} steps" + ("" if run.seconds is None else f", {run.seconds:.0f} s")))
        if run.best is not None:
            facts.append(("validation loss", f"{run.best:.4f}"))
    if layout.is_run(directory):
        facts.append(("settings", f"those of the run, in {layout.SETTINGS}"))
        table = read_table(Path(directory, layout.SETTINGS))
        facts += [(f"  {name}", as_text(value)) for name, value in table.items()]
    return facts
