"""Fill-in-the-middle: how documents are rearranged, and that a model learns to use the suffix."""

from itertools import pairwise

import numpy as np
import pytest

from tinygpt import GPT, GPTConfig, optim
from tinygpt.data.corpus import Corpus, Split
from tinygpt.data.discover import Document
from tinygpt.data.infilling import NAMES, SECTION, Infilling, Markers
from tinygpt.data.windows import Windows
from tinygpt.generate import gap
from tinygpt.tokenizers import BPETokenizer, CharTokenizer

TEXT = "".join(f"def f{i}(x):\n    return x + {i}\n\n" for i in range(300))
CHAR = CharTokenizer.train(TEXT, special_tokens=NAMES)
BPE = BPETokenizer.train(TEXT, 400, "code", NAMES)
CONTEXT = 64


def restored(tokenizer, part):
    """Undo the rearrangement of a piece; return its text and whether it was rearranged."""
    ids = part.tolist()
    marks = Markers.of(tokenizer)
    places = [i for i, token in enumerate(ids) if token in (marks.prefix, marks.suffix, marks.middle)]
    if not places:
        return tokenizer.decode(ids), False
    first, second, third = places
    assert [ids[i] for i in places] == [marks.prefix, marks.suffix, marks.middle]
    assert first == 0
    prefix, suffix, middle = ids[1:second], ids[second + 1 : third], ids[third + 1 :]
    return "".join(map(tokenizer.decode, (prefix, middle, suffix))), True


@pytest.mark.parametrize("tokenizer", [CHAR, BPE], ids=["char", "bpe"])
@pytest.mark.parametrize("text", [TEXT, TEXT[:50], "x", "", "é日" * 300, "\n" * 300])
def test_no_text_is_lost(tokenizer, text):
    """Catches a piece that is lost, repeated or out of order, with and without line breaks."""
    for rate in (0.0, 0.5, 1.0):
        for seed in range(5):
            parts = Infilling(tokenizer, rate, CONTEXT, seed).encode(Document("a.py", text))
            found = [restored(tokenizer, part) for part in parts]
            assert "".join(part for part, _ in found) == text
            if text and rate in (0, 1):
                assert {moved for _, moved in found} == {rate == 1}


@pytest.mark.parametrize("tokenizer", [CHAR, BPE], ids=["char", "bpe"])
def test_pieces_fit_a_context(tokenizer):
    """Catches pieces measured in characters instead of tokens, and pieces of equal length."""
    parts = Infilling(tokenizer, 1.0, CONTEXT).encode(Document("a.py", TEXT))
    sizes = np.array([len(part) for part in parts[:-1]])
    assert CONTEXT / 4 < sizes.mean() < CONTEXT / 2 + 8
    assert (sizes <= CONTEXT).mean() > 0.95
    assert len(set(sizes.tolist())) > 5


def test_sections_stay_together():
    """Catches separators within text that is not rearranged."""
    parts = Infilling(CHAR, 0.5, CONTEXT, 3).encode(Document("a.py", TEXT))
    moved = [restored(CHAR, part)[1] for part in parts]
    runs = [len(run) for run in "".join("m" if one else "p" for one in moved).replace("p", " ").split()]
    assert all(run % SECTION == 0 for run in runs[:-1])
    assert not any(a is b is False for a, b in pairwise(moved))


def test_the_rate_is_a_share_of_the_text():
    """Catches a wrong rate, and one random decision for all documents."""
    infilling = Infilling(CHAR, 0.3, CONTEXT, 0)
    documents = [Document(f"{i}.py", TEXT[: 100 + i]) for i in range(400)]
    moved = [any(restored(CHAR, part)[1] for part in infilling.encode(one)) for one in documents]
    assert 0.2 < np.mean(moved) < 0.4


def test_a_document_does_not_depend_on_others():
    """Catches random numbers carried over between documents, and an ignored seed or path."""

    def encoded(path, seed):
        return [part.tolist() for part in Infilling(CHAR, 0.5, CONTEXT, seed).encode(Document(path, TEXT))]

    infilling = Infilling(CHAR, 0.5, CONTEXT, 1)
    infilling.encode(Document("b.py", TEXT))
    assert [part.tolist() for part in infilling.encode(Document("a.py", TEXT))] == encoded("a.py", 1)
    assert len({str(encoded(path, seed)) for path in ("a.py", "b.py") for seed in (1, 2)}) == 4


def test_gaps_can_be_anywhere():
    """Catches a gap that is never empty, never at an end, or only between words."""
    infilling = Infilling(CHAR, 1.0, CONTEXT, 0)
    marks = Markers.of(CHAR)
    firsts, empty = set(), set()
    for i in range(400):
        (part,) = infilling.encode(Document(f"{i}", "abcd"))
        ids = part.tolist()
        firsts.add(ids.index(marks.suffix) - 1)
        empty.add(ids[-1] == marks.middle)
    assert firsts == {0, 1, 2, 3, 4}
    assert empty == {True, False}


def test_only_the_training_split_is_rearranged():
    """Catches a validation loss that is not comparable with other runs, and pieces without a separator."""
    parts = Split((Document("a", TEXT), Document("b", TEXT)), (Document("c", TEXT),))
    corpus = Corpus.encode(parts, CHAR, CONTEXT, Infilling(CHAR, 1.0, CONTEXT))
    plain = Corpus.encode(parts, CHAR, CONTEXT)
    np.testing.assert_array_equal(corpus.validation, plain.validation)
    marks = Markers.of(CHAR)
    before = corpus.train[np.flatnonzero(corpus.train == marks.prefix)[1:] - 1]
    assert (before == CHAR.eot_id).all()
    assert len(before) > 100


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_wrong_rates_are_refused(rate):
    """Catches a rate outside 0 to 1."""
    with pytest.raises(ValueError, match=r"'rate' must be in 0\.\.1"):
        Infilling(CHAR, rate, CONTEXT)


def test_a_tokenizer_without_markers_is_refused():
    """Catches a run that silently trains without fill-in-the-middle, because its tokenizer lacks the tokens."""
    with pytest.raises(ValueError, match=r"'rate' needs a tokenizer with the special tokens <\|fim_prefix\|>"):
        Infilling(CharTokenizer("ab"), 0.5, CONTEXT)
    assert Markers.of(CharTokenizer("ab", NAMES[:2])) is None


def test_a_model_learns_to_use_the_suffix():
    """Catches a layout in which the suffix does not help to predict the middle.

    Every document repeats one letter, so that a middle without a prefix follows from the suffix alone.
    """
    letters = "abcdefgh"
    documents = tuple(Document(f"{letter}{n}", letter * n) for letter in letters for n in range(4, 14))
    tokenizer = CharTokenizer(letters, NAMES)
    parts = Split(documents, documents[:9])
    corpus = Corpus.encode(parts, tokenizer, 24, Infilling(tokenizer, 0.8, 24))
    model = GPT(GPTConfig(tokenizer.vocab_size, 24, 2, 2, 32), seed=0)
    optimizer = optim.AdamW(model.parameters(), 6e-3)
    windows = Windows(corpus.train, 24)
    for step in range(120):
        optimizer.zero_grad()
        model.loss(*windows.batch(16 * step, 16)).backward()
        optimizer.step()

    def loss(letter, behind):
        """Loss of the middle `letter` before the suffix `behind`."""
        asked = gap(tokenizer, "", behind * 4, 4, 24).ids
        tokens = np.concatenate([asked, tokenizer.encode(letter * 2)])[None]
        targets = np.where(np.arange(tokens.shape[1] - 1) < len(asked) - 1, -1, tokens[0, 1:])
        return model.loss(tokens[:, :-1], targets[None]).item()

    right = np.mean([loss(one, one) for one in letters])
    wrong = np.mean([loss(one, other) for one in letters for other in letters if one != other])
    assert right < 0.7
    assert right < wrong - 1
