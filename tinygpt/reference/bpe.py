"""Byte-pair encoding in a few lines: how a tokenizer learns its vocabulary from a text.

Start with the 256 bytes as tokens. Find the pair of neighbouring tokens that occurs most often, make it a token of its
own, and replace it everywhere. Repeat. Frequent words become one token and rare words stay in pieces. Any text can be
encoded, because all bytes are in the vocabulary.

    merges = train(["low", "lower", "lowest"], 2)     # [(b"l", b"o"), (b"lo", b"w")]
    encode(merges, "slow")                            # [115, 257]: s, low
    decode(merges, [115, 257])                        # "slow"

This file works in the plainest way: every round counts all pairs again. `tinygpt.tokenizers.BPETokenizer` learns the
same merges, but counts again only in words that a merge changes. It also splits a text into words by a pattern; here
the caller does that. No merge crosses the border between two words.

References
----------
Sennrich et al. 2016, Neural Machine Translation of Rare Words with Subword Units; on bytes: Radford et al. 2019, GPT-2.
"""

from collections import Counter
from itertools import pairwise


def pieces(word):
    """Cut a word into its bytes, the smallest tokens; a letter such as é has two."""
    return [bytes([byte]) for byte in word.encode()]


def merge(tokens, pair):
    """Join every occurrence of `pair` in a list of tokens, from left to right."""
    out, i = [], 0
    while i < len(tokens):
        found = tuple(tokens[i : i + 2]) == pair
        out.append(pair[0] + pair[1] if found else tokens[i])
        i += 2 if found else 1
    return out


def train(words, n_merges):
    """Learn up to `n_merges` merges, the most frequent pair first.

    Of pairs with the same count, the first in the order of bytes is merged, so that the result is always the same.
    Training stops early when no pair occurs twice, because a token for a single occurrence saves nothing.
    """
    words = [pieces(word) for word in words]
    merges: list[tuple[bytes, bytes]] = []
    while len(merges) < n_merges:
        counts = Counter(pair for word in words for pair in pairwise(word))
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < 2:
            break
        words = [merge(word, best) for word in words]
        merges.append(best)
    return merges


def vocabulary(merges):
    """Number the tokens: the bytes are 0 to 255, and merge number i makes the token 256 + i."""
    return [bytes([byte]) for byte in range(256)] + [left + right for left, right in merges]


def encode(merges, word):
    """Turn a word into token numbers: apply the merges in the order in which they were learned."""
    tokens = pieces(word)
    for pair in merges:
        tokens = merge(tokens, pair)
    numbers = {token: number for number, token in enumerate(vocabulary(merges))}
    return [numbers[token] for token in tokens]


def decode(merges, tokens):
    """Turn token numbers into text; bytes that are not UTF-8 become U+FFFD."""
    table = vocabulary(merges)
    return b"".join(table[token] for token in tokens).decode(errors="replace")
