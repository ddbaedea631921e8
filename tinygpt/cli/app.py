"""The commands, their config files, and what becomes of an error: one line and an exit status."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from cyclopts import App, CycloptsError, Parameter, convert
from cyclopts.config import Dict

from tinygpt import __version__
from tinygpt.cli.flags import one_line

COMMANDS = {
    "train": "Train a model on source files.",
    "generate": "Continue a text with a trained model.",
    "chat": "Talk with a model that has a chat template.",
    "visualize": "Show what every head of a model attends to in a prompt.",
    "trace": "Show every intermediate value of a forward pass.",
    "eval": "Measure how well a model predicts a text.",
    "read": "Show what a model thinks of a file, token by token.",
    "tokenize": "Show how a text is cut into tokens.",
    "embeddings": "Show a model's embeddings as points.",
    "import": "Bring a model in: a Hugging Face directory or a GGUF file.",
    "export": "Take a model out: a Hugging Face directory or a GGUF file.",
    "metrics": "Show the curves of training runs, laid over each other.",
    "bench": "Compare the rungs of the kernels on this machine.",
    "info": "Show this machine and build, or what a model directory holds.",
}
# Modules and functions that are not called like their command, which may be a word of Python.
FUNCTIONS = {"eval": "eval:evaluate", "import": "import_model:import_model"}
FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


def build_app(called: str | None = None) -> App:
    """The command line; a command's module is imported when the command is called or asked for help.

    Parameters
    ----------
    called : str, optional
        The command that this is for: its help is its docstring, that of the others their line in COMMANDS.
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
    """A value from words, as cyclopts makes it, which would make 2 layers of 1.5."""
    for token in tokens if int in (kind, *get_args(kind)) else ():
        if "." in token.value:
            raise ValueError(f"must be a whole number, got {token.value}")
    return convert(kind, tokens)


def _default(value: Any) -> str | None:
    """A default as a user would type it; None where the help of the flag tells it."""
    if value is None or isinstance(value, bool):
        return None if value is None else "on" if value else "off"
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str, optional
        By default that of the process.

    Returns
    -------
    int
        0; 1 if a run failed; 2 for bad input; 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    options: list[Any] = []  # of the command, once they are known
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 must not end a run
    try:
        app = build_app(arguments[0] if arguments else None)
        app.config = config_files(arguments)
        command, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
        options = [*bound.args, *bound.kwargs.values()]
        return command(*bound.args, **bound.kwargs) or 0
    except KeyboardInterrupt:
        return fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The reader (head, less) has gone. Nothing can be flushed at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (CycloptsError, ValueError, IndexError, OSError, ImportError) as error:
        if os.environ.get("TINYGPT_TRACEBACK"):
            raise
        return fail(one_line(error, options), BAD_INPUT)
    except MemoryError as error:
        return fail(f"not enough memory: {one_line(error, options)}", FAILED)
    except RuntimeError as error:
        return _runtime_failure(error)


def _runtime_failure(error: RuntimeError) -> int:
    """Runs end in two ways that are no bugs; anything else keeps its traceback."""
    from tinygpt.train.loop import Interrupted, TrainingFailed

    if isinstance(error, Interrupted):
        return fail(str(error), INTERRUPTED, "tinygpt: ")
    if isinstance(error, TrainingFailed):
        return fail(str(error), FAILED)
    raise error


def fail(message: str, status: int, start: str = "tinygpt: error: ") -> int:
    """Print one line to standard error; returns `status`."""
    print(start + message, file=sys.stderr)
    return status


def config_files(arguments: Sequence[str]) -> tuple[Dict, ...]:
    """Where settings come from besides the flags: the file after ``--config``, then with ``--resume`` the run's own."""
    if not arguments or arguments[0] != "train":
        return ()
    from tinygpt.runs.directory import read_table
    from tinygpt.runs.layout import SETTINGS
    from tinygpt.train.settings import current

    tables: dict[Path, dict[str, Any]] = {}
    out = _value_of(arguments, "--out")
    given = _value_of(arguments, "--config")
    if given is not None:
        if not Path(given).is_file():
            raise ValueError(f"--config {given}: no such file")
        tables[Path(given)] = table = current(read_table(Path(given)))
        _check_keys(given, table)
        out = out or table.get("out")
    if any(argument.startswith("--resume=") for argument in arguments):
        raise ValueError("--resume takes no value")
    if "--resume" in arguments:
        run = Path(str(out or "runs/tiny"), SETTINGS)
        if not run.is_file():
            raise ValueError(f"--resume: there is no run in {run.parent}")
        # The run may have been moved since it wrote its name down.
        tables[run] = table = current(read_table(run)) | {"out": str(run.parent)}
        _check_keys(str(run), table)
    _check_shape(arguments, tables)
    _choose_length(arguments, tables)
    return tuple(Dict(table, source=str(path), use_commands_as_keys=False) for path, table in tables.items())


def _check_keys(file: str, table: dict[str, Any]) -> None:
    """Refuse what is no setting in words that name the file; cyclopts passes over what has the name of a command."""
    from tinygpt.train.settings import TrainSettings, key

    settings = {key(name) for name in TrainSettings.__dataclass_fields__} - {"config", "resume"}
    for name, value in table.items():
        if key(name) not in settings or isinstance(value, dict):
            raise ValueError(f"{file}: '{name}' is no setting")


def _check_shape(arguments: Sequence[str], tables: dict[Path, dict[str, Any]]) -> None:
    """Refuse --from together with a flag of the shape, also where its value is the default, which nobody asked for."""
    from tinygpt.train.settings import SHAPE, flag, key, refused_with_from

    keys = {key(name) for table in tables.values() for name in table}
    if _value_of(arguments, "--from") is None and "from" not in keys:
        return
    words = {argument.partition("=")[0].replace("--no-", "--") for argument in arguments}
    for name in SHAPE:
        if flag(name) in words or key(name) in keys:
            raise ValueError(refused_with_from(name))


def _choose_length(arguments: Sequence[str], tables: dict[Path, dict[str, Any]]) -> None:
    """Take --steps and --epochs, of which one replaces the other, from the first source that has either."""
    names = ("steps", "epochs")
    chosen = {name for name in names if _value_of(arguments, f"--{name}") is not None}
    sources = [("", chosen), *((f"{path}: ", table.keys() & set(names)) for path, table in tables.items())]
    for where, found in sources:
        if len(found) > 1:
            raise ValueError(f"{where}--steps and --epochs cannot both be given")
    for table in tables.values():
        found = table.keys() & set(names)
        for name in found if chosen else ():
            del table[name]
        chosen = chosen or found


def _value_of(arguments: Sequence[str], flag: str) -> str | None:
    for i, argument in enumerate(arguments):
        if argument == flag and i + 1 < len(arguments):
            return arguments[i + 1]
        if argument.startswith(flag + "="):
            return argument[len(flag) + 1 :]
    return None
