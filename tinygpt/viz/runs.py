"""Deprecated: runs are read back by `tinygpt.runs.read`."""

from tinygpt.deprecated import forward

__getattr__ = forward(
    __name__,
    {
        "RunData": "tinygpt.runs.read.RunData",
        "read_run": "tinygpt.runs.read.read_run",
        "differences": "tinygpt.runs.read.differences",
    },
)
