"""Watch records: the form of a line of watch.jsonl, and the range in which each statistic is healthy."""

from __future__ import annotations

from typing import NamedTuple

from tinygpt.io.records import Record, is_number
from tinygpt.io.strict import shown

KINDS = ("weights", "gradients", "activations")  # kinds of tensors that can be watched
STATISTICS = ("mean", "std", "max", "zeros", "q", "update", "ratio", "dead")  # statistics of one tensor
MOST_WATCHED = 1000  # records that a page or a run keeps in memory; each has figures of every layer
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)  # the values in "q"


class Range(NamedTuple):
    """The range in which a statistic is healthy."""

    kind: str  # one of KINDS
    statistic: str  # one of STATISTICS
    low: float
    high: float
    title: str  # name of the statistic in messages
    hint: str  # likely cause of a value outside the range


# The ranges are wide, because a warning about a run that learns well teaches people not to read warnings. For example,
# a new matrix has values of about 0.02, and AdamW moves each by about the learning rate. A small model, whose learning
# rate is high, therefore changes its weights by a third in one step.
HEALTHY = (
    Range("weights", "update", 1e-6, 0.5, "update-to-weight ratio", "the learning rate does not fit this layer"),
    Range("weights", "std", 1e-4, 5.0, "standard deviation of the weights", "the weights vanish or diverge"),
    Range("gradients", "ratio", 1e-9, 1e3, "gradient-to-weight ratio", "the gradient vanishes or explodes"),
    Range("activations", "std", 1e-4, 1e3, "standard deviation of the activations", "signals vanish or explode"),
    Range("activations", "dead", 0.0, 0.8, "share of dead units", "much of the MLP has no effect"),
)


def place(name: str) -> tuple[str, str]:
    """Split the name of a tensor into its layer and the part within it, such as ``block 3`` and ``mlp.up``."""
    head, _, rest = name.partition(".")
    if head == "blocks":
        index, _, part = rest.partition(".")
        return f"block {index}", part
    return ("embeddings" if head in ("wte", "wpe", "embeddings") else head), name


def check_watch(record: Record) -> None:
    """Raise ValueError unless a record holds statistics of tensors, kind by kind."""
    for kind in KINDS:
        tensors = record.get(kind, {})
        if not isinstance(tensors, dict):
            raise ValueError(f"'{kind}' must be an object, got {shown(tensors)}")
        for name, statistics in tensors.items():
            if not isinstance(statistics, dict):
                raise ValueError(f"{shown(name)} must be an object, got {shown(statistics)}")
            for key, value in statistics.items():
                if key not in STATISTICS:
                    raise ValueError(f"{shown(f'{name}.{key}')} is not known here")
                form = f"a list of {len(QUANTILES)}" if key == "q" else "a number"
                if isinstance(value, list) != (key == "q") or (key == "q" and len(value) != len(QUANTILES)):
                    raise ValueError(f"{shown(f'{name}.{key}')} must be {form}, got {shown(value)}")
                several = value if isinstance(value, list) else [value]
                if not all(one is None or is_number(one) for one in several):
                    raise ValueError(f"{shown(f'{name}.{key}')} must be finite numbers, got {shown(value)}")
