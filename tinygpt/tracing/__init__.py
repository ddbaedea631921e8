"""Named values of a forward pass: recorded step by step, each with its formula, statistics and source line."""

from tinygpt.tracing.record import COLUMNS, LIMIT, Stats, Step, Trace, number, statistics, trace

__all__ = ["COLUMNS", "LIMIT", "Stats", "Step", "Trace", "number", "statistics", "trace"]
