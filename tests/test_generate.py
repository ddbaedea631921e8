"""From a prompt to text: what the model is given, and what comes out piece by piece."""

import numpy as np
import pytest

from tinygpt import GPT, GPTConfig
from tinygpt.generate import sample_text, stream_text
from tinygpt.sampling import Sampler
from tinygpt.tokenizers import CharTokenizer

TOKENIZER = CharTokenizer("abcé")
CONTEXT = 8


class Written:
    """A model that says what it is told, and remembers what it was given."""

    def __init__(self, ids):
        self.ids = list(ids)
        self.config = GPTConfig(TOKENIZER.vocab_size, CONTEXT, 1, 1, 8)
        self.given = []

    def new_cache(self, batch):
        model = GPT(self.config)
        return model.new_cache(batch)

    def __call__(self, tokens, cache, last):
        assert last
        self.given.append(tokens.tolist())
        cache.length += tokens.shape[1]
        logits = np.zeros((1, 1, TOKENIZER.vocab_size), np.float32)
        logits[0, 0, self.ids.pop(0)] = 1
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
