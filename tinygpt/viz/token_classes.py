"""Classes of tokens in source code, which determine their colours."""

from __future__ import annotations

import keyword
import re
import string

from tinygpt.tokenizers.base import Tokenizer

CLASSES = ("keyword", "identifier", "operator", "whitespace", "digit", "byte", "other")
C_WORDS = """
    auto bool case char const default define do double endif enum extern float goto ifdef ifndef include inline int
    long register short signed sizeof static struct switch typedef undef union unsigned void volatile
"""
KEYWORDS = frozenset(keyword.kwlist) | frozenset(C_WORDS.split())
NUMBER = re.compile(r"\d[\w.]*")
WORD = re.compile(r"[^\W\d]\w*")
MARKS = frozenset(string.punctuation)


def classify(tokenizer: Tokenizer, token: int) -> str:
    """Classify a token as one of CLASSES.

    Blanks around a word are ignored. ``byte`` is a token for a single byte, or one whose bytes are not valid UTF-8.
    ``other`` is the separator, or a mixture of classes.

    Parameters
    ----------
    tokenizer : Tokenizer
    token : int

    Returns
    -------
    str

    Raises
    ------
    IndexError
        `token` is not in the vocabulary.
    """
    data = tokenizer.token_bytes(token)
    if not data:
        return "other"
    if len(data) == 1 and tokenizer.token_text(token) == f"<0x{data[0]:02X}>":
        return "byte"
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return "byte"
    return class_of_text(text)


def class_of_text(text: str) -> str:
    """Classify a text as one of CLASSES except ``byte``."""
    word = text.strip()
    if not word:
        return "whitespace" if text else "other"
    if word in KEYWORDS:
        return "keyword"
    if NUMBER.fullmatch(word):
        return "digit"
    if WORD.fullmatch(word):
        return "identifier"
    return "operator" if MARKS.issuperset(word) else "other"
