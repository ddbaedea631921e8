"""Settings of `tinygpt train` from files: ``--config`` and, with ``--resume``, the run's own run.toml."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cyclopts.config import Dict

from tinygpt.cli.flags import flag_names, in_flags
from tinygpt.train.settings import DEFAULTS, PLACES, SHAPE, TrainSettings, current, key, refused_with_from


def config_files(arguments: Sequence[str]) -> tuple[Dict, ...]:
    """Read the settings of the file after ``--config``, then with ``--resume`` those of the run.

    Parameters
    ----------
    arguments : sequence of str
        The words of the command line after the command.

    Returns
    -------
    tuple of Dict
        Tables of settings. The first table that has a setting decides; flags override all of them.

    Raises
    ------
    ValueError
        A file is missing, is not TOML or has an unknown setting; or settings exclude each other.
    """
    from tinygpt.runs.directory import read_table
    from tinygpt.runs.layout import SETTINGS

    tables: dict[Path, dict[str, Any]] = {}
    out = _value_of(arguments, "--out")
    given = _value_of(arguments, "--config")
    if given is not None:
        if not Path(given).is_file():
            raise ValueError(f"--config {given}: no such file")
        tables[Path(given)] = table = current(read_table(Path(given)))
        _check_keys(given, table)
        if Path(given).name == SETTINGS:  # that of another run, whose page and logs must not be overwritten
            for name in PLACES:
                table.pop(name, None)
        out = out or table.get("out")
    if any(argument.startswith("--resume=") for argument in arguments):
        raise ValueError("--resume takes no value")
    if "--resume" in arguments:
        run = Path(str(out or DEFAULTS["out"]), SETTINGS)
        if not run.is_file():
            raise ValueError(f"--resume: there is no run in {run.parent}")
        # Use the present directory, because the run may have been moved after it recorded its own.
        tables[run] = table = current(read_table(run)) | {"out": str(run.parent)}
        _check_keys(str(run), table)
        _check_resumed(arguments, table)
    _check_shape(arguments, tables)
    _check_tokenizer(arguments, tables)
    _choose_length(arguments, tables)
    # Below the command, because cyclopts drops top-level keys that are also commands, such as metrics.
    return tuple(Dict({"train": table}, source=str(path)) for path, table in tables.items())


def _check_keys(file: str, table: dict[str, Any]) -> None:
    """Raise ValueError for an unknown setting, with the file and the most similar known setting."""
    settings = {key(name) for name in DEFAULTS} - {"config", "resume"}
    for name, value in table.items():
        if key(name) not in settings or isinstance(value, dict):
            raise ValueError(f"{file}: unknown setting '{name}'{_meant(key(name), settings)}")


def _meant(name: str, known: set[str]) -> str:
    """Suggest the known setting that is most similar to an unknown one."""
    import difflib

    found = difflib.get_close_matches(name, sorted(known), 1)
    return f"; did you mean '{found[0]}'?" if found else ""


def _check_shape(arguments: Sequence[str], tables: dict[Path, dict[str, Any]]) -> None:
    """Raise ValueError for --from together with a setting of the shape, even if it has its default value."""
    keys = {key(name) for table in tables.values() for name in table}
    if _value_of(arguments, "--from") is None and "from" not in keys:
        return
    words = {argument.partition("=")[0].replace("--no-", "--") for argument in arguments}
    names = flag_names([TrainSettings()])
    for name in SHAPE:
        if names[name] in words or key(name) in keys:
            raise ValueError(in_flags(refused_with_from(name), names))


def _check_tokenizer(arguments: Sequence[str], tables: dict[Path, dict[str, Any]]) -> None:
    """Raise ValueError for a flag of another kind of tokenizer than the run has, because it would have no effect."""
    found = [_value_of(arguments, "--tokenizer-type")]
    found += [{key(name): value for name, value in table.items()}.get("tokenizer-type") for table in tables.values()]
    kind = next(filter(None, found), DEFAULTS["tokenizer_type"])
    words = {argument.partition("=")[0] for argument in arguments}
    for flag, needed in (("--vocab-size", "bpe"), ("--pattern", "bpe"), ("--max-chars", "char")):
        if flag in words and kind != needed and kind in ("char", "bpe"):
            raise ValueError(f"{flag} needs --tokenizer-type {needed}")


def _check_resumed(arguments: Sequence[str], run: dict[str, Any]) -> None:
    """Raise ValueError for --resume together with a shape of the model that differs from the run's."""
    names, known = flag_names([TrainSettings()]), {key(name): value for name, value in run.items()}
    if "from" in known:  # such a run has no settings of the shape, and `_check_shape` refuses them
        return
    for name in SHAPE:
        flag, value = names[name], known.get(key(name), DEFAULTS.get(name))
        given = _value_of(arguments, flag)
        if isinstance(value, bool):
            given = str(f"--no-{flag[2:]}" not in arguments) if {flag, f"--no-{flag[2:]}"} & set(arguments) else None
        if given is not None and given != str(value):
            here = "" if value is None else f", which has {flag} {value}"
            raise ValueError(f"{flag} cannot be changed with --resume: the model is that of the run{here}")


def _choose_length(arguments: Sequence[str], tables: dict[Path, dict[str, Any]]) -> None:
    """Keep --steps, --epochs or --tokens, which replace each other, from the first source that has one of them."""
    names = ("steps", "epochs", "tokens")
    chosen = {name for name in names if _value_of(arguments, f"--{name}") is not None}
    sources = [("", chosen), *((f"{path}: ", table.keys() & set(names)) for path, table in tables.items())]
    for where, found in sources:
        if len(found) > 1:
            given = " and ".join(f"--{name}" for name in names if name in found)
            raise ValueError(f"{where}{given} cannot both be given")
    for table in tables.values():
        found = table.keys() & set(names)
        for name in found if chosen else ():
            del table[name]
        chosen = chosen or found


def _value_of(arguments: Sequence[str], flag: str) -> str | None:
    """Return the value of a flag as it was typed, or None."""
    for i, argument in enumerate(arguments):
        if argument == flag and i + 1 < len(arguments):
            return arguments[i + 1]
        if argument.startswith(flag + "="):
            return argument[len(flag) + 1 :]
    return None
