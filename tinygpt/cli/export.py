"""`tinygpt export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


@dataclass(kw_only=True)
class ExportOptions:
    """Flags of `tinygpt export`, one field each."""

    to: Literal["hf", "gguf"]
    """Format: a directory for transformers (hf), or a file for llama.cpp (gguf)."""
    out: str
    """Directory or file to write."""
    dtype: Literal["float32", "float16", "bfloat16", "q8_0"] = "float32"
    """Type of the weights in the file; q8_0 (blocks of 8-bit values) is for gguf only."""
    force: bool = False
    """Replace the model at --out."""
    quiet: bool = False
    """Print nothing."""


def export(
    model: Annotated[str, Parameter(help="Model directory to read.")],
    /,
    options: Annotated[ExportOptions, Parameter(name="*")],
) -> int:
    """Export a model as a Hugging Face directory or a GGUF file.

    The model must be of the GPT-2 family (learned positions, layer norm, GELU) or
    of the Llama family (rope, RMS norm, SwiGLU, no biases). --to gguf also needs
    a byte-pair tokenizer (train --tokenizer-type bpe).
    """
    from rich.console import Console
    from rich.progress import Progress

    from tinygpt.files.transfer import export_model

    console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
    with Progress(console=console, transient=True, disable=options.quiet or not console.is_terminal) as progress:
        task = progress.add_task("exporting", total=None)
        notes = export_model(
            model,
            options.to,
            options.out,
            options.dtype,
            options.force,
            lambda done, n: progress.update(task, completed=done, total=n),
        )
    if not options.quiet:
        for note in notes:
            print(f"note      {note}")
        print(f"written   {options.out}, {_megabytes(Path(options.out)):,.1f} MB of {options.dtype}")
    return 0


def _megabytes(path: Path) -> float:
    """Return the size of a file, or of the weights in a directory, in MB."""
    from tinygpt.files.hf import WEIGHTS

    return (path / WEIGHTS if path.is_dir() else path).stat().st_size / 1e6
