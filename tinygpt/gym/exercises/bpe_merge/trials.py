"""Trials of bpe-merge: overlapping pairs, ties, the ends of the list, and a real text."""

from collections import Counter
from itertools import pairwise

from tinygpt.gym.trials import ValueTrial
from tinygpt.reference import bpe

TEXT = "the cat sat on the mat, and the other cat sat on the hat: that is that"


def _wanted(tokens, new):
    """Compute the step with the reference of byte-pair encoding, whose tokens are bytes."""
    counts = Counter(pairwise(tokens))
    best = min(counts, key=lambda pair: (-counts[pair], pair))
    joined = bpe.merge([bytes([token]) for token in tokens], tuple(bytes([token]) for token in best))
    return best, [token[0] if len(token) == 1 else new for token in joined]


def trials():
    """Return the cases, smallest first."""
    cases = {
        "two tokens": [3, 4],
        "one pair occurs twice": [5, 6, 7, 5, 6],
        "the pair is at the end": [1, 5, 6, 5, 6],
        "the last token is alone": [5, 6, 5, 6, 5],
        "pairs with equal counts": [8, 9, 1, 2, 8, 9, 1, 2],
        "three equal tokens": [1, 1, 1],
        "five equal tokens": [1, 1, 1, 1, 1],
        "a frequent token in rare pairs": [1, 9, 1, 8, 1, 7, 2, 3, 1, 6, 2, 3],
        "a text": list(TEXT.encode()),
    }
    return [ValueTrial(title, {"tokens": list(x), "new": 200}, _wanted(x, 200)) for title, x in cases.items()]


def _merged(tokens, pair, new):
    out, i = [], 0
    while i < len(tokens):
        found = tuple(tokens[i : i + 2]) == pair
        out.append(new if found else tokens[i])
        i += 2 if found else 1
    return out


def _best(tokens):
    counts = Counter(pairwise(tokens))
    return min(counts, key=lambda pair: (-counts[pair], pair))


def first_only(tokens, new):
    """Only the first occurrence of the pair was replaced.

    A merge replaces the pair everywhere. Go on through the list after a match.
    """
    pair = _best(tokens)
    i = next(i for i in range(len(tokens)) if tuple(tokens[i : i + 2]) == pair)
    return pair, [*tokens[:i], new, *tokens[i + 2 :]]


def right_token_kept(tokens, new):
    """The right token of the pair is still there behind the new one.

    The new token stands for both. After a match move on by two tokens, not by one.
    """
    pair, out = _best(tokens), []
    for i in range(len(tokens)):
        out.append(new if tuple(tokens[i : i + 2]) == pair else tokens[i])
    return pair, out


def last_token_lost(tokens, new):
    """The last token is missing from the result.

    A loop over pairs ends one token early. If the last token was not merged, append it.
    """
    pair, out, i = _best(tokens), [], 0
    while i < len(tokens) - 1:
        found = tuple(tokens[i : i + 2]) == pair
        out.append(new if found else tokens[i])
        i += 2 if found else 1
    return pair, out


def behind_the_end(tokens, new):
    """The last token has no right neighbour, and the loop looks for one: IndexError.

    Check that i + 1 < len(tokens) first, or compare a slice tokens[i : i + 2], which is shorter at the end.
    """
    pair, out, i = _best(tokens), [], 0
    while i < len(tokens):
        found = (tokens[i], tokens[i + 1]) == pair
        out.append(new if found else tokens[i])
        i += 2 if found else 1
    return pair, out


def first_of_equals(tokens, new):
    """The pair that occurs first was taken, of several with the same count; it must be the smallest.

    A rule for ties makes a tokenizer the same on every machine. Counter.most_common keeps the order of occurrence; use
    min with the key (-count, pair).
    """
    pair = Counter(pairwise(tokens)).most_common(1)[0][0]
    return pair, _merged(tokens, pair, new)


def largest_of_equals(tokens, new):
    """The largest pair was taken, of several with the same count; it must be the smallest.

    max over (count, pair) prefers large pairs. Use min over (-count, pair).
    """
    counts = Counter(pairwise(tokens))
    pair = max(counts, key=lambda pair: (counts[pair], pair))
    return pair, _merged(tokens, pair, new)


def from_the_right(tokens, new):
    """The pair was replaced from right to left, which differs where occurrences overlap.

    Start at index 0 and go right: [1, 1, 1] becomes [new, 1].
    """
    pair = _best(tokens)
    return pair, _merged(tokens[::-1], pair[::-1], new)[::-1]


def only_the_list(tokens, new):
    """Only the merged list was returned, without the pair.

    Return two things: pair, merged.
    """
    return _merged(tokens, _best(tokens), new)


MISTAKES = (
    first_only,
    right_token_kept,
    last_token_lost,
    behind_the_end,
    first_of_equals,
    largest_of_equals,
    from_the_right,
    only_the_list,
)
