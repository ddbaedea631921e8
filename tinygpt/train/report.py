"""What a run tells while it goes on. This one says nothing; the command line has one that prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinygpt.kernels.profile import Line


class Report:
    """Receives what a run has to say; every method may be overridden alone."""

    def fact(self, name: str, text: str) -> None:
        """One line about the run before it starts: source, tokens, model, machine."""

    def merging(self, done: int, total: int) -> None:
        """The tokenizer has learnt so many of its merges."""

    def start(self, first: int, total: int) -> None:
        """Training begins at step `first` of `total`."""

    def step(self, record: dict[str, Any]) -> None:
        """A step was done; `record` is its line in metrics.jsonl."""

    def evaluation(self, record: dict[str, Any], best: bool) -> None:
        """An evaluation was done; `best` if no earlier one had a lower loss."""

    def evaluating(self, done: int, total: int) -> None:
        """The final evaluation has done so many of its contexts."""

    def sample(self, number: int, text: str) -> None:
        """One text that the trained model wrote."""

    def note(self, text: str) -> None:
        """Something worth knowing, one line."""

    def profile(self, lines: list[Line], steps: int) -> None:
        """What each kernel took of `steps` steps, the longest first and Python last; empty if there was none."""

    def stop(self) -> None:
        """No more progress will come."""
