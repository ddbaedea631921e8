"""Byte-level BPE: against the plain form in tinygpt.reference, against its own inverse, and by hand."""

import itertools
import pickle
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tinygpt.core import bpe, bpe_encode
from tinygpt.reference import bpe as plain
from tinygpt.tokenizers import BPETokenizer, CharTokenizer
from tinygpt.tokenizers.patterns import PATTERNS

EDGES = "\0\x7f\x80\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff"
TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(EDGES + "ab ab_(.'s1\n\t\r\x00é日😀"))
# A few letters, so that repeated pairs and ties are common.
FEW = st.lists(st.text("abc ", max_size=30), max_size=6)
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
CODE = (
    "def add(self, other):\n    return self.value + other.value\n\n\ndef sub(self, other):\n\treturn  12345 - 6\n" * 3
)


def words(text, pattern):
    """Split a text into pre-tokens."""
    data = text.encode()
    ends = bpe_encode.word_ends(data, pattern)
    return [data[a:b].decode() for a, b in zip([0, *ends], ends, strict=False)]


def learnt(texts, n, pattern):
    """Learn merges with the plain form in `tinygpt.reference`."""
    return plain.train([word for text in texts for word in words(text, pattern)], n)


def encoded(text, merges, pattern):
    """Encode a text with the plain form; return the tokens as bytes."""
    table = plain.vocabulary(merges)
    return [table[number] for word in words(text, pattern) for number in plain.encode(merges, word)]


def merges_of(tokenizer):
    return tokenizer.__reduce__()[1][1]


def bytes_of(tokenizer, ids):
    return [tokenizer.token_bytes(i) for i in ids.tolist()]


@pytest.fixture(scope="module", params=PATTERNS)
def trained(request):
    return BPETokenizer.train([CODE, "日本語 日本 café's 😀😀😀"], 320, request.param)


def test_the_example_by_hand():
    """Catches a wrong count of a self-overlapping pair, a tie broken the wrong way, and one merge too many."""
    tokenizer = BPETokenizer.train("aaabdaaabac", 300)
    assert merges_of(tokenizer) == [(b"a", b"a"), (b"a", b"b"), (b"aa", b"ab")]
    assert bytes_of(tokenizer, tokenizer.encode("aaabdaaabac")) == [b"aaab", b"d", b"aaab", b"a", b"c"]
    assert tokenizer.encode("aaab").tolist() == [258]
    assert tokenizer.vocab_size == 260
    assert tokenizer.eot_id == 259


def test_a_pair_that_overlaps_itself_is_merged_from_the_left():
    """Catches a merge that uses a token twice, or that skips the first of three equal tokens."""
    merge_aa = BPETokenizer({bytes([i]): i for i in range(256)} | {b"aa": 256}, [(b"a", b"a")])
    assert bytes_of(merge_aa, merge_aa.encode("aaaaa")) == [b"aa", b"aa", b"a"]
    assert merges_of(BPETokenizer.train("aaaaa", 258)) == [(b"a", b"a")]


@pytest.mark.parametrize(
    ("texts", "first"),
    [
        (["ba ba", "ab ab"], (b"a", b"b")),
        (["éé ab"], (b"\xc3", b"\xa9")),
        (["zaza"], (b"z", b"a")),  # za occurs twice, az once
        (["xbxb xaxa"], (b"x", b"a")),
    ],
)
def test_ties_go_to_the_first_in_byte_order(texts, first):
    """Catches a tie won by the pair seen first, or by the one with the smaller right token."""
    assert merges_of(BPETokenizer.train(texts, 258))[0] == first


@patient
@given(FEW, st.sampled_from(sorted(PATTERNS)), st.integers(0, 20))
@example(["abab", "bcbc", "cbcb"], "gpt2", 20)
@example(["aaaaaaaa aaaa aaa"], "code", 20)
def test_merges_are_those_of_the_definition(texts, pattern, n):
    """Catches counts not updated: a missed neighbour, a wrong word count, or a stale heap entry."""
    assert merges_of(BPETokenizer.train(texts, 257 + n, pattern)) == learnt(texts, n, pattern)


@patient
@given(st.text("abcd é\n", max_size=150), st.sampled_from(sorted(PATTERNS)))
@example("abcd" * 40, "gpt2")
@example("a" * 150, "code")
def test_ids_are_those_of_the_definition(text, pattern):
    """Catches merges by position instead of rank, in words short enough for the loop and long enough for the heap."""
    tokenizer = BPETokenizer.train(
        ["ab abc abcd cdcd dcba aaaa", "aaab bcd éé éé abab cdab abcdabcd"] * 2, 290, pattern
    )
    assert len(merges_of(tokenizer)) > 8
    ids = tokenizer.encode(text)
    assert bytes_of(tokenizer, ids) == encoded(text, merges_of(tokenizer), pattern)


@given(st.integers(0, 5), st.integers(1, 30))
def test_the_heap_and_the_short_loop_agree(seed, period):
    """Catches a fault in one of the two merge algorithms, for words around the length at which they switch."""
    rng = np.random.default_rng(seed)
    part = "".join(rng.choice(list("abc"), period))
    tokenizer = BPETokenizer.train("".join(rng.choice(list("abc"), 2000)), 300)
    merges = merges_of(tokenizer)
    long = (part * 70)[:71]
    for text in (long, long[:64], long[:65], part * 3):
        assert bytes_of(tokenizer, tokenizer.encode(text)) == encoded(text, merges, "gpt2")


@patient
@given(text=TEXTS)
@example(text=EDGES)
@example(text="")
@example(text="<|endoftext|>")
def test_decode_is_the_inverse_of_encode(trained, text):
    """Catches a code point outside every pre-token, bytes out of order, and a special token made from text."""
    ids = trained.encode(text)
    assert ids.dtype == np.int32
    assert ids.ndim == 1
    assert trained.decode(ids) == text
    assert trained.eot_id not in ids
    assert b"".join(bytes_of(trained, ids)) == text.encode()


def test_every_code_point_comes_back(trained):
    """Catches a class table read out of range."""
    text = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    assert trained.decode(trained.encode(text)) == text


@pytest.mark.parametrize("text", ["a" * 300_000, "ab" * 150_000, " " * 300_000, "é" * 150_000, "\n" * 300_000])
def test_a_long_word(trained, text):
    """Catches an encoder quadratic in the word length (minutes here), and a heap that overflows."""
    assert trained.decode(trained.encode(text)) == text
    learnt_from_it = BPETokenizer.train([text, text], 290, trained.pattern)
    assert learnt_from_it.decode(learnt_from_it.encode(text)) == text
    assert len(learnt_from_it.encode(text)) < len(text) // 100


def test_the_order_of_texts_does_not_matter():
    """Catches merges that depend on the order of words or on memory addresses."""
    texts = CODE.split("\n")
    first = BPETokenizer.train(texts, 400, "code")
    assert merges_of(first) == merges_of(BPETokenizer.train(texts[::-1], 400, "code"))
    assert merges_of(first) == merges_of(BPETokenizer.train(iter(texts), 400, "code"))


def test_more_merges_keep_the_first_ones():
    """Catches a vocabulary size that changes the first merges."""
    few, many = (merges_of(BPETokenizer.train(CODE, size, "gpt4")) for size in (280, 300))
    assert many[: len(few)] == few
    assert len(few) == 280 - 257


def mixed(x):
    """The function `mix` of csrc/bpe/tables.h."""
    x = (x ^ x >> 33) * 0xFF51AFD7ED558CCD % 2**64
    x = (x ^ x >> 33) * 0xC4CEB9FE1A85EC53 % 2**64
    return x ^ x >> 33


def test_two_words_with_the_same_hash():
    """Catches a word counted as another one because their 64-bit hashes are equal."""
    # hash_bytes reads 8 bytes at a time. The second 8 bytes are chosen to cancel the difference of the first 8.
    first, second = b"!" * 8, b"#" * 8
    marks = {byte for byte in range(256) if bpe_encode.classes(byte, byte + 1) == b"\0" and byte < 0xC0}
    number = [int.from_bytes(part, "little") for part in (first, second)]
    for letters in itertools.product(b"$%&*+,", repeat=8):
        other = mixed(16 ^ int.from_bytes(bytes(letters), "little")) ^ mixed(16 ^ number[0]) ^ number[1]
        if marks.issuperset(other.to_bytes(8, "little")):
            break
    word = bytes(letters) + other.to_bytes(8, "little")
    trainer = bpe.Trainer("gpt2")
    trainer.add((first + second + b"a" + word + b"a") * 2)
    trainer.start()
    rows = np.empty((100, 2), np.int32)
    tokens = [bytes([byte]) for byte in range(256)]
    for left, right in rows[: trainer.merge(rows)].tolist():
        tokens.append(tokens[left] + tokens[right])
    assert {first + second, word} <= set(tokens)


def test_words_that_share_a_cache_slot():
    """Catches the ids of another word: 100,000 words share 2^15 cache slots."""
    tokenizer = BPETokenizer.train("10 20 30 11 12 13" * 20, 270)
    text = " ".join(map(str, range(100_000)))
    first = tokenizer.encode(text)
    assert tokenizer.decode(first) == text
    np.testing.assert_array_equal(tokenizer.encode(text), first)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(tokenizer)).encode(text), first)


def test_threads_share_a_tokenizer(trained):
    """Catches a cache written by two threads at once: encoding releases the GIL."""
    texts = [f"{CODE}{i} {'x' * i}" * 50 for i in range(8)]
    alone = [trained.encode(text) for text in texts]
    found = [[] for _ in texts]

    def work(i):
        for _ in range(10):
            found[i].append(trained.encode(texts[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for expected, several in zip(alone, found, strict=True):
        assert len(several) == 10
        assert all(np.array_equal(expected, one) for one in several)


def test_progress_is_reported():
    """Catches a callback that is never called, counts beyond the total, or is not called at the end."""
    calls = []
    text = " ".join(f"{a}{b}{a}{b}" for a in "abcdefghijklmnopqrst" for b in "uvwxyzABCDEFGHIJKLMN")
    text = f"{text} {text}"
    tokenizer = BPETokenizer.train(text, 257 + 600, progress=lambda *call: calls.append(call))
    assert calls == [(256, 600), (512, 600), (600, 600)]
    assert tokenizer.vocab_size == 857
    BPETokenizer.train("aa aa", 300, progress=lambda *call: calls.append(call))
    assert calls[-1] == (1, 43)  # only the pair a a occurs twice


@pytest.mark.parametrize("texts", ["", [], ["", ""], "a", ["a", "b"]])
def test_texts_without_a_pair(texts):
    """Catches a failure on an empty heap or list of nodes."""
    tokenizer = BPETokenizer.train(texts, 300)
    assert tokenizer.vocab_size == 257
    assert tokenizer.encode("").tolist() == []
    assert tokenizer.encode("ab").tolist() == [97, 98]
    assert tokenizer.decode([]) == ""


def test_special_tokens_are_text_by_default():
    """Catches a special token that ordinary text can inject, and one that cannot be requested."""
    tokenizer = BPETokenizer.train("ab ab", 300, special_tokens=["<a>", "<a><b>"])
    assert tokenizer.special_tokens == {"<a>": 257, "<a><b>": 258, "<|endoftext|>": 259}
    text = "x<a><b><a>y<|endoftext|>"
    assert set(tokenizer.encode(text).tolist()).isdisjoint({257, 258, 259})
    x, y, less, a = map(ord, "xy<a")
    assert tokenizer.encode(text, special=True).tolist() == [x, 258, 257, y, 259]
    assert tokenizer.decode([x, 258, 259]) == "x<a><b><|endoftext|>"
    assert tokenizer.token_bytes(258) == b""
    assert tokenizer.encode("<a>", special=True).tolist() == [257]
    assert tokenizer.encode("<a", special=True).tolist() == [less, a]


def test_the_separator_can_be_given_a_place():
    """Catches a second separator beside the requested one."""
    tokenizer = BPETokenizer.train("ab ab", 300, special_tokens=("<|endoftext|>", "<pad>"))
    assert tokenizer.special_tokens == {"<|endoftext|>": 257, "<pad>": 258}
    assert tokenizer.eot_id == 257


@patient
@given(data=st.data())
def test_pieces_of_a_stream_make_the_whole_text(trained, data):
    """Catches a piece emitted too early, held back at the end, or emitted twice."""
    ids = st.integers(0, trained.vocab_size - 1) | st.sampled_from([*"日é😀".encode(), 0xED, 0xA0, 0xF5])
    chunks = data.draw(st.lists(st.lists(ids, max_size=5)))
    decoder = trained.decoder()
    pieces = [decoder.feed(chunk) for chunk in chunks]
    assert "".join(pieces) + decoder.flush() == trained.decode([i for chunk in chunks for i in chunk])
    assert decoder.flush() == ""


def test_a_stream_emits_a_character_with_its_last_byte():
    """Catches a decoder that keeps everything until flush, which would pass the test above."""
    tokenizer = BPETokenizer.train("", 257)
    decoder = tokenizer.decoder()
    assert [decoder.feed(byte) for byte in "a日b".encode()] == ["a", "", "", "日", "b"]
    assert decoder.feed([0xE6, 0x97, 98]) == "\ufffdb"
    assert decoder.feed([0xE6]) == ""
    assert decoder.flush() == "\ufffd"


def test_tokens_for_display_and_as_bytes():
    """Catches invisible characters on display, a lost part of a character, and a separator counted as text."""
    tokenizer = BPETokenizer(
        {bytes([i]): i for i in range(256)} | {b"\xe6\x97": 256, b"a\xe6\x97": 257, b" a": 258},
        [(b"\xe6", b"\x97"), (b"a", b"\xe6\x97"), (b" ", b"a")],
    )
    assert tokenizer.tokens([97, 10, 0xE6, 256, 257, 258, 259]) == [
        *["a", "\\n", "<0xE6>", "<0xE6><0x97>", "a<0xE6><0x97>", "\N{OPEN BOX}a", "<|endoftext|>"]
    ]
    assert CharTokenizer("b").tokens([0, 256]) == ["<0x00>", "b"]
    assert tokenizer.token_bytes(257) == b"a\xe6\x97"
    assert tokenizer.token_bytes(tokenizer.eot_id) == b""
    with pytest.raises(IndexError, match=r"^\[token_text\] 'ids' must be in 0 \.\.\. 259, got 260"):
        tokenizer.token_text(260)


def test_lone_surrogates_are_refused(trained):
    """Catches a UnicodeEncodeError, a question mark instead, and a position relative to a part of the text."""
    message = r"^\[encode\] 'text' must not hold a lone surrogate, got U\+D800 at 14$"
    with pytest.raises(ValueError, match=message):
        trained.encode("<|endoftext|>é\ud800")
    with pytest.raises(ValueError, match=message):
        trained.encode("<|endoftext|>é\ud800", special=True)
    with pytest.raises(ValueError, match=r"^\[train\] 'text' must not hold a lone surrogate, got U\+DC80 at 0$"):
        BPETokenizer.train(["a", "\udc80"])


WRONG_ARGUMENTS = {
    "small": (lambda: BPETokenizer.train("a", 256), ValueError, "'vocab_size' must be at least 257, got 256"),
    "pattern": (
        lambda: BPETokenizer.train("a", pattern="x"),
        ValueError,
        "'pattern' must be one of gpt2, gpt4, qwen2, smollm, code",
    ),
    "bytes": (lambda: BPETokenizer.train([b"a"]), TypeError, "'text' must be a str, got bytes"),
    "twice": (lambda: BPETokenizer.train("a", special_tokens=["x", "x"]), ValueError, "must each occur once"),
    "one str": (lambda: BPETokenizer.train("a", special_tokens="<x>"), TypeError, "must be a collection of names"),
    "empty": (lambda: BPETokenizer.train("a", special_tokens=[""]), ValueError, "'special_tokens' must not be empty"),
    "written alike": (
        lambda: BPETokenizer.train("aa aa", special_tokens=["aa"]),
        ValueError,
        "[BPETokenizer] 'special_tokens' must not be written like a token of the vocabulary, got 'aa'",
    ),
    "no bytes": (lambda: BPETokenizer({}, []), ValueError, "'vocab' must have a token for every byte"),
    "float ids": (lambda: BPETokenizer.train("").decode([0.5]), TypeError, "[decode] 'ids' must be integers"),
    "ids": (lambda: BPETokenizer.train("").decode([257]), IndexError, "must be in 0 ... 256, got 257 at 0"),
}


@pytest.mark.parametrize("case", WRONG_ARGUMENTS)
def test_invalid_arguments_are_one_line(case):
    """Catches a misinterpreted argument, and an error that does not say what is wrong."""
    call, kind, message = WRONG_ARGUMENTS[case]
    with pytest.raises(kind) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_compiled_code_checks_its_arguments():
    """Catches a write past the end of an array, and words added to a trainer that has started."""
    trainer = bpe.Trainer("gpt2")
    trainer.add(b"ab ab")
    trainer.start()
    trainer.start()  # a second start changes nothing
    with pytest.raises(ValueError, match="before the start"):
        trainer.add(b"c")
    rows = np.full((3, 2), -1, np.int32)
    assert trainer.merge(rows) == 1
    assert rows.tolist() == [[97, 98], [-1, -1], [-1, -1]]
    encoder = bpe_encode.Encoder("gpt2", np.arange(256, dtype=np.int32), np.empty((0, 3), np.int32))
    with pytest.raises(ValueError, match="must have an element for each of 2 bytes"):
        encoder.encode(b"ab", np.empty(1, np.int32), bpe_encode.Cache())
    with pytest.raises(TypeError):
        encoder.encode(b"ab", np.empty(2, np.int32), None)
    with pytest.raises(ValueError, match="row 1 is a duplicate"):
        bpe_encode.Encoder("gpt2", np.arange(256, dtype=np.int32), np.array([[1, 2, 3], [1, 2, 4]], np.int32))
    for kind in (bpe.Trainer, lambda name: bpe_encode.word_ends(b"a", name)):
        with pytest.raises(ValueError, match="'pattern' is not known: 'x'"):
            kind("x")


@given(st.binary(max_size=12), st.sampled_from(sorted(PATTERNS)))
def test_invalid_utf8_is_split_within_its_length(data, pattern):
    """Catches a scanner that reads past a truncated character at the end, or that does not advance."""
    ends = bpe_encode.word_ends(data, pattern)
    assert all(a < b for a, b in zip([0, *ends], ends, strict=False))
    assert (ends[-1] if ends else 0) == len(data)
