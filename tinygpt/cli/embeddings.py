"""`tinygpt embeddings`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from tinygpt.cli.options import load_model


@dataclass(kw_only=True)
class EmbeddingsOptions:
    """Flags of `tinygpt embeddings`, one field each."""

    model: str = "runs/tiny"
    """Model directory."""
    method: Literal["pca", "tsne"] = "pca"
    """Projection: principal components, or t-SNE, which needs scikit-learn."""
    what: Literal["all", "tokens", "positions"] = "all"
    """Table to show; all: tokens, and positions if the model has learned ones."""
    out: str = "embeddings.html"
    """Page to write; an existing file is replaced."""
    perplexity: float | None = None
    """Perplexity of t-SNE: effective number of neighbours. Default: 30, or a third of the points if that is less."""
    seed: int = 0
    """Random seed of t-SNE."""
    max_tokens: int | None = None
    """Show the first N tokens by id. Default: all with pca, 5000 with tsne."""
    quiet: bool = False
    """Print nothing."""

    def validate(self) -> None:
        """Raise ValueError, naming the flag, for a value out of range or a page that cannot be written."""
        from tinygpt.io.paths import check_file

        if self.perplexity is not None and self.method != "tsne":
            raise ValueError("--perplexity needs --method tsne")
        if self.perplexity is not None and not (math.isfinite(self.perplexity) and self.perplexity > 0):
            raise ValueError(f"--perplexity must be more than 0, got {self.perplexity}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"--seed must be at least 0 and less than 2^32, got {self.seed}")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"--max-tokens must be at least 1, got {self.max_tokens}")
        check_file(Path(self.out), "--out")


def embeddings(options: Annotated[EmbeddingsOptions, Parameter(name="*")] = EmbeddingsOptions()) -> int:  # noqa: B008
    """Show a model's embeddings as points.

    Writes one HTML file that needs no network: a scatter plot with search, colours
    by class of token, and the nearest neighbours of each token by cosine.
    """
    from rich.console import Console
    from rich.progress import Progress

    from tinygpt.viz import embeddings as viz
    from tinygpt.viz.page import plotly_script
    from tinygpt.viz.projection import need_sklearn

    options.validate()
    plotly_script()  # report a missing package before any work is done
    if options.method == "tsne":
        need_sklearn()
    model, tokenizer = load_model(options.model)
    try:
        sizes = viz.table_sizes(model, tokenizer, options.method, options.what, options.max_tokens)
    except ValueError as error:
        raise ValueError(f"{options.model}: {error}") from None
    for name, n in sizes.items() if options.method == "tsne" else ():
        viz.check_perplexity("--perplexity", options.perplexity, name, n)
    console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
    with Progress(console=console, transient=True, disable=options.quiet or not console.is_terminal) as progress:
        task = progress.add_task("t-SNE" if options.method == "tsne" else "components", total=None)
        page = viz.embeddings(
            model,
            tokenizer,
            options.method,
            options.what,
            options.perplexity,
            options.seed,
            options.max_tokens,
            Path(options.model).resolve().name,
            lambda name, done, n: progress.update(task, description=f"neighbours of {name}", completed=done, total=n),
        )
    page.save(options.out)
    for view in () if options.quiet else page.views:
        print(f"{view.what:<10}{view.describe()}")
        for note in view.notes:
            print(f"{'':<10}{note}")
    for note in () if options.quiet else page.notes:
        print(f"{'note':<10}{note}")
    if not options.quiet:
        print(f"written   {options.out}, {Path(options.out).stat().st_size / 1e6:.1f} MB")
    return 0
