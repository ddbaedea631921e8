"""The training and validation split, and the encoding of documents."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinygpt.data.corpus import Corpus, split
from tinygpt.data.discover import Document
from tinygpt.tokenizers import CharTokenizer

SIZES = st.lists(st.integers(1, 300), min_size=2, max_size=40)
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def documents_of(sizes):
    return [Document(f"dir/file{i}.py", "x" * size) for i, size in enumerate(sizes)]


def paths(part):
    return [document.path for document in part]


@patient
@given(SIZES, st.integers(0, 5))
def test_every_file_is_on_one_side_and_in_order(sizes, seed):
    """Catches a lost file, and a file used both for training and for validation."""
    documents = documents_of(sizes)
    parts = split(documents, seed)
    assert parts.train
    assert parts.validation
    held = set(paths(parts.validation))
    assert list(parts.train) == [document for document in documents if document.path not in held]
    assert list(parts.validation) == [document for document in documents if document.path in held]


@patient
@given(SIZES, st.integers(0, 5))
def test_the_validation_split_has_its_size(sizes, seed):
    """Catches a large file that takes most of the text away from training."""
    held = sum(len(document.text) for document in split(documents_of(sizes), seed).validation)
    assert held <= 0.1 * sum(sizes) or held == min(sizes)


def test_many_files_give_about_a_tenth():
    """Catches a fraction counted in files instead of characters, and a validation split that is too small."""
    sizes = [1 + (i * 37) % 400 for i in range(500)]
    for seed in range(5):
        held = sum(len(document.text) for document in split(documents_of(sizes), seed).validation)
        assert 0.09 * sum(sizes) <= held <= 0.1 * sum(sizes)


def test_the_order_of_the_files_does_not_matter():
    """Catches a split by position in the list."""
    documents = documents_of(range(10, 60))
    assert set(paths(split(documents, 3).validation)) == set(paths(split(documents[::-1], 3).validation))


def test_another_seed_selects_other_files():
    """Catches an ignored seed."""
    documents = documents_of([10] * 50)
    assert len({tuple(paths(split(documents, seed).validation)) for seed in range(10)}) == 10


def test_a_new_file_moves_at_most_one_other():
    """Catches a shuffle of the list, in which a new file changes the side of many others."""
    documents = documents_of([10] * 200)
    before = set(paths(split(documents).validation))
    for name in ("a.py", "z.py", "dir/new.py"):
        after = set(paths(split([*documents, Document(name, "x" * 10)]).validation)) - {name}
        assert len(before ^ after) <= 1


def test_a_changed_text_keeps_its_side():
    """Catches a split that depends on the content of files."""
    documents = documents_of([10] * 50)
    changed = [Document(document.path, "y" * 10) for document in documents]
    assert paths(split(documents).validation) == paths(split(changed).validation)


def test_of_two_files_the_smaller_is_for_validation():
    """Catches an empty validation split, because no file fits a tenth, and one with the larger file."""
    for seed in range(8):
        parts = split([Document("a", "x" * 90), Document("b", "x" * 30)], seed)
        assert paths(parts.train) == ["a"]
        assert paths(parts.validation) == ["b"]


def test_a_single_file_is_cut_at_nine_tenths():
    """Catches a single file used only for training, and a cut that loses or repeats a character."""
    text = "".join(map(chr, range(100, 205)))
    parts = split([Document("a", text)], seed=5)
    assert len(parts.train[0].text) == 94  # int(105 * 0.9)
    assert parts.train[0].text + parts.validation[0].text == text
    assert parts.train[0].path == parts.validation[0].path == "a"


def test_a_name_that_is_not_utf8_can_be_split():
    """Catches a UnicodeEncodeError for a file name in an old encoding."""
    assert len(split([Document("\udce9.py", "ab"), Document("b.py", "cd")]).train) == 1


def test_wrong_arguments_of_split():
    """Catches an IndexError for no documents, and a fraction that leaves one side empty."""
    with pytest.raises(ValueError, match=r"^\[split\] 'documents' must hold at least one document, got none"):
        split([])
    for fraction in (0.0, 1.0, -0.5):
        with pytest.raises(ValueError, match=r"^\[split\] 'fraction' must be between 0 and 1, got"):
            split([Document("a", "ab")], fraction=fraction)


def test_the_separator_is_between_files_only():
    """Catches files joined without a separator, and a separator before the first or after the last."""
    tokenizer = CharTokenizer("abcd")
    a, b, c, d = tokenizer.encode("abcd").tolist()
    end = tokenizer.eot_id
    documents = [Document("1", "ab"), Document("2", "c" * 3), Document("3", "dd"), Document("4", "a" * 20)]
    parts = split(documents, fraction=0.2)
    corpus = Corpus.encode(parts, tokenizer, block_size=1)
    lists = {"1": [a, b], "2": [c] * 3, "3": [d, d], "4": [a] * 20}
    for part, tokens in ((parts.train, corpus.train), (parts.validation, corpus.validation)):
        expected = lists[part[0].path]
        for document in part[1:]:
            expected = [*expected, end, *lists[document.path]]
        assert tokens.dtype == np.int32
        assert tokens.tolist() == expected
    assert corpus.validation_files == len(parts.validation)


def test_bytes_are_those_of_the_text():
    """Catches characters, tokens or separators counted as bytes, which makes bits per byte wrong."""
    documents = [Document(str(i), "é日") for i in range(40)]
    parts = split(documents)
    corpus = Corpus.encode(parts, CharTokenizer("é"), block_size=2)
    assert corpus.validation_bytes == 5 * len(parts.validation)
    # é is one token, 日 is three, and a separator follows all but the last.
    assert corpus.validation.size == 4 * len(parts.validation) + len(parts.validation) - 1


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (
            10,
            "the training split has 9 tokens, the validation split 1, but one context of 64 needs 65: give more data$",
        ),
        (
            50,
            "the training split has 45 tokens, the validation split 5, but one context of 64 needs 65: give more data "
            "or 'block_size' 4$",
        ),
        (
            73,
            r"the validation split has 8 tokens \(the training split has enough: 65\), but one context of 64 needs 65: "
            "give more data or 'block_size' 7$",
        ),
        (
            640,
            r"the validation split has 64 tokens \(the training split has enough: 576\), but one context of 64 "
            "needs 65: give more data or 'block_size' 63$",
        ),
    ],
)
def test_a_split_shorter_than_a_context(size, message):
    """Catches a run without enough validation text, and a suggested --seq that would fail too."""
    parts = split([Document("a", "x" * size)])
    tokenizer = CharTokenizer("x")
    with pytest.raises(ValueError, match=r"^\[Corpus\] " + message):
        Corpus.encode(parts, tokenizer, block_size=64)
    shortest = min(len(parts.train[0].text), len(parts.validation[0].text))
    if shortest > 1:
        assert Corpus.encode(parts, tokenizer, block_size=shortest - 1).validation.size >= shortest


def test_exactly_one_context_is_enough():
    """Catches a check that is off by one."""
    parts = split([Document("a", "x" * 650)])
    corpus = Corpus.encode(parts, CharTokenizer("x"), block_size=64)
    assert corpus.validation.size == 65


def test_former_names_still_work():
    """Catches a former name that fails, returns the wrong part, or gives no deprecation warning."""
    parts = split(documents_of([50] * 10))
    with pytest.warns(DeprecationWarning, match=r"Split\.held_out is now Split\.validation"):
        assert parts.held_out == parts.validation
    corpus = Corpus.encode(parts, CharTokenizer.train(d.text for d in parts.train), block_size=4)
    for name in ("held_out", "held_out_bytes", "held_out_files"):
        with pytest.warns(DeprecationWarning, match=rf"Corpus\.{name} is now Corpus\."):
            assert getattr(corpus, name) is getattr(corpus, name.replace("held_out", "validation"))
