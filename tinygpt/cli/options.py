"""Options that several commands share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class Compute:
    """How to compute."""

    kernels: str | None = None
    """Rung of the kernels, as in blocked or blocked,softmax=naive."""
    threads: int | None = None
    """Threads; by default what the machine grants."""

    def apply(self) -> None:
        """Switch to what was asked for."""
        from tinygpt.kernels import threads
        from tinygpt.train.settings import use_kernels

        check_threads(self.threads)
        use_kernels(self.kernels or "")
        if self.threads is not None:
            threads.set_num_threads(self.threads)


def check_threads(n: int | None) -> None:
    """Raise ValueError for a number of threads that cannot be."""
    if n is not None and n < 1:
        raise ValueError(f"--threads must be at least 1, got {n}")


def load_model(directory: str):
    """The model and the tokenizer of a directory; both must be there."""
    from tinygpt import checkpoint

    model, tokenizer = checkpoint.load(directory)
    if tokenizer is None:
        raise ValueError(f"{directory}: there is no tokenizer.json, so text cannot be turned into tokens")
    return model, tokenizer
