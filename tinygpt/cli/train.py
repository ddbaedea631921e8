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
    and Hugging Face's transformers read. Ctrl-C, SIGTERM and SIGUSR1 save the run
    within seconds; --resume continues it to the same result, bit for bit.
    """
    from tinygpt.cli.app import FAILED, fail, leave_job
    from tinygpt.cli.console import ConsoleReport
    from tinygpt.distributed.launch import open_job
    from tinygpt.train.loop import Interrupted, TrainingFailed
    from tinygpt.train.loop import train as run
    from tinygpt.train.report import Report

    comm = open_job()
    report = ConsoleReport() if comm.first and not settings.output.quiet else Report()
    try:
        with leave_job(comm, [settings], TrainingFailed):
            run(settings, report, comm)
    except Interrupted as error:
        again = shlex.join([*comm.launcher, "tinygpt", "train", "--resume", "--out", settings.output.out])
        status = 0 if error.signal is None else 128 + error.signal  # as a shell reports a process that a signal ended
        return fail(f"{error}; resume with: {again}", status, "tinygpt: ")
    except TrainingFailed as error:
        return fail(in_flags(str(error), flag_names([settings])), FAILED)
    if not comm.first:
        return 0
    out = shlex.quote(settings.output.out)
    report.fact("next", f"tinygpt generate --model {out} --prompt 'def '")
    report.fact("", f"tinygpt metrics {out}")
    report.fact("", f"tinygpt visualize --model {out} --prompt 'def main'")
    return 0
