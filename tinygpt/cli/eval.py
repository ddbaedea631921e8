"""`tinygpt eval`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from cyclopts import Parameter

from tinygpt.cli.options import Compute, load_model


@dataclass(kw_only=True)
class EvalOptions(Compute):
    """One field per flag."""

    model: str = "runs/tiny"
    """Model directory."""
    data: list[str] = field(default_factory=lambda: ["."])
    """Directories, files and globs to predict."""
    ext: str | None = None
    """Extensions to read in directories, as in .py,.go; a sensible set of source code by default."""
    max_tokens: int | None = None
    """Evaluate about so many tokens, spread over the text; all by default."""
    quiet: bool = False
    """Print the result only."""


def evaluate(options: Annotated[EvalOptions, Parameter(name="*")] = EvalOptions()) -> int:  # noqa: B008
    """Measure how well a model predicts a text.

    Every token is predicted from those before it, one context at a time. Prints
    loss (nats per token), perplexity and bits per byte of text, which compares
    between tokenizers.
    """
    from rich.console import Console
    from rich.progress import Progress

    from tinygpt.data.corpus import encode_documents
    from tinygpt.data.discover import discover
    from tinygpt.data.rules import EXTENSIONS, parse_extensions
    from tinygpt.evaluate import evaluate as score

    options.apply()
    if options.max_tokens is not None and options.max_tokens < 1:
        raise ValueError(f"--max-tokens must be at least 1, got {options.max_tokens}")
    model, tokenizer = load_model(options.model)
    documents, summary = discover(options.data, parse_extensions(options.ext) if options.ext else EXTENSIONS)
    tokens, n_bytes = encode_documents(documents, tokenizer)
    if len(tokens) < 2:
        raise ValueError("--data: the text must have at least two tokens")
    console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
    if not options.quiet:
        console.print(f"source    {summary.describe()}", markup=False)
    with Progress(console=console, transient=True, disable=options.quiet or not console.is_terminal) as progress:
        task = progress.add_task("evaluating", total=None)
        result = score(
            model, tokens, n_bytes, options.max_tokens, lambda done, n: progress.update(task, completed=done, total=n)
        )
    print(
        f"loss {result.loss:.4f}  perplexity {result.perplexity:.3f}  bits per byte {result.bits_per_byte:.4f}  "
        f"({result.tokens:,} tokens)"
    )
    return 0
