"""`tinygpt visualize`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tinygpt.cli.options import Compute, load_model, note, some_prompt

if TYPE_CHECKING:
    from tinygpt.viz.attention import AttentionPage


@dataclass(kw_only=True)
class VisualizeOptions(Compute):
    """Flags of `tinygpt visualize`, one field each."""

    model: str = "runs/tiny"
    """Model directory."""
    prompt: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    """Text of the prompt; - reads standard input."""
    prompt_file: str | None = None
    """File with the text of the prompt."""
    out: str = "attention.html"
    """Page to write; an existing file is replaced."""
    max_tokens: int = 128
    """Maximum number of tokens; a longer prompt is cut at its end, as is one longer than the model's context."""
    layer: int = 0
    """Layer that the page shows first, from 0."""
    head: int = 0
    """Head that the page shows first, from 0."""
    quiet: bool = False
    """Print nothing."""


def visualize(options: Annotated[VisualizeOptions, Parameter(name="*")] = VisualizeOptions()) -> int:  # noqa: B008
    """Show the attention of every head of a model on a prompt.

    Writes one HTML file that needs no network: the attention weights of every
    head, and the next tokens that the model predicts after each token.
    """
    from tinygpt.io.paths import check_file
    from tinygpt.viz import attention

    options.apply()
    out = Path(options.out)
    check_file(out, "--out")
    prompt = some_prompt(options)
    model, tokenizer = load_model(options.model)
    for flag, value, count in (
        ("--layer", options.layer, model.config.n_layer),
        ("--head", options.head, model.config.n_head),
    ):
        if not 0 <= value < count:
            raise ValueError(f"{flag} must be in 0..{count - 1}, got {value}")
    name = Path(options.model).resolve().name
    page = attention.visualize(model, tokenizer, prompt, options.max_tokens, options.layer, options.head, name)
    page.save(out)
    if not options.quiet:
        _tell(page, out)
    return 0


def _tell(page: AttentionPage, out: Path) -> None:
    """Print the page that was written, and a remark if the prompt was cut."""
    from tinygpt.viz.attention import cut_note

    L, H, T, _ = page.weights.shape
    if page.dropped:
        note(cut_note(T + page.dropped, T, page.context, "--max-tokens"))
    print(f"page      {out}  {out.stat().st_size / 1e6:.1f} MB: {T} tokens, {L} layers x {H} heads")
