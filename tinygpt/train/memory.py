"""Memory that a training run needs at least, estimated before work begins."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from tinygpt.config import GPTConfig
from tinygpt.train.settings import DEFAULTS, SEQ, TrainSettings

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
# Fields of a config that make a model large, with the settings that decide them.
SIZES = {"n_embd": "embed", "n_layer": "layers", "ffn_dim": "ffn", "block_size": "seq", "vocab_size": "vocab_size"}
UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def check_memory(settings: TrainSettings, config: GPTConfig) -> None:
    """Raise ValueError, naming the setting to reduce, if a run cannot fit into the memory of this machine.

    Parameters
    ----------
    settings : TrainSettings
    config : GPTConfig
        Model to train.
    """
    has, needs = machine_bytes(), needed_bytes(settings, config)
    if has is None or needs <= has:
        return
    reduced = {"batch": needed_bytes(settings.replace(batch=DEFAULTS["batch"]), config)}
    for field, name in SIZES.items() if settings.model.from_ is None else ():
        smaller: dict[str, Any] = {field: SEQ if name == "seq" else DEFAULTS[name]}
        if field == "n_embd":  # the default width need not be a multiple of the heads
            smaller |= {"n_head": DEFAULTS["heads"], "n_kv_head": None}
        small = dataclasses.replace(config, **smaller)
        reduced[name] = needed_bytes(settings.replace(seq=min(settings.model.length, small.block_size)), small)
    name = min(reduced, key=lambda name: reduced[name])
    raise ValueError(
        f"[train] '{name}' {settings.flat()[name]} is too large: the run needs at least {shown_bytes(needs)} of "
        f"memory, this machine has {shown_bytes(has)}"
    )


def needed_bytes(settings: TrainSettings, config: GPTConfig) -> int:
    """Estimate the memory of a training step from below: weights, gradients, optimizer state and activations."""
    C, F = config.n_embd, config.ffn_width
    parts = {"gelu": 2, "swiglu": 3}[config.activation]
    block = (config.n_head + 2 * config.kv_heads) * config.head_dim * C + C * C + parts * C * F
    tables = config.vocab_size * C * (1 if config.tie_embeddings else 2)
    tables += config.block_size * C if config.position == "learned" else 0
    weights = config.n_layer * block + tables
    copies = {"adamw": 4, "muon": 4, "adam": 4, "sgd": 3}[
        settings.optimisation.optimizer
    ]  # weights, gradients, moments
    if settings.model.lora_rank is not None:
        copies = 1  # adapters are small, and the weights below them have no gradient
    # Kept of each block for backward: q, k, v, the attention output, two sums of the residual stream, and the MLP.
    kept = config.n_layer * (2 * C if settings.machine.recompute else 6 * C + 2 * F)
    tokens = settings.optimisation.batch * settings.model.length
    return 4 * (copies * weights + tokens * kept)


def machine_bytes() -> int | None:
    """Return the memory that this process may use; None if the system does not say."""
    try:
        found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (AttributeError, ValueError, OSError):  # unknown on Windows
        return None
    for limit in map(Path, CGROUP_LIMITS):
        text = limit.read_text().strip() if limit.is_file() else ""
        found += [int(text)] if text.isdecimal() else []
    return min(found)


def shown_bytes(n: int) -> str:
    """Format a number of bytes with a binary unit."""
    power = min((n.bit_length() - 1) // 10, len(UNITS) - 1) if n else 0
    return f"{n / 1024**power:.3g} {UNITS[power]}"
