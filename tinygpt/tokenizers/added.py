"""Added tokens: tokens outside the merges, named by a ``tokenizer.json`` and by the files beside it.

Hugging Face writes them in five places: ``added_tokens`` of tokenizer.json, ``added_tokens_decoder`` and
``additional_special_tokens`` of tokenizer_config.json, special_tokens_map.json and added_tokens.json. They are put
together here as `transformers` does it: a token that is already known keeps its id, and the others get the next ids.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from tinygpt.io.strict import Fields, Object, shown
from tinygpt.io.table import Table

# The flags that change where a token is found are refused unless they are off.
FLAGS = {"single_word": (False,), "lstrip": (False,), "rstrip": (False,)}
TABLE = Table(required=["content"], known=["id", "special", "normalized", "__type"], refused=FLAGS)


@dataclass(frozen=True)
class AddedToken:
    """A token outside the merges.

    Parameters
    ----------
    name : str
    id : int or None
        None if the file leaves it to the reader: the next free id.
    special : bool
        False for a token that is found in any text.
    late : bool
        Whether the token is searched for in the text that the others leave (``normalized`` in a file).
    where : str
        The field that names the token, for errors.
    optional : bool
        Whether the token may be left out if nothing else knows it, such as a padding token.
    """

    name: str
    id: Any = None
    special: bool = True
    late: bool = False
    where: str = "'added_tokens'"
    optional: bool = False


def read(found: Any, where: str, source: str) -> AddedToken:
    """Read a token that is written as an object.

    Parameters
    ----------
    found : object
        A value of JSON.
    where : str
        The field's name, for errors.
    source : str
        `AddedToken.where`.
    """
    if not isinstance(found, dict):
        raise ValueError(f"'{where}' must be an object, got {shown(found)}")
    fields = Fields(found, f"{where}.")
    TABLE.check(fields)
    special, late = fields.flag("special", True), fields.flag("normalized", False)
    return AddedToken(fields.text("content"), found.get("id"), special, late, source)


def gather(first: Iterable[AddedToken], others: Iterable[AddedToken], written: Object) -> list[AddedToken]:
    """Put together the added tokens of all files.

    Parameters
    ----------
    first : iterable of AddedToken
        From tokenizer.json, with their ids.
    others : iterable of AddedToken
        From the files beside it, in the order in which `transformers` adds them.
    written : dict of str to int
        The vocabulary as the file has it, which may hold added tokens too.

    Returns
    -------
    list of AddedToken
        Each name once and with an id, which has not been checked.

    Raises
    ------
    ValueError
        Two places give a token two ids.
    """
    known = {token.name: token for token in first}
    for name, token in known.items():
        if written.get(name, token.id) != token.id:
            raise ValueError(
                f"{token.where} has {shown(name)} as id {shown(token.id)}, 'model.vocab' as {shown(written[name])}"
            )
    ids = [i for i in (*written.values(), *(token.id for token in known.values())) if type(i) is int]
    free = max(ids, default=-1) + 1
    new: list[AddedToken] = []
    for token in others:
        before = known.get(token.name)
        given = written.get(token.name) if before is None else before.id
        if given is not None and token.id not in (None, given):
            raise ValueError(
                f"{token.where} has {shown(token.name)} as id {shown(token.id)}, "
                f"{'the vocabulary' if before is None else before.where} as {shown(given)}"
            )
        if given is None:
            given = free if token.id is None else token.id
            free += 1
            new.append(token)
        if before is None or token.id is not None:  # a place that gives the id gives the flags too
            known[token.name] = replace(token, id=given)
    # Nothing here pads, so a padding token without a row in the vocabulary is left out rather than refused.
    while new and new[-1].optional:
        del known[new.pop().name]
    return list(known.values())
