"""From a prompt to text: the model's input, and the pieces of its output."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tinygpt import GPT, GPTConfig
from tinygpt.data.infilling import NAMES
from tinygpt.generate import StopStrings, gap, sample_text, stream_pieces, stream_text, stream_texts
from tinygpt.sampling import Sampler
from tinygpt.tokenizers import CharTokenizer

TOKENIZER = CharTokenizer("abcé")
CONTEXT = 8


class Written:
    """A model that generates prescribed ids in each row of a batch and records its inputs."""

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
        logits = np.zeros((len(tokens), 1, self.config.vocab_size), np.float32)
        for row, ids in enumerate(self.ids):
            logits[row, 0, ids.pop(0)] = 1
        return type("Logits", (), {"data": logits})


def said(ids, prompt="", length=None):
    """The pieces of a model that generates `ids`, and the model's inputs."""
    model = Written(ids)
    pieces = list(stream_text(model, TOKENIZER, prompt, len(ids) if length is None else length, Sampler(0)))
    return pieces, model.given


def test_one_piece_per_token():
    """Catches text that is held back, and pieces that do not match their tokens."""
    pieces, _ = said(TOKENIZER.encode("abc"))
    assert pieces == ["a", "b", "c", ""]


def test_bytes_wait_for_their_character():
    """Catches half a character in a piece, and a lost incomplete character at the end."""
    ids = TOKENIZER.encode("a日b")
    assert len(ids) == 5
    pieces, _ = said(ids)
    assert "".join(pieces) == "a日b"
    assert pieces[1:3] == ["", ""]
    pieces, _ = said(ids[:3])  # the text ends within the character
    assert "".join(pieces) == TOKENIZER.decode(ids[:3])
    assert pieces[-1] != ""


def test_a_separator_ends_the_text():
    """Catches the separator's name in a text, and a second document after the first."""
    pieces, _ = said([*TOKENIZER.encode("ab"), TOKENIZER.eot_id, *TOKENIZER.encode("c")])
    assert "".join(pieces) == "ab"


def test_the_prompt_is_given_and_not_repeated():
    """Catches a prompt that the model does not see, and one repeated in the continuation."""
    pieces, given = said(TOKENIZER.encode("c"), "ab")
    assert given == [[TOKENIZER.encode("ab").tolist()]]
    assert "".join(pieces) == "c"


def test_no_prompt_is_the_beginning_of_a_document():
    """Catches an empty input, and an input with which no document begins."""
    _, given = said(TOKENIZER.encode("c"))
    assert given == [[[TOKENIZER.eot_id]]]


def test_a_special_token_in_the_prompt_is_text():
    """Catches a prompt that can end its own document."""
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


def test_text_is_that_of_model_generate(model):
    """Catches a sampler, cache or context that differs from `GPT.generate`, also beyond the context."""
    prompt = "abcabc"
    wanted = model.generate(TOKENIZER.encode(prompt), 30, 1.0, 200, 0.9, 5)[len(prompt) :]
    assert TOKENIZER.eot_id not in wanted
    pieces = list(stream_text(model, TOKENIZER, prompt, 30, Sampler(1.0, 200, 0.9, 5)))
    assert "".join(pieces) == TOKENIZER.decode(wanted)


def test_a_sample_is_the_whole_text(model):
    """Catches a sample without its end, and an ignored temperature, seed or length."""
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
    """Catches a piece out of order, text after a separator (| here), and a text that ends with another."""
    ids = [[END if c == "|" else int(TOKENIZER.encode(c)[0]) for c in row] for row in rows]
    model = Written(*ids)
    got = list(stream_texts(model, TOKENIZER, "ab", len(ids[0]), Sampler(0), len(rows)))
    assert got == want
    assert model.given[0] == [TOKENIZER.encode("ab").tolist()] * len(rows)


def test_generation_stops_when_all_texts_have_ended():
    """Catches forward passes after the last text has ended."""
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


def test_a_text_does_not_depend_on_the_number_of_texts():
    """Catches one generator for all texts, and texts that are mixed up."""
    texts = {}
    for count in (1, 2, 5):
        sampler = Sampler(1.0, seed=5, batch=count)
        pieces = list(stream_texts(Letters(), TOKENIZER, "ab", 30, sampler, count))
        texts[count] = ["".join(piece for i, piece in pieces if i == text) for text in range(count)]
    assert texts[1] == texts[5][:1]
    assert texts[2] == texts[5][:2]
    assert len(set(texts[5])) == 5


def up_to_stop(text, strings):
    """The definition: cut the text, character by character, at the longest stop string that it first ends with."""
    for n in range(len(text) + 1):
        found = [one for one in strings if text[:n].endswith(one)]
        if found:
            return text[: n - max(map(len, found))], True
    return text, False


ab = st.text("ab", max_size=12)


@settings(deadline=None)
@given(ab, st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.lists(st.integers(0, 12), max_size=6))
@example("aabab", ["abab"], [1, 2, 3])
@example("abbb", ["abbbb", "bb"], [1, 2, 3])
@example("abab", ["abb", "ba"], [])
def test_stop_strings_do_not_depend_on_tokens(text, strings, cuts):
    """Catches a missed stop string across tokens, a lost beginning of one, and an end that depends on pieces."""
    stop = StopStrings(strings)
    borders = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    passed = "".join(stop.feed(text[a:b]) for a, b in pairwise(borders))
    want, stopped = up_to_stop(text, strings)
    assert stop.stopped == stopped
    assert want.startswith(passed)
    held = want[len(passed) :]
    assert held == "" or any(one.startswith(held) for one in strings)  # nothing is held back without need
    assert passed + stop.flush() == want


@pytest.mark.parametrize("stop", ["ab", [""], ["a", ""]])
def test_invalid_stop_strings(stop):
    """Catches a str used as a list of letters, and an empty stop string."""
    with pytest.raises((TypeError, ValueError), match="'stop' must"):
        StopStrings(stop)


def test_a_text_ends_before_a_stop_string():
    """Catches a stop string that is shown, searched for in the prompt, or ends other texts too."""
    ids = TOKENIZER.encode("abcabc")
    assert "".join(stream_text(Written(ids), TOKENIZER, "ca", 6, Sampler(0), stop=["ca"])) == "ab"
    assert "".join(stream_text(Written(ids), TOKENIZER, "", 6, Sampler(0), stop=["é", "cb"])) == "abcabc"
    model = Written(TOKENIZER.encode("abcab"), TOKENIZER.encode("bbbbb"))
    got = list(stream_texts(model, TOKENIZER, "", 5, Sampler(0), 2, stop=["ca"]))
    texts = ["".join(piece for i, piece in got if i == text) for text in (0, 1)]
    assert texts == ["ab", "bbbbb"]
    model = Written(ids)
    list(stream_text(model, TOKENIZER, "", 6, Sampler(0), stop=["bc"]))
    assert len(model.given) == 3  # and no further forward pass


def test_the_beginning_of_a_stop_string_is_held_back():
    """Catches emitted text that belongs to a stop string, and text held back without need."""
    pieces = list(stream_text(Written(TOKENIZER.encode("abcab")), TOKENIZER, "", 5, Sampler(0), stop=["bcc", "x"]))
    assert pieces == ["a", "", "", "bca", "", "b"]


def test_logprobs_are_those_of_the_model():
    """Catches log-probabilities after temperature, filters or penalties, of the wrong token, or out of order."""
    model = GPT(GPTConfig(TOKENIZER.vocab_size, CONTEXT, 1, 2, 16), seed=2)
    for sampler in (Sampler(0.7, top_k=50, seed=1), Sampler(0, presence_penalty=2.0)):
        ids = TOKENIZER.prompt("ab")
        pieces = list(stream_pieces(model, TOKENIZER, ids[None], 5, sampler, top=3))
        seen = ids.tolist()
        for piece in pieces[:-1]:
            logits = model(np.array([seen])).data[0, -1].astype(np.float64)
            logits -= math.log(np.exp(logits).sum())
            assert piece.logprob == pytest.approx(logits[piece.token], abs=1e-5)
            assert [value for _, value in piece.top] == pytest.approx(sorted(logits)[:-4:-1], abs=1e-5)
            assert [value for _, value in piece.top] == pytest.approx(
                [logits[token] for token, _ in piece.top], abs=1e-5
            )
            seen.append(piece.token)
        assert (pieces[-1].token, pieces[-1].logprob) == (None, None)
    assert all(piece.logprob is None for piece in stream_pieces(model, TOKENIZER, ids[None], 5, sampler))
    with pytest.raises(ValueError, match="'top' must be 0 or more, got -1"):
        next(stream_pieces(model, TOKENIZER, ids[None], 5, sampler, top=-1))


class Chatty(CharTokenizer):
    """A tokenizer with "c" as a second end token and "b" as begin token."""

    def __init__(self):
        super().__init__("abc")
        self.end_ids = frozenset([self.eot_id, int(self.encode("c")[0])])
        self.bos_id = int(self.encode("b")[0])


def test_any_end_token_ends_a_text():
    """Catches a text that ends only at the separator, and a prompt without its begin token."""
    tokenizer, model = Chatty(), Written(TOKENIZER.encode("abcab"))
    assert "".join(stream_text(model, tokenizer, "a", 5, Sampler(0))) == "ab"
    assert model.given[0] == [tokenizer.encode("ba").tolist()]


def test_dropped_context_is_reported():
    """Catches a context that shrinks silently.

    It has 8 positions; for the ninth token it keeps the newest four.
    """
    model = Written(TOKENIZER.encode("abc" * 7))
    pieces = list(stream_pieces(model, TOKENIZER, TOKENIZER.encode("ab")[None], 17, Sampler(0)))
    assert [piece.forgot for piece in pieces] == [0] * 7 + [5] + [0] * 4 + [5] + [0] * 4 + [0]


FILLING = CharTokenizer("abcdefgh", NAMES)
PRE, SUF, MID = (FILLING.special_tokens[name] for name in NAMES)


@pytest.mark.parametrize("names", [NAMES, ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")])
def test_a_gap_has_the_format_of_training(names):
    """Catches parts in the wrong order, markers encoded as text, and unknown names of other models."""
    tokenizer = CharTokenizer("abcdefgh", names)
    asked = gap(tokenizer, "ab", "cd", 5, 20)
    pre, suf, mid = (tokenizer.special_tokens[name] for name in names)
    assert asked.ids.tolist() == [pre, *tokenizer.encode("ab"), suf, *tokenizer.encode("cd"), mid]
    assert asked.ids.dtype == np.int32
    assert (asked.room, asked.cut) == (14, 0)
    assert gap(tokenizer, names[0], "", 5, 99).ids.tolist().count(pre) == 1


def test_text_near_the_gap_is_kept():
    """Catches a long prefix that displaces the suffix or the markers, and text cut at the wrong end."""
    encode = FILLING.encode
    asked = gap(FILLING, "abcdefgh", "hgfedcba", 4, 16)  # three markers, and three generated tokens that are read back
    assert asked.ids.tolist() == [PRE, *encode("defgh"), SUF, *encode("hgfed"), MID]
    assert (asked.room, asked.cut) == (4, 6)
    assert gap(FILLING, "ab", "hgfedcba", 4, 16).ids.tolist() == [PRE, *encode("ab"), SUF, *encode("hgfedcba"), MID]
    assert gap(FILLING, "abcdefgh", "h", 4, 16).ids.tolist() == [PRE, *encode("abcdefgh"), SUF, *encode("h"), MID]
    assert (
        len(gap(FILLING, "abcdefgh" * 9, "hgfedcba" * 9, 999, 16).ids) == 9
    )  # half of the context is left for the middle
    with pytest.raises(ValueError, match="a context of 2 has no room for the three fill-in-the-middle tokens"):
        gap(FILLING, "a", "b", 4, 2)


def test_markers_are_never_sampled():
    """Catches names of markers in a text, and log-probabilities changed by excluding them."""

    class Marked(Written):
        def __call__(self, tokens, cache, last):
            logits = super().__call__(tokens, cache, last).data
            logits[..., [PRE, SUF, MID]] = 9
            return type("Logits", (), {"data": logits})

    model = Marked(FILLING.encode("abc"))
    model.config = GPTConfig(FILLING.vocab_size, CONTEXT, 1, 1, 8)
    pieces = list(stream_pieces(model, FILLING, FILLING.encode("a")[None], 3, Sampler(0), top=1))
    assert "".join(piece.piece for piece in pieces) == "abc"
    assert pieces[0].top[0][0] == PRE  # log-probabilities are those of the model


def test_without_markers_the_setting_is_named():
    """Catches a gap given to a model that was not trained with fill-in-the-middle."""
    with pytest.raises(ValueError, match=r"no fill-in-the-middle tokens .*'fim_rate' 0\.5"):
        gap(TOKENIZER, "a", "b", 4, 16)
