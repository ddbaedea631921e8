"""`tinygpt train`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from tinygpt.train.settings import TrainSettings


def train(settings: Annotated[TrainSettings, Parameter(name="*")] = TrainSettings()) -> int:  # noqa: B008 - never written to
    """Train a model on source files.

    Reads the files, trains a tokenizer, holds some files out, trains, and writes
    the best model to --out: a model directory that the other commands and Hugging
    Face's transformers read. Ctrl-C saves and says how to go on.
    """
    from tinygpt.cli.console import ConsoleReport
    from tinygpt.train.loop import train as run
    from tinygpt.train.report import Report

    run(settings, Report() if settings.quiet else ConsoleReport())
    return 0
