"""Entry point of the command line: the commands, and errors as one line with an exit status."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, get_args

from cyclopts import App, CycloptsError, Parameter, convert
from cyclopts.config import Dict

from tinygpt import __version__
from tinygpt.cli.flags import one_line

if TYPE_CHECKING:
    from tinygpt.distributed.communicator import Communicator

COMMANDS = {
    "train": "Train a model on source files.",
    "generate": "Continue a text with a trained model.",
    "chat": "Talk with a model that has a chat template.",
    "complete": "Print what a model would insert at a place in a file.",
    "serve": "Serve a model over HTTP, in the form of OpenAI's API.",
    "visualize": "Show the attention of every head of a model on a prompt.",
    "trace": "Show every intermediate value of a forward pass.",
    "eval": "Measure how well a model predicts a text.",
    "read": "Show how well a model predicts a file, token by token.",
    "tokenize": "Show how a text is split into tokens.",
    "embeddings": "Show a model's embeddings as points.",
    "import": "Import a model from a Hugging Face directory or a GGUF file.",
    "export": "Export a model as a Hugging Face directory or a GGUF file.",
    "metrics": "Show the curves of one or several training runs.",
    "bench": "Compare the rungs of the kernels on this machine.",
    "gym": "Exercises in writing kernels, checked and timed.",
    "info": "Show this machine and build, or describe a model directory.",
}
# Modules and functions whose names differ from their command, because it is a Python keyword or builtin.
FUNCTIONS = {"eval": "eval:evaluate", "import": "import_model:import_model"}
FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
EXPECTED = (CycloptsError, ValueError, IndexError, OSError, ImportError)  # bad input: one line without a traceback


def build_app(called: str | None = None) -> App:
    """Build the command line; the module of a command is imported only when it is called or asked for help.

    Parameters
    ----------
    called : str, optional
        Name of the command in use. Its help is its docstring; other commands show their line in COMMANDS.
    """
    app = App(
        name="tinygpt",
        help="GPT-style language models on a CPU, from scratch.",
        version=__version__,
        help_format="plaintext",
        default_parameter=Parameter(
            negative_iterable=(), consume_multiple=True, show_default=_default, converter=_converted
        ),
        help_epilogue="'tinygpt COMMAND --help' explains a command. Environment: TINYGPT_KERNELS, "
        "TINYGPT_NUM_THREADS, TINYGPT_ISA.",
    )
    for name, text in COMMANDS.items():
        module = f"tinygpt.cli.{FUNCTIONS.get(name, f'{name}:{name}')}"
        app.command(module, name=name, help=None if name == called else text)
    return app


def _converted(kind: Any, tokens: Sequence[Any]) -> Any:
    """Convert words to the type of a flag, as cyclopts does, but refuse fractions for integers instead of rounding."""
    for token in tokens if int in (kind, *get_args(kind)) else ():
        if "." in token.value:
            raise ValueError(f"must be a whole number, got {token.value}")
    return convert(kind, tokens)


def _default(value: Any) -> str | None:
    """Format a default as a user would type it; None if the help text of the flag describes it."""
    if value is None or isinstance(value, bool):
        return None if value is None else "on" if value else "off"
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments of the command line. Default: those of the process.

    Returns
    -------
    int
        0; 1 if a run failed; 2 for bad input; 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    options: list[Any] = []  # arguments of the command, empty until they are parsed
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 must not end a run
    try:
        app = build_app(arguments[0] if arguments else None)
        app.config = config_files(arguments)
        command, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
        options = [*bound.args, *bound.kwargs.values()]
        return command(*bound.args, **bound.kwargs) or 0
    except BrokenPipeError:
        # The reader (head, less) is gone. Without this, Python would fail again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (KeyboardInterrupt, MemoryError, *EXPECTED) as error:
        if os.environ.get("TINYGPT_TRACEBACK") and isinstance(error, EXPECTED):
            raise
        return fail(*outcome(error, options))


def outcome(error: BaseException, options: Sequence[Any]) -> tuple[str, int]:
    """Return the line that describes the error which ended a command, and its exit status."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", INTERRUPTED
    line = one_line(error, options) if isinstance(error, Exception) else type(error).__name__
    if isinstance(error, MemoryError):
        return f"not enough memory: {line}", FAILED
    return line, BAD_INPUT if isinstance(error, EXPECTED) else FAILED


def fail(message: str, status: int, start: str = "tinygpt: error: ") -> int:
    """Print one line to standard error, under mpiexec on rank 0 alone; returns `status`."""
    from tinygpt.distributed.launch import is_first

    if is_first():
        print(start + message, file=sys.stderr)
    return status


@contextmanager
def leave_job(comm: Communicator, options: Sequence[Any], failure: type[Exception]) -> Iterator[None]:
    """End all ranks of a job with the reason, if one fails with an error that the others do not know.

    Parameters
    ----------
    comm : Communicator
    options : sequence
        The arguments of the command that is running.
    failure : type
        Exception of a run that failed, besides those for bad input: described in one line, without a traceback.
    """
    try:
        yield
    except BaseException as error:
        if comm.size > 1 and not comm.settled:
            line, status = outcome(error, options)
            line = f"tinygpt: error: {'' if comm.first else f'rank {comm.rank} on {comm.host}: '}{line}\n"
            if not isinstance(error, (KeyboardInterrupt, MemoryError, failure, *EXPECTED)):
                line = "".join(traceback.format_exception(error)) + line
            comm.leave(lambda: print(line, end="", file=sys.stderr, flush=True), status)
        raise


def config_files(arguments: Sequence[str]) -> tuple[Dict, ...]:
    """Read the settings files of a command; only `train` has any."""
    if not arguments or arguments[0] != "train":
        return ()
    from tinygpt.cli.config import config_files as of_train

    return of_train(arguments[1:])
