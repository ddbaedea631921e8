r"""The patterns that split a text into words before it is turned into tokens: no token crosses the end of a word.

They are written here as regular expressions, for files and for other libraries; the package itself splits with the
scanners in csrc/bpe/split.h, which tests hold equal to these. The letters ``\p{L}``, numbers ``\p{N}`` and spaces
``\s`` are those of Unicode 16.0.

``gpt2``
    That of GPT-2 (Radford et al. 2019): words with the one space before them, numbers, marks, and the short forms of
    English such as ``'ll``. A run of spaces leaves its last one to the word that follows. Other programs know it best.
``gpt4``
    That of GPT-4 (cl100k_base): numbers in groups of three digits, line breaks with the marks before them, short forms
    in any case, and any one mark or blank taken along by the word that follows. Llama 3 splits in this way too.
``qwen2``
    The same with each digit by itself: that of Qwen 2.
``smollm``
    Each digit by itself, and what is between them split as by ``gpt2``: that of SmolLM and SmolLM2.
``code``
    For source code. A token of its own each: line breaks with the indentation that follows; two or more spaces; tabs.
    A word is letters with the one space or mark before them, so ``_size``, ``.append`` and ``(self`` are words and
    ``snake_case`` is two. Numbers, in groups of three digits, and runs of marks take one space before them.
"""

from __future__ import annotations

PATTERNS = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "gpt4": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "smollm": r"\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+",
    "code": r"[\r\n]+[ \t]*| {2,}|\t+|(?: |[^\s\p{L}\p{N}])?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s",
}
