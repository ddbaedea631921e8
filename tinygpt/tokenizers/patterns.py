r"""Pre-tokenizer patterns: regular expressions that split a text into words, which no token crosses.

The expressions are for files and for other libraries. The package itself splits with the scanners in
csrc/bpe/split.h, which tests compare with these. Letters ``\p{L}``, numbers ``\p{N}`` and spaces ``\s`` are those of
Unicode 16.0.

``gpt2``
    The pattern of GPT-2 (Radford et al. 2019): words with one space before them, numbers, punctuation, and English
    short forms such as ``'ll``. The last space of a run belongs to the next word. Most programs support it.
``gpt4``
    The pattern of GPT-4 (cl100k_base) and Llama 3: numbers in groups of three digits, line breaks with the punctuation
    before them, short forms in any case. One mark or blank before a word belongs to the word.
``qwen2``
    The pattern of Qwen 2: as ``gpt4``, with each digit by itself.
``smollm``
    The pattern of SmolLM and SmolLM2: each digit by itself, and the text between digits as ``gpt2`` splits it.
``code``
    For source code. Line breaks with the indentation after them, two or more spaces, and tabs are words of their own. A
    word is letters with one space or mark before them, so ``_size``, ``.append`` and ``(self`` are one word and
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
