"""`tinygpt tokenize`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

COLOURS = ("black on bright_cyan", "black on bright_yellow", "black on bright_green", "black on bright_magenta")


@dataclass(kw_only=True)
class TokenizeOptions:
    """Flags of `tinygpt tokenize`, one field each."""

    model: str = "runs/tiny"
    """Model directory, or a tokenizer.json."""
    text: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    """Text to split."""
    file: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    """File to split; - reads standard input."""
    ids: bool = False
    """Print the token ids on one line instead of the tokens."""
    max_tokens: int = 2000
    """Maximum number of tokens to show; the statistics are of all tokens."""


def tokenize(options: Annotated[TokenizeOptions, Parameter(name="*")] = TokenizeOptions()) -> int:  # noqa: B008
    """Show how a text is split into tokens.

    On a terminal, tokens alternate in colour; elsewhere, a bar separates two
    tokens. Invisible characters are escaped. The last line gives the mean number
    of bytes per token.
    """
    from tinygpt import tokenizers

    if options.max_tokens < 1:
        raise ValueError(f"--max-tokens must be at least 1, got {options.max_tokens}")
    path = Path(options.model)
    tokenizer = tokenizers.load(path / "tokenizer.json" if path.is_dir() else path)
    text = _text(options)
    ids = tokenizer.encode(text)
    shown = ids[: options.max_tokens]
    if options.ids:
        print(" ".join(map(str, shown.tolist())))
    else:
        _print(tokenizer.tokens(shown), [tokenizer.token_bytes(int(i)) for i in shown])
    cut = f", the first {len(shown):,} shown" if len(shown) < len(ids) else ""
    n_bytes = len(text.encode())
    each = f", {n_bytes / len(ids):.2f} bytes per token" if len(ids) else ""
    print(f"{len(ids):,} tokens of {tokenizer.vocab_size:,}, {n_bytes:,} bytes{each}{cut}", file=sys.stderr)
    lost = n_bytes - sum(map(len, map(tokenizer.token_bytes, ids.tolist())))
    if lost:
        print(f"{lost:,} bytes have no token in this vocabulary and were left out", file=sys.stderr)
    return 0


def _text(options: TokenizeOptions) -> str:
    """Read the text of --text or --file, exactly one of which must be given."""
    if (options.text is None) == (options.file is None):
        raise ValueError("give either --text or --file (- for standard input)")
    if options.text is not None:
        try:
            options.text.encode()
        except UnicodeEncodeError as error:  # Python passes a byte that is not UTF-8 as a surrogate
            raise ValueError(f"--text must be UTF-8, character {error.start} is not") from None
        return options.text
    data = sys.stdin.buffer.read() if options.file == "-" else Path(options.file or "").read_bytes()
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"--file {options.file}: must be UTF-8, byte {error.start} is not") from None


def _print(tokens: list[str], pieces: list[bytes]) -> None:
    """Print the tokens; a line ends after a token that contains a line break."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True, emoji=False)
    line = Text()
    for i, (token, piece) in enumerate(zip(tokens, pieces, strict=True)):
        if not console.is_terminal and line.plain:
            line.append("|")
        line.append(token, COLOURS[i % len(COLOURS)] if console.is_terminal else "")
        if b"\n" in piece:
            console.print(line)
            line = Text()
    if line.plain:
        console.print(line)
