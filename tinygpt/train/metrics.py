"""Deprecated: the records of a run are in `tinygpt.runs.metrics`."""

from tinygpt.deprecated import forward

__getattr__ = forward(
    __name__,
    {"MetricsLog": "tinygpt.runs.metrics.MetricsLog", "read_metrics": "tinygpt.runs.metrics.read_metrics"},
)
