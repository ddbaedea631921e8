"""Run directories: checks before one is written, moving an earlier run aside, run.toml."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

from tinygpt.io.atomic import make_directory, sync_folder, write_text
from tinygpt.io.paths import check_directory
from tinygpt.io.strict import read_toml
from tinygpt.runs import checkpoint, lock
from tinygpt.runs.layout import SETTINGS, is_begun, is_run


def check_writable(out: Path, resume: bool = False) -> None:
    """Raise ValueError, before any work is done, if the run cannot write its results.

    An existing directory must be empty or hold a run: nothing else is ever moved or written into. An existing run must
    be movable, unless it is the one to resume.

    Parameters
    ----------
    out : Path
        Run directory.
    resume : bool
    """
    check_directory(out, "[train] 'out'")
    holds_run = is_run(out)
    if out.exists() and not holds_run and not is_begun(out):
        raise ValueError(f"[train] 'out' {out}: the directory is not empty and is not a training run; choose another")
    lock.check_free(out)
    if holds_run and not resume:
        _check_movable(out)


def _check_movable(out: Path) -> None:
    if Path.cwd().is_relative_to(out.resolve()):
        raise ValueError(f"[train] 'out' {out}: the run there cannot be moved, you are inside it; choose another")
    earlier = _previous(out)
    if not os.access(earlier.parent, os.W_OK | os.X_OK):
        raise ValueError(f"[train] 'out' {out}: no permission to move the earlier run to {earlier}")


def _previous(out: Path) -> Path:
    """Return where an earlier run is moved: the first free name of ``out.previous``, ``out.previous-2`` and so on."""
    endings = itertools.chain([".previous"], (f".previous-{n}" for n in itertools.count(2)))
    return next(path for path in (out.with_name(out.name + ending) for ending in endings) if not os.path.lexists(path))


def begin(out: Path, settings: dict[str, Any], over: bool = False) -> str | None:
    """Create the directory of a new run and write its settings.

    Parameters
    ----------
    out : Path
        Directory that `check_writable` accepts.
    settings : dict
        A TOML table.
    over : bool
        The run in the directory was killed before its first checkpoint, and is started over in its place.

    Returns
    -------
    str or None
        Path to which an earlier run of this name was moved; none is ever removed.
    """
    moved = None
    if is_run(out) and not over:
        earlier = _previous(out)
        out.rename(earlier)
        moved = str(earlier)
    make_directory(out)
    sync_folder(out.parent)  # the lock may have created the directory; and an earlier run must not come back
    if moved is not None:
        lock.follow(Path(moved), out)
    checkpoint.remove_leftovers(out)
    write_settings(out, settings)
    return moved


def write_settings(out: Path, settings: dict[str, Any]) -> None:
    """Write run.toml, which `tinygpt train --config` reads."""
    import tomli_w

    write_text(out / SETTINGS, tomli_w.dumps(settings))


def read_table(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Parameters
    ----------
    path : Path

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It is not a TOML file, or nested too deeply.
    """
    return read_toml(path)
