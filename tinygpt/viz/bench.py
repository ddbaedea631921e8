"""Page of a benchmark: one bar per rung and op, with the shares of the machine's limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tinygpt.viz.page import Page


@dataclass(frozen=True)
class Bar:
    """One measured rung of an op.

    Attributes
    ----------
    rung : str
    seconds : float
        Median time of a call.
    rate, share, factor : str
        Rate and share of the nearer limit, as in the table of `tinygpt bench`; speed-up, or the time in multiples of
        tinygpt's.
    ours : bool
        False for another library.
    disturbed : bool
        True if other programs were busy during every measurement.
    """

    rung: str
    seconds: float
    rate: str
    share: str
    factor: str
    ours: bool
    disturbed: bool


@dataclass(frozen=True, eq=False)
class BenchPage(Page):
    """Page of all measured ops.

    Attributes
    ----------
    machine : str
        Processor, number of threads, and the measured limits.
    groups : list of (str, list of Bar)
        Op with its sizes, and its rungs.
    notes : list of str
        Geometric means, and remarks on the measurement.
    """

    template_name = "bench"

    machine: str
    groups: list[tuple[str, list[Bar]]]
    notes: list[str] = field(default_factory=list)

    def _heading(self) -> str:
        return "Kernel benchmark"

    def _data(self) -> dict[str, Any]:
        groups = [{"name": name, "bars": [vars(bar) for bar in bars]} for name, bars in self.groups]
        return {"machine": self.machine, "notes": self.notes, "groups": groups}
