"""Labels of tokens: always visible, on one line, and without control characters."""

from __future__ import annotations

import unicodedata

from tinygpt.tokenizers.base import Tokenizer, visible

SYMBOLS = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}
# Printable according to Unicode, but blank: Hangul fillers and the empty Braille cell.
BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")
CIRCLE = "\N{DOTTED CIRCLE}"


def label(tokenizer: Tokenizer, token: int) -> str:
    """Make the label of a token.

    Parameters
    ----------
    tokenizer : Tokenizer
    token : int
        Id of the token. It may be beyond the vocabulary, because a model can have more rows than its tokenizer has
        tokens.

    Returns
    -------
    str
        Blanks become symbols, other invisible characters look like ``[U+202E]``, and bytes that are not text like
        ``<0xE2>``. Never empty.
    """
    if token >= tokenizer.vocab_size:
        return f"<{token}>"
    shown = tokenizer.token_text(token)
    text = tokenizer.token_bytes(token).decode("utf-8", "replace")
    if not text or visible(text) != shown:
        return shown  # a separator, a byte
    marked = (
        CIRCLE if unicodedata.category(text[0])[0] == "M" else ""
    )  # a combining accent would attach to its neighbour
    return marked + "".join(map(_symbol, text))


def lines(tokenizer: Tokenizer, token: int) -> list[str]:
    """Split a token into the lines that it touches in a text.

    Parameters
    ----------
    tokenizer : Tokenizer
    token : int

    Returns
    -------
    list of str
        The label of the token, split at its newlines, with spaces and tabs left as they are.
    """
    name, text = label(tokenizer, token), ""
    if token < tokenizer.vocab_size:
        text = tokenizer.token_bytes(token).decode("utf-8", "replace")
    if not text or name.removeprefix(CIRCLE) != "".join(map(_symbol, text)).removeprefix(CIRCLE):
        return [name]  # no text
    mark = CIRCLE if name.startswith(CIRCLE) and not text.startswith(CIRCLE) else ""
    shown = [char if char in " \t\n" else _symbol(char) for char in text]
    return (mark + "".join(shown)).split("\n")


def _symbol(char: str) -> str:
    if char in SYMBOLS:
        return SYMBOLS[char]
    return char if char.isprintable() and char not in BLANK else f"[U+{ord(char):04X}]"
