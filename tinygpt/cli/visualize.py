"""`tinygpt visualize`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tinygpt.cli.options import Compute, load_model, some_prompt

if TYPE_CHECKING:
    from tinygpt.viz.attention import AttentionPage


@dataclass(kw_only=True)
class VisualizeOptions(Compute):
    """One field per flag."""

    model: str = "runs/tiny"
    """Model directory."""
    prompt: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    """Text to look at; - reads standard input."""
    prompt_file: str | None = None
    """File with the text to look at."""
    out: str = "attention.html"
    """Page to write; one that is there is replaced."""
    max_tokens: int = 128
    """Tokens to show; of a longer prompt the first ones. Twice as many make a page four times as large."""
    layer: int = 0
    """Layer that is shown first, from 0."""
    head: int = 0
    """Head that is shown first, from 0."""
    quiet: bool = False
    """Print nothing."""


def visualize(options: Annotated[VisualizeOptions, Parameter(name="*")] = VisualizeOptions()) -> int:  # noqa: B008
    """Show what every head of a model attends to in a prompt.

    Writes a page that opens in any browser and needs no network: the attention
    weights of every head, and what the model expects after each token.
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
    n = len(tokenizer.encode(prompt))
    attention.check_length(model, n, options.max_tokens, ("", "--prompt", "--max-tokens"))
    name = Path(options.model).resolve().name
    page = attention.visualize(model, tokenizer, prompt, options.max_tokens, options.layer, options.head, name)
    page.save(out)
    if not options.quiet:
        _tell(page, out, n)
    return 0


def _tell(page: AttentionPage, out: Path, n: int) -> None:
    """What was written, and what was left out."""
    L, H, T, _ = page.weights.shape
    if page.dropped:
        print(f"note      the prompt has {n} tokens, the page shows the first {T} (--max-tokens)", file=sys.stderr)
    print(f"page      {out}  {out.stat().st_size / 1e6:.1f} MB: {T} tokens, {L} layers x {H} heads")
