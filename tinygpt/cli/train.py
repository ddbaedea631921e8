"""`tinygpt train`."""

from __future__ import annotations

import shlex
from typing import Annotated

from cyclopts import Parameter

from tinygpt.cli.flags import flag_names, in_flags
from tinygpt.train.settings import TrainSettings


def train(settings: Annotated[TrainSettings, Parameter(name="*")] = TrainSettings()) -> int:  # noqa: B008 - never written to
    """Train a model on source files.

    Reads the files, trains a tokenizer, sets a validation split aside, trains,
    and writes the best model to --out: a model directory that the other commands
    and Hugging Face's transformers read. Ctrl-C saves and says how to resume.
    """
    from tinygpt.cli.app import FAILED, INTERRUPTED, fail
    from tinygpt.cli.console import ConsoleReport
    from tinygpt.train.loop import Interrupted, TrainingFailed
    from tinygpt.train.loop import train as run
    from tinygpt.train.report import Report

    report = Report() if settings.output.quiet else ConsoleReport()
    try:
        run(settings, report)
    except Interrupted as error:
        again = shlex.join(["tinygpt", "train", "--resume", "--out", settings.output.out])
        return fail(f"{error}; resume with: {again}", INTERRUPTED, "tinygpt: ")
    except TrainingFailed as error:
        return fail(in_flags(str(error), flag_names([settings])), FAILED)
    out = shlex.quote(settings.output.out)
    report.fact("next", f"tinygpt generate --model {out} --prompt 'def '")
    report.fact("", f"tinygpt metrics {out}")
    report.fact("", f"tinygpt visualize --model {out} --prompt 'def main'")
    return 0
