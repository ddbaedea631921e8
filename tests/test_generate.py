"""From a prompt to text: what the model is given, and what comes out piece by piece."""

import numpy as np
import pytest

from tinygpt import GPT, GPTConfig
from tinygpt.generate import sample_text, stream_text, stream_texts
from tinygpt.sampling import Sampler
from tinygpt.tokenizers import CharTokenizer

TOKENIZER = CharTokenizer("abcé")
CONTEXT = 8


class Written:
    """A model that says what it is told, in each row of a batch, and remembers what it was given."""

    def __init__(self, *ids):
        self.ids = [list(row) for row in ids]
        self.config = GPTConfig(TOKENIZER.vocab_size, CONTEXT, 1, 1, 8)
        self.given = []

    def new_cache(self, batch):
        model = GPT(self.config)
        return model.new_cache(batch)

    def __call__(self, tokens, cache, last):
        assert last
        self.given.append(tokens.tolist())
        cache.length += tokens.shape[1]
        logits = np.zeros((len(tokens), 1, TOKENIZER.vocab_size), np.float32)
        for row, ids in enumerate(self.ids):
            logits[row, 0, ids.pop(0)] = 1
        return type("Logits", (), {"data": logits})


def said(ids, prompt="", length=None):
    """The pieces that a model which says `ids` gives, and what it was given first."""
    model = Written(ids)
    pieces = list(stream_text(model, TOKENIZER, prompt, len(ids) if length is None else length, Sampler(0)))
    return pieces, model.given


def test_one_piece_per_token():
    """Catches text that is held back, and pieces that are not those of the tokens."""
    pieces, _ = said(TOKENIZER.encode("abc"))
    assert pieces == ["a", "b", "c", ""]


def test_bytes_wait_for_their_character():
    """Catches half a character on the screen, and the end of one that is lost."""
    ids = TOKENIZER.encode("a日b")
    assert len(ids) == 5
    pieces, _ = said(ids)
    assert "".join(pieces) == "a日b"
    assert pieces[1:3] == ["", ""]
    pieces, _ = said(ids[:3])  # the text ends within the character
    assert "".join(pieces) == TOKENIZER.decode(ids[:3])
    assert pieces[-1] != ""


def test_a_separator_ends_the_text():
    """Catches the name of the separator in a text, and a second document behind the first."""
    pieces, _ = said([*TOKENIZER.encode("ab"), TOKENIZER.eot_id, *TOKENIZER.encode("c")])
    assert "".join(pieces) == "ab"


def test_the_prompt_is_given_and_not_repeated():
    """Catches a prompt that the model does not see, and one that is part of the continuation."""
    pieces, given = said(TOKENIZER.encode("c"), "ab")
    assert given == [[TOKENIZER.encode("ab").tolist()]]
    assert "".join(pieces) == "c"


def test_no_prompt_is_the_beginning_of_a_document():
    """Catches a model that is given nothing, or something that no document begins with."""
    _, given = said(TOKENIZER.encode("c"))
    assert given == [[[TOKENIZER.eot_id]]]


def test_a_special_token_in_the_prompt_is_text():
    """Catches a prompt that can end the document that it is part of."""
    _, given = said(TOKENIZER.encode("c"), "<|endoftext|>")
    assert TOKENIZER.eot_id not in given[0][0]


def test_length_counts_tokens():
    """Catches one token too many or too few."""
    for length in (0, 1, 3):
        pieces, given = said(TOKENIZER.encode("abc"), "a", length)
        assert len(given) == length
        assert len(pieces) == length + 1


@pytest.fixture(scope="module")
def model():
    return GPT(GPTConfig(TOKENIZER.vocab_size, CONTEXT, 1, 2, 16), seed=1)


def test_it_is_what_the_model_generates(model):
    """Catches a sampler, a cache or a context that differs from `GPT.generate`, also beyond the context."""
    prompt = "abcabc"
    wanted = model.generate(TOKENIZER.encode(prompt), 30, 1.0, 200, 0.9, 5)[len(prompt) :]
    assert TOKENIZER.eot_id not in wanted
    pieces = list(stream_text(model, TOKENIZER, prompt, 30, Sampler(1.0, 200, 0.9, 5)))
    assert "".join(pieces) == TOKENIZER.decode(wanted)


def test_a_sample_is_the_whole_text(model):
    """Catches a sample that leaves out its end, or ignores temperature, seed or length."""
    text = sample_text(model, TOKENIZER, "ab", 20, 0.8, seed=3)
    assert text == "".join(stream_text(model, TOKENIZER, "ab", 20, Sampler(0.8, seed=3)))
    others = {sample_text(model, TOKENIZER, "ab", 20, 0.8, seed=4), sample_text(model, TOKENIZER, "ab", 20, 0.0)}
    assert text not in others
    assert sample_text(model, TOKENIZER, "ab", 0) == ""


END = TOKENIZER.eot_id


@pytest.mark.parametrize(
    ("rows", "want"),
    [
        (["abc"], [(0, "a"), (0, "b"), (0, "c"), (0, "")]),
        (["ab", "ca"], [(0, "a"), (0, "b"), (0, ""), (1, "c"), (1, "a"), (1, "")]),
        (["a|c", "b|c", "cab"], [(0, "a"), (0, ""), (1, "b"), (1, ""), (2, "c"), (2, "a"), (2, "b"), (2, "")]),
        (["abc", "|ab"], [(0, "a"), (0, "b"), (0, "c"), (0, ""), (1, "")]),
        (["||", "||"], [(0, ""), (1, "")]),
    ],
    ids=str,
)
def test_texts_come_in_order(rows, want):
    """Catches a piece out of its turn, text behind a separator (here |), and a text that ends with another."""
    ids = [[END if c == "|" else int(TOKENIZER.encode(c)[0]) for c in row] for row in rows]
    model = Written(*ids)
    got = list(stream_texts(model, TOKENIZER, "ab", len(ids[0]), Sampler(0), len(rows)))
    assert got == want
    assert model.given[0] == [TOKENIZER.encode("ab").tolist()] * len(rows)


def test_it_stops_when_all_have_ended():
    """Catches a model that goes on for nobody."""
    model = Written([END, 0, 0], [0, END, 0])
    assert len(list(stream_texts(model, TOKENIZER, "a", 3, Sampler(0), 2))) == 3
    assert len(model.given) == 2


def test_the_first_text_is_streamed():
    """Catches texts that all wait for the last token."""
    model = Written([0] * 9, [1] * 9)
    next(stream_texts(model, TOKENIZER, "a", 9, Sampler(0), 2))
    assert len(model.given) == 1


class Letters(Written):
    """A model for which three letters are equally likely."""

    def __call__(self, tokens, cache, last):
        logits = super().__call__(tokens, cache, last).data
        logits[:] = -np.inf
        logits[..., TOKENIZER.encode("abc")] = 0
        return type("Logits", (), {"data": logits})


def test_a_text_does_not_depend_on_how_many_there_are():
    """Catches one generator for all, and texts that are mixed up."""
    texts = {}
    for count in (1, 2, 5):
        sampler = Sampler(1.0, seed=5, batch=count)
        pieces = list(stream_texts(Letters(), TOKENIZER, "ab", 30, sampler, count))
        texts[count] = ["".join(piece for i, piece in pieces if i == text) for text in range(count)]
    assert texts[1] == texts[5][:1]
    assert texts[2] == texts[5][:2]
    assert len(set(texts[5])) == 5
