"""Trials of top-p: distributions whose sums are exact in binary, each with several random numbers."""

from fractions import Fraction

import numpy as np

from tinygpt.gym.trials import ValueTrial

DRAWS = (0.0, 0.1, 0.3, 0.45, 0.55, 0.7, 0.9, 0.99)


def draw_all(function, probabilities, p, u):
    """Call the learner's function once for each random number."""
    return [function(probabilities, p, one) for one in u]


def _wanted(probabilities, p, u):
    """Follow the three steps of the statement with fractions, which have no rounding."""
    exact = [Fraction(float(one)) for one in probabilities]
    kept, total = [], Fraction(0)
    for token in sorted(range(len(exact)), key=lambda token: (-exact[token], token)):
        if total >= Fraction(p):
            break
        kept.append(token)
        total += exact[token]
    end = Fraction(0)
    for token in kept:
        end += exact[token]
        if Fraction(u) * total < end:
            return token
    raise AssertionError("u is less than 1, so some piece contains it")


def trials():
    """Return the cases, simplest first."""
    many = np.random.default_rng(0).multinomial(1024, np.full(20, 0.05)) / 1024
    cases = {
        "all tokens are kept": ([0.5, 0.25, 0.25], 1.0),
        "the most likely token alone": ([0.125, 0.75, 0.125], 0.5),
        "the second token crosses p": ([0.125, 0.5, 0.375], 0.6),
        "the sum is exactly p": ([0.5, 0.25, 0.125, 0.125], 0.75),
        "a very small p": ([0.25, 0.5, 0.25], 0.001),
        "equal probabilities": ([0.25, 0.25, 0.25, 0.25], 0.5),
        "tokens of probability 0": ([0.0, 0.5, 0.0, 0.5], 1.0),
        "20 tokens": (many, 0.8),
    }
    return [
        ValueTrial(
            title,
            {"probabilities": np.array(x, float), "p": p, "u": list(DRAWS)},
            [_wanted(x, p, u) for u in DRAWS],
            call=draw_all,
        )
        for title, (x, p) in cases.items()
    ]


def _draw(order, probabilities, u, scaled=True):
    sums = np.cumsum(probabilities[order])
    place = np.searchsorted(sums, u * sums[-1] if scaled else u, side="right")
    return int(order[min(place, len(order) - 1)])


def _order(probabilities):
    return np.argsort(-probabilities, kind="stable")


def without_the_crossing_token(probabilities, p, u):
    """The token that crosses p was left out.

    The kept tokens must reach p, so the one that crosses it belongs to them. Keep a token if the sum of those before it
    is less than p.
    """
    order = _order(probabilities)
    kept = max(1, int((np.cumsum(probabilities[order]) <= p).sum()))
    return _draw(order[:kept], probabilities, u)


def one_too_many(probabilities, p, u):
    """One token too many is kept when the sum is exactly p.

    The set is complete as soon as the sum reaches p: the next token is kept only if the sum is still less than p.
    """
    order = _order(probabilities)
    sums = np.cumsum(probabilities[order])
    return _draw(order[: 1 + int((sums <= p).sum())], probabilities, u)


def not_scaled(probabilities, p, u):
    """u was compared with the probabilities of the kept tokens as they are, and these do not add up to 1.

    Divide the kept probabilities by their sum, or multiply u by it; otherwise the last token is drawn too often.
    """
    order = _order(probabilities)
    kept = 1 + int(np.searchsorted(np.cumsum(probabilities[order]), p))
    return _draw(order[:kept], probabilities, u, scaled=False)


def place_in_the_order(probabilities, p, u):
    """The place in the sorted order was returned instead of the number of the token.

    After sorting, place i belongs to token order[i].
    """
    order = _order(probabilities)
    kept = 1 + int(np.searchsorted(np.cumsum(probabilities[order]), p))
    return list(order).index(_draw(order[:kept], probabilities, u))


def least_likely_first(probabilities, p, u):
    """The least likely tokens were kept: the order is ascending.

    argsort sorts upwards. Sort -probabilities, or reverse the order.
    """
    order = np.argsort(probabilities, kind="stable")
    kept = 1 + int(np.searchsorted(np.cumsum(probabilities[order]), p))
    return _draw(order[:kept], probabilities, u)


def always_the_best(probabilities, p, u):
    """The most likely token is always returned: u was not used.

    That is greedy decoding. Draw among the kept tokens with u.
    """
    return int(np.argmax(probabilities))


def not_cut(probabilities, p, u):
    """All tokens were kept: p was not used.

    Cut the sorted tokens where their sum reaches p, then draw.
    """
    return _draw(_order(probabilities), probabilities, u)


def reversed_equals(probabilities, p, u):
    """Equal probabilities are in the wrong order: the higher number comes first.

    Reversing an ascending argsort reverses equal elements too. np.argsort(-probabilities, kind="stable") keeps them.
    """
    order = np.argsort(probabilities, kind="stable")[::-1]
    kept = 1 + int(np.searchsorted(np.cumsum(probabilities[order]), p))
    return _draw(order[:kept], probabilities, u)


def each_at_least(probabilities, p, u):
    """Tokens were kept by their own probability instead of the sum.

    p is a bound for the sum of the kept tokens, not for each of them.
    """
    order = _order(probabilities)
    kept = [token for token in order if probabilities[token] >= 1 - p]
    return _draw(np.array(kept or [order[0]]), probabilities, u)


def number_order(probabilities, p, u):
    """The right tokens were kept, and they were drawn in the order of their numbers instead of their probabilities.

    Keep the sorted order for the draw as well: cumulate probabilities[order].
    """
    order = _order(probabilities)
    kept = 1 + int(np.searchsorted(np.cumsum(probabilities[order]), p))
    return _draw(np.sort(order[:kept]), probabilities, u)


MISTAKES = (
    without_the_crossing_token,
    one_too_many,
    not_scaled,
    place_in_the_order,
    least_likely_first,
    always_the_best,
    not_cut,
    reversed_equals,
    each_at_least,
    number_order,
)
