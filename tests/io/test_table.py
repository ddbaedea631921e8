"""The table of fields in a file format: required, known, without effect, refused."""

import pytest

from tinygpt.io.strict import Fields
from tinygpt.io.table import Table, same

TABLE = Table(
    required=["size"],
    known=["name"],
    without_effect=["comment"],
    refused={"dropout": (0.0,), "scaling": (False, {}), "heads": (lambda n: n in ([2, 2], 2), "2 in each layer")},
)


@pytest.mark.parametrize(
    "content",
    [
        {"size": 1},
        {"size": None, "name": 3, "comment": {"x": [1]}},
        {"size": 1, "dropout": None, "scaling": None, "heads": None},
        {"size": 1, "dropout": 0, "scaling": False},
        {"size": 1, "scaling": {}, "heads": [2, 2]},
    ],
)
def test_accepted_fields(content):
    """Catches a harmless value that is refused, and a check that belongs to the reader."""
    TABLE.check(Fields(content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "'top.size' is missing"),
        ({"size": 1, "new": None}, "'top.new' is not known here; it might change the result"),
        ({"size": 1, "dropout": 0.1}, "'top.dropout' must be 0.0, got 0.1"),
        ({"size": 1, "dropout": False}, "'top.dropout' must be 0.0, got false"),
        ({"size": 1, "scaling": 0}, "'top.scaling' must be false or {}, got 0"),
        ({"size": 1, "scaling": {"x": 1}}, "got an object of 1"),
        ({"size": 1, "heads": [2, 3]}, "'top.heads' must be 2 in each layer, got a list of 2"),
    ],
)
def test_refused_fields(content, message):
    """Catches an unknown field that is ignored, and an error that does not name the field."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        TABLE.check(Fields(content, "top."))
    assert message in str(caught.value)


def test_a_field_of_two_kinds():
    """Catches a table in which the kind of a field depends on the order of the checks."""
    with pytest.raises(ValueError, match="of one kind"):
        Table(known=["a"], without_effect=["a"])


def test_equality_of_json():
    """Catches 0 equal to false, and 1 not equal to 1.0."""
    assert same({"a": [1, True, None]}, {"a": [1.0, True, None]})
    for one, other in ((0, False), ({"a": 0}, {"a": False}), ([1], [1, 1]), ({}, []), ("1", 1), (None, 0)):
        assert not same(one, other)
        assert not same(other, one)
