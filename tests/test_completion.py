"""Completion at a place, hidden lines, and the scores of completed ones."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygpt import GPT, GPTConfig
from tinygpt.completion import Completed, Hidden, Place, complete, complete_lines, hide_lines, similarity
from tinygpt.data.discover import Document
from tinygpt.data.infilling import NAMES, Markers
from tinygpt.sampling import Sampler
from tinygpt.tokenizers import CharTokenizer

TEXT = "def add(a, b):\n    return a + b\n\n}\n"


def model_of(tokenizer, context=40):
    """A model with logits far apart."""
    model = GPT(GPTConfig(tokenizer.vocab_size, context, 1, 2, 16), seed=2)
    for parameter in model.parameters():
        if parameter.decay:
            parameter.data = parameter.data * 20
    return model


@pytest.mark.parametrize(
    ("place", "prefix"),
    [
        ("a.py:1:1", ""),
        ("a.py:1:4", "def"),
        ("a.py:2:5", "def add(a, b):\n    "),
        ("a:b:5:1", TEXT),
        ("a.py:3:1", TEXT[:32]),
    ],
)
def test_a_place_splits_the_text(place, prefix):
    """Catches lines or columns counted from 0, and a colon in the name of a file."""
    assert Place.parse(place).split(TEXT) == (prefix, TEXT[len(prefix) :])


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("a.py", "'a.py' must be FILE:LINE:COL, with line and column from 1"),
        ("a.py:1", "'a.py:1' must be FILE:LINE:COL"),
        ("a.py:0:1", "must be FILE:LINE:COL"),
        ("a.py:1:x", "must be FILE:LINE:COL"),
        ("a.py:6:1", "a.py: line 6 does not exist: the file has 5 lines"),
        ("a.py:1:16", "a.py: line 1 has no column 16: it ends at 15"),
    ],
)
def test_places_that_do_not_exist(place, words):
    """Catches a place that is moved without a word."""
    with pytest.raises(ValueError, match=words):
        Place.parse(place).split(TEXT)


def test_both_sides_are_used_with_markers_and_one_without():
    """Catches a suffix that is forgotten, or a prompt that training does not have."""
    tokenizer = CharTokenizer.train(TEXT, special_tokens=NAMES)
    model, markers = model_of(tokenizer), Markers.of(tokenizer)
    made = "".join(complete(model, tokenizer, "def", "(a)", 5, Sampler(0)))
    ids = markers.around(tokenizer.encode("def"), tokenizer.encode("(a)"))
    assert made == tokenizer.decode(model.generate(ids, 5, temperature=0)[len(ids) :])
    plain = CharTokenizer.train(TEXT)
    model = model_of(plain)
    made = ["".join(complete(model, plain, "def" * 20, suffix, 5, Sampler(0))) for suffix in ("", "(a)")]
    ids = plain.encode("def" * 20)[-36:]
    assert made == [plain.decode(model.generate(ids, 5, temperature=0)[len(ids) :])] * 2


def test_hidden_lines():
    """Catches a gap in another place, lost text, lines without anything to know, and a choice that changes."""
    documents = [Document("a.py", TEXT), Document("b.py", "x = 1  \r\ny")]
    lines = hide_lines(documents, 10)
    assert [(one.path, one.line, one.text) for one in lines] == [
        ("a.py", 1, "def add(a, b):"),
        ("a.py", 2, "return a + b"),
        ("b.py", 1, "x = 1"),
        ("b.py", 2, "y"),
    ]
    assert lines[1].prefix == "def add(a, b):\n    "
    assert lines[1].suffix == "\n\n}\n"
    some = hide_lines(documents, 2, seed=3)
    assert len(some) == 2
    assert hide_lines(documents, 2, seed=3) == some
    assert any(hide_lines(documents, 2, seed=seed) != some for seed in range(9))
    with pytest.raises(ValueError, match="no file has a line"):
        hide_lines([Document("a", "}\n")], 1)


def test_completed_lines_are_scored():
    """Catches text of the next line in the score, and spaces at the end that count."""
    tokenizer = CharTokenizer.train(TEXT, special_tokens=NAMES)
    lines = hide_lines([Document("a.py", TEXT)], 2)
    calls = []
    found = complete_lines(model_of(tokenizer), tokenizer, lines, 9, lambda *at: calls.append(at))
    assert calls == [(1, 2), (2, 2)]
    assert all("\n" not in one.text for one in found)
    hidden = Hidden("a", 1, "", "return a", "")
    assert (Completed(hidden, "return a ").exact, Completed(hidden, "return b").exact) == (True, False)
    assert Completed(hidden, "return b").similarity == 1 - 1 / 8


def distance(a, b):
    """The recursion of the definition."""
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    table[:, 0], table[0] = range(len(a) + 1), range(len(b) + 1)
    for i, j in itertools.product(range(1, len(a) + 1), range(1, len(b) + 1)):
        same = table[i - 1, j - 1] + (a[i - 1] != b[j - 1])
        table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, same)
    return table[-1, -1]


@given(st.text("abé", max_size=9), st.text("abé", max_size=9))
def test_similarity_is_that_of_the_definition(a, b):
    """Catches a distance that misses an insertion, a deletion or a substitution."""
    assert similarity(a, b) == pytest.approx(1 - distance(a, b) / max(1, len(a), len(b)))
