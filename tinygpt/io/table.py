"""One table per reader of JSON: every field of a file is required, known, without effect here, or refused.

kind              meaning                                              in the file
required          the reader cannot do without it                      must be there
known             the reader uses it                                   may be there
without effect    it cannot change what this package computes          may be there, with any value
refused           it changes the result in a way not computed here     only with a harmless value, null among them

A field in none of the four is refused by name. A new option of another program is more likely to change the result
than not, and a wrong result without an error is worse than a refusal.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tinygpt.io.strict import Fields, shown

# The harmless values of a refused field besides null, or a test for them with the words of an error.
Harmless = tuple[Any, ...] | tuple[Callable[[Any], bool], str]


class Table:
    """The fields that one reader knows.

    Parameters
    ----------
    required, known, without_effect : iterable of str
        Names of fields.
    refused : mapping of str to tuple
        Name to the harmless values; or to a function that tells whether a value is harmless, and the words for it.
    """

    def __init__(
        self,
        required: Iterable[str] = (),
        known: Iterable[str] = (),
        without_effect: Iterable[str] = (),
        refused: Mapping[str, Harmless] | None = None,
    ):
        self.required, self.known = tuple(required), frozenset(known)
        self.without_effect, self.refused = frozenset(without_effect), dict(refused or {})
        kinds = [*self.required, *self.known, *self.without_effect, *self.refused]
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"[Table] a field must be of one kind, got {sorted(kinds)}")

    def names(self) -> set[str]:
        """Return every field in the table."""
        return {*self.required, *self.known, *self.without_effect, *self.refused}

    def check(self, fields: Fields) -> None:
        """Check which fields an object has, and the values of those that are refused.

        Parameters
        ----------
        fields : Fields

        Raises
        ------
        ValueError
            A required field is missing, a refused one has a value that changes the result, or a field is unknown.
        """
        for name, value in fields.content.items():
            if name in self.refused:
                self._check_harmless(fields, name, value)
            elif name not in self.required and name not in self.known and name not in self.without_effect:
                raise ValueError(f"{shown(fields.prefix + name)} is not known here; it might change the result")
        for name in self.required:
            if name not in fields.content:
                raise ValueError(f"'{fields.prefix}{name}' is missing")

    def _check_harmless(self, fields: Fields, name: str, value: Any) -> None:
        good = self.refused[name]
        if value is None:
            return
        if good and callable(good[0]):
            test, words = good
            if not test(value):
                raise fields.wrong(name, words)
        elif not any(same(value, one) for one in good):
            words = [json.dumps(one) if isinstance(one, (dict, list)) else shown(one) for one in good]
            raise fields.wrong(name, " or ".join(words) or "null")


def same(found: Any, expected: Any) -> bool:
    """Compare two JSON values: 0 equals 0.0, but neither equals false, as it does in Python."""
    if isinstance(found, bool) or isinstance(expected, bool):
        return found is expected
    if isinstance(expected, dict):
        return isinstance(found, dict) and found.keys() == expected.keys() and all(
            same(found[key], expected[key]) for key in expected
        )  # fmt: skip
    if isinstance(expected, list):
        return isinstance(found, list) and len(found) == len(expected) and all(map(same, found, expected))
    return bool(found == expected)
