"""Error messages in the words of the command line: one line that names the flag and, where there is one, the fix.

The library names its arguments, as in ``[read] 'max_tokens' must be in 2..10000``. This module is the only place that
turns such a message into ``--max-tokens must be in 2..10000``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from cyclopts import MissingArgumentError, UnusedCliTokensError

OPERATION = re.compile(r"\[(\w+)\] ")
ARGUMENT = re.compile(r"'(\w+)'")
# Library arguments whose flag has a shorter name.
SHORTER = {"temperature": "temp", "top_k": "topk", "top_p": "topp"}
# Operations that have one flag: the flag, and the argument that it sets; None if the flag sets all of them. No other
# word of their messages is an argument, so that the name of a file stays as it is.
BY_FLAG = {
    "kernels": ("--kernels", None),
    "set_num_threads": ("--threads", "n"),
    "parse_extensions": ("--ext", "extensions"),
    "discover": ("--ext", "extensions"),
    "Corpus": ("--seq", "block_size"),
    "Infilling": ("--fim-rate", "rate"),
    # Flags of `tinygpt train`, in errors of generate and export about a model that lacks something.
    "gap": ("--fim-rate", "fim_rate"),
    "to_metadata": ("--tokenizer-type", "tokenizer_type"),
}
# Command to the flag for which a word without a flag was probably meant.
MEANT = {
    "train": "--data",
    "generate": "--prompt",
    "chat": "--once",
    "serve": "--model",
    "visualize": "--prompt",
    "trace": "--prompt",
    "eval": "--data",
    "tokenize": "--text",
    "embeddings": "--model",
    "bench": "--op",
    "info": "--model",
}


def one_line(error: Exception, options: Sequence[Any] = ()) -> str:
    """Describe an error in one line, in the words of the command line.

    Parameters
    ----------
    error : Exception
    options : sequence
        The arguments of the command that was running: option dataclasses and positional values.

    Returns
    -------
    str
        One line; never empty.
    """
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, UnusedCliTokensError):
        return _unexpected(error)
    if isinstance(error, MissingArgumentError):
        return _missing(error)
    text = " ".join(str(error).split()) or type(error).__name__
    return in_flags(text, flag_names(options))


def in_flags(message: str, names: Mapping[str, str]) -> str:
    """Rewrite a message of the library, which names arguments, in the flags of a command.

    Parameters
    ----------
    message : str
        Returned unchanged unless it begins with an operation in brackets.
    names : mapping of str to str
        Argument to flag, for operations that are not in BY_FLAG.

    Returns
    -------
    str
        The message without its operation.
    """
    found = OPERATION.match(message)
    if found is None:
        return message
    flag, argument = BY_FLAG.get(found[1], (None, None))
    rest = message[found.end() :]
    if flag is not None and argument is None:
        return f"{flag}: {rest}"
    known = names if flag is None or argument is None else {argument: flag}
    return ARGUMENT.sub(lambda name: known.get(name[1]) or name[0], rest)


def flag_names(options: Sequence[Any]) -> dict[str, str]:
    """Map the fields of option dataclasses, nested ones too, to their flags."""
    names: dict[str, str] = {}
    for one in options:
        for field in fields(one) if is_dataclass(one) else ():
            names |= flag_names([getattr(one, field.name)])
            names[field.name.strip("_")] = "--" + field.name.strip("_").replace("_", "-")
    return names | {argument: names[short] for argument, short in SHORTER.items() if short in names}


def _unexpected(error: UnusedCliTokensError) -> str:
    """Name a word that belongs to no flag, and the flag that it was probably meant for."""
    words = error.unused_tokens or [""]
    flag = MEANT.get((error.command_chain or [""])[-1])
    offer = f"; did you mean {flag} {shlex.quote(' '.join(words))}?" if flag else ""
    return f"unexpected argument '{words[0]}'{offer}"


def _missing(error: MissingArgumentError) -> str:
    """Name the flag or positional argument that is missing or has no value, and where its use is explained."""
    command = " ".join(["tinygpt", *(error.command_chain or [])])
    name = error.argument.name if error.argument is not None else ""
    if not name.startswith("-"):
        return f"{name} is missing; usage: {command} {name}"
    if name in (error.root_input_tokens or []):
        return f"{name} needs a value; see '{command} --help'"
    return f"{name} is required; see '{command} --help'"
