"""`tinygpt read`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tinygpt.cli.eval import choose_windows, tell_window
from tinygpt.cli.options import Compute, load_model

if TYPE_CHECKING:
    from tinygpt.viz.read import ReadPage


@dataclass(kw_only=True)
class ReadOptions(Compute):
    """One field per flag."""

    model: str = "runs/tiny"
    """Model directory."""
    out: str = "read.html"
    """Page to write; one that is there is replaced."""
    max_tokens: int = 2000
    """Tokens to read; of a longer file the first ones."""
    window: int | None = None
    """Tokens that a prediction may look back over; by default the context of the model, at most 2048."""
    stride: int | None = None
    """Tokens from one window to the next; by default a whole window. Less gives every prediction more to go by."""
    lens_layers: int = 13
    """Layers to look through, spread from the embeddings to the last; 0 for none. Each costs as much as the head."""
    weights: str = "float32"
    """How weights are kept in memory: float32, or rounded to bfloat16 or to int8 blocks, which is faster."""
    quiet: bool = False
    """Print nothing."""


def read(
    file: Annotated[str, Parameter(help="Text in UTF-8 to read.")],
    /,
    options: Annotated[ReadOptions, Parameter(name="*")] = ReadOptions(),  # noqa: B008
) -> int:
    """Show what a model thinks of a file, token by token.

    Writes a page that opens in any browser and needs no network: the file with
    each token coloured by its surprisal, what the model expected instead, and
    what each layer would have predicted.
    """
    from rich.console import Console
    from rich.progress import Progress

    from tinygpt.io.paths import check_file
    from tinygpt.viz import read as viz

    options.apply()
    out = Path(options.out)
    check_file(out, "--out")
    if not 2 <= options.max_tokens <= viz.MOST_TOKENS:
        raise ValueError(f"--max-tokens must be in 2..{viz.MOST_TOKENS}, got {options.max_tokens}")
    if options.lens_layers < 0:
        raise ValueError(f"--lens-layers must be at least 0, got {options.lens_layers}")
    text = _text(file)
    model, tokenizer = load_model(options.model, options.weights)
    n = len(tokenizer.prompt(text))
    if n < 2:
        raise ValueError(f"{file}: must have at least two tokens, got {n}")
    window, stride = choose_windows(model, options.window, options.stride)
    console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
    with Progress(console=console, transient=True, disable=options.quiet or not console.is_terminal) as progress:
        task = progress.add_task("reading", total=None)
        names = {"name": Path(options.model).resolve().name, "file": _shown(Path(file).name)}
        page = viz.read(
            model,
            tokenizer,
            text,
            options.max_tokens,
            window,
            stride,
            options.lens_layers,
            progress=lambda done, n: progress.update(task, completed=done, total=n),
            **names,
        )
    page.save(out)
    if not options.quiet:
        tell_window(model, window, options.window)
        _tell(page, out, file)
    return 0


def _text(file: str) -> str:
    """The text of a file as `tinygpt eval` reads it."""
    from tinygpt.data.discover import discover

    if Path(file).is_dir():
        raise ValueError(f"{file}: is a directory, name a file")
    data = Path(file).read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = f"byte 0x{data[error.start]:02X} at {error.start}"
        raise ValueError(f"{file}: must be text in UTF-8, got {found}") from None
    if not text.strip():
        raise ValueError(f"{file}: is empty")
    return discover(file)[0][0].text


def _shown(name: str) -> str:
    """A file's name as text: what is no UTF-8 in it is written out."""
    return name.encode("utf-8", "backslashreplace").decode()


def _tell(page: ReadPage, out: Path, file: str) -> None:
    """What was written, and what was left out."""
    n = len(page.ids)
    if page.dropped:
        print(
            f"note      {file} has {n + page.dropped:,} tokens, the page shows the first {n:,} (--max-tokens)",
            file=sys.stderr,
        )
    score = page.score
    print(
        f"loss {score.loss:.4f}  perplexity {score.perplexity:.3f}  bits per byte {score.bits_per_byte:.4f}  "
        f"({score.tokens:,} tokens)"
    )
    layers = len(page.lens.layers)
    print(f"page      {out}  {out.stat().st_size / 1e6:.1f} MB: {n:,} tokens, {layers} of {page.depth + 1} layers")
