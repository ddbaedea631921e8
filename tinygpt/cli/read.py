"""`tinygpt read`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tinygpt.cli.eval import tell_window
from tinygpt.cli.options import Compute, load_model, note

if TYPE_CHECKING:
    from tinygpt.viz.read import ReadPage


@dataclass(kw_only=True)
class ReadOptions(Compute):
    """Flags of `tinygpt read`, one field each."""

    model: str = "runs/tiny"
    """Model directory."""
    out: str = "read.html"
    """Page to write; an existing file is replaced."""
    max_tokens: int = 2000
    """Maximum number of tokens; a longer file is cut at its end."""
    window: int | None = None
    """Longest context of a prediction, in tokens. Default: the context of the model, at most 2048."""
    stride: int | None = None
    """Tokens from one window to the next. Default: half a window, so that predictions have half as context."""
    lens_layers: int = 13
    """Number of layers for the logit lens, from the embeddings to the last; 0: none. Each costs as much as the head."""
    weights: str = "float32"
    """Type of the weights in memory: float32, or bfloat16 or int8, which are rounded, smaller and faster."""
    quiet: bool = False
    """Print nothing."""


def read(
    file: Annotated[str, Parameter(help="Text file in UTF-8.")],
    /,
    options: Annotated[ReadOptions, Parameter(name="*")] = ReadOptions(),  # noqa: B008
) -> int:
    """Show how well a model predicts a file, token by token.

    Writes one HTML file that needs no network: the text with each token coloured
    by its surprisal, the tokens that the model expected instead, and the
    prediction of each layer (logit lens).
    """
    from rich.console import Console
    from rich.progress import Progress

    from tinygpt.io.paths import check_file
    from tinygpt.viz import read as viz

    options.apply()
    out = Path(options.out)
    check_file(out, "--out")
    viz.check_sizes(options.max_tokens, options.lens_layers)
    text = _text(file)
    model, tokenizer = load_model(options.model, options.weights)
    n = len(tokenizer.prompt(text))
    if n < 2:
        raise ValueError(f"{file}: must have at least two tokens, got {n}")
    window, stride = viz.reading_windows(model, options.window, options.stride)
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
    """Read the text of a file as `tinygpt eval` does."""
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
    """Return a file's name as text, with bytes that are not UTF-8 escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


def _tell(page: ReadPage, out: Path, file: str) -> None:
    """Print the score, the page that was written, and a remark if the file was cut."""
    n = len(page.ids)
    if page.dropped:
        note(f"{file} has {n + page.dropped:,} tokens; the page shows the first {n:,} (--max-tokens)")
    score = page.score
    print(
        f"loss {score.loss:.4f}  perplexity {score.perplexity:.3f}  bits per byte {score.bits_per_byte:.4f}  "
        f"({score.tokens:,} tokens)"
    )
    layers = len(page.lens.layers)
    print(f"page      {out}  {out.stat().st_size / 1e6:.1f} MB: {n:,} tokens, {layers} of {page.depth + 1} layers")
