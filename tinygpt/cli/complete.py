"""`tinygpt complete`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tinygpt.cli.options import Sampling, load_model, note


@dataclass(kw_only=True)
class CompleteOptions(Sampling):
    """One field per flag."""

    model: str = "runs/tiny"
    """Model directory. A model trained with --fim-rate also uses the text after the place."""
    temp: Annotated[float, Parameter(alias="--temperature", group="Sampling")] = 0.0
    """Temperature: higher is more varied; 0 always takes the most likely token."""
    length: int = 64
    """Maximum number of tokens to insert."""
    line: bool = False
    """Insert the rest of the line only."""
    weights: str = "float32"
    """Type of the weights in memory: float32, or bfloat16 or int8, which are rounded and faster."""
    quiet: bool = False
    """Print only the text."""


def complete(
    place: Annotated[str, Parameter(help="FILE:LINE:COL, from 1; COL 1 is before the first character.")],
    /,
    options: Annotated[CompleteOptions, Parameter(name="*")] = CompleteOptions(),  # noqa: B008
) -> int:
    """Print what a model would insert at a place in a file.

    The file is not changed. The text goes to standard output while it is
    sampled, and ends with a line break.
    """
    import secrets

    from tinygpt.cli.console import harmless
    from tinygpt.completion import Place
    from tinygpt.completion import complete as pieces
    from tinygpt.data.infilling import Markers

    if options.length < 1:
        raise ValueError(f"--length must be at least 1, got {options.length}")
    options.validate_sampling()
    options.apply()
    at = Place.parse(place)
    try:
        prefix, suffix = at.split(Path(at.file).read_text(encoding="utf-8"))
    except UnicodeError:
        raise ValueError(f"{at.file}: not UTF-8") from None
    model, tokenizer = load_model(options.model, options.weights)
    if Markers.of(tokenizer) is None and not options.quiet:
        note(
            "the model has no tokens for fill-in-the-middle (train --fim-rate), so the text after the place is not used"
        )
    seed = secrets.randbelow(2**31) if options.seed is None else options.seed
    stop = ("\n",) if options.line else ()
    shown = harmless if sys.stdout.isatty() else str
    try:
        for piece in pieces(model, tokenizer, prefix, suffix, options.length, options.sampler(seed), stop):
            sys.stdout.write(shown(piece))
            sys.stdout.flush()
    finally:
        print(flush=True)
    return 0
