"""Progress of a run. This report is silent; the command line has one that prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinygpt.kernels.profile import Line


class Report:
    """Receives the progress of a run; override any of its methods."""

    def fact(self, name: str, text: str) -> None:
        """Report a fact about the run: source, tokens, model, machine, score."""

    def merging(self, done: int, total: int) -> None:
        """Report that the tokenizer has learned `done` of `total` merges."""

    def start(self, first: int, total: int) -> None:
        """Report that training begins at step `first` of `total`."""

    def step(self, record: dict[str, Any]) -> None:
        """Report a step; `record` is its line in metrics.jsonl."""

    def evaluation(self, record: dict[str, Any], best: bool) -> None:
        """Report an evaluation; `best` if no earlier one had a lower loss."""

    def evaluating(self, done: int, total: int) -> None:
        """Report that the final evaluation has scored `done` of `total` contexts."""

    def sample(self, number: int, text: str) -> None:
        """Report a text that the trained model generated."""

    def note(self, text: str) -> None:
        """Report a remark, in one line."""

    def profile(self, lines: list[Line], steps: int) -> None:
        """Time of each kernel over `steps` steps, longest first and Python last; empty if no step was measured."""

    def stop(self) -> None:
        """End the progress display."""
