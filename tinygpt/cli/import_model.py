"""`tinygpt import`; the module has another name because `import` is a Python keyword."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter


@dataclass(kw_only=True)
class ImportOptions:
    """Flags of `tinygpt import`, one field each."""

    out: str
    """Model directory to write."""
    force: bool = False
    """Replace the model in --out."""
    quiet: bool = False
    """Print nothing."""


def import_model(
    source: Annotated[str, Parameter(help="Directory or .gguf file to read.")],
    /,
    options: Annotated[ImportOptions, Parameter(name="*")],
) -> int:
    """Import a model from a Hugging Face directory or a GGUF file.

    Reads GPT-2 and Llama models, with weights in safetensors files (float32,
    float16, bfloat16, float64) or in a GGUF file (F32, F16, BF16, F64, Q8_0,
    Q4_0, Q4_1, Q4_K, Q6_K), and writes a model directory for all other commands.
    """
    from rich.console import Console
    from rich.progress import Progress

    from tinygpt.files.transfer import import_model as bring

    console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
    with Progress(console=console, transient=True, disable=options.quiet or not console.is_terminal) as progress:
        task = progress.add_task("importing", total=None)
        found = bring(
            source, options.out, options.force, lambda done, n: progress.update(task, completed=done, total=n)
        )
    if not options.quiet:
        print(f"imported  {found.describe()}")
        print(f"written   {options.out}")
    return 0
