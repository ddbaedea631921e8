"""Special tokens: found where Hugging Face finds them, saved with their roles, and checked."""

import inspect
import json
import json.encoder
import pickle

import numpy as np
import pytest
import tokenizers as peer
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import tinygpt.tokenizers
from tinygpt.tokenizers import BPETokenizer, CharTokenizer
from tinygpt.tokenizers.special import Roles

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
CODE = "def add(self, other):\n    return self.value + other.value  # 日本\n" * 3
FIM = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
# Names that share beginnings and ends, and that overlap.
SPECIAL = {"<a>": 300, "<a><b>": 301, "<b>": 302, "b><a": 303, "<|end|>": 304}
VOCAB_300 = BPETokenizer.train(inspect.getsource(json.encoder), 301)


def tokenizer_with(**changes):
    """A tokenizer with 300 trained tokens below its special tokens."""
    vocab, merges = VOCAB_300.parts.vocab, VOCAB_300.parts.merges
    changes = {"special_tokens": SPECIAL, "roles": Roles(eos_token="<|end|>"), **changes}
    return BPETokenizer(vocab, merges, "gpt4", **changes)


def saved(tokenizer, folder):
    """Save a tokenizer; return it, Hugging Face's tokenizer from the file, and the one read back."""
    tokenizer.save(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer.config_fields()))
    theirs = peer.Tokenizer.from_file(str(folder / "tokenizer.json"))
    return tokenizer, theirs, tinygpt.tokenizers.load(folder)


KINDS = {
    "special": {},
    "some are plain": {"plain": {"<a>", "b><a"}},
    "all are plain": {"plain": set(SPECIAL)},
    "some are late": {"late": {"<a><b>", "<|end|>"}},
    "some are both": {"plain": {"<a>", "<b>"}, "late": {"<a>"}},
    "whole words": {"ignore_merges": True},
}


@pytest.fixture(scope="module", params=KINDS)
def trio(request, tmp_path_factory):
    return saved(tokenizer_with(**KINDS[request.param]), tmp_path_factory.mktemp("special"))


@patient
@given(text=st.lists(st.sampled_from([*SPECIAL, "<", ">", "a", "b", " ", "self", "\n", "é"])).map("".join))
@example(text="<a><b><a><|end|>b><a>")
@example(text="")
def test_special_tokens_are_found_as_in_hugging_face(trio, text):
    """Catches a shorter name preferred to a longer one, a disabled name that hides another, and a skipped round."""
    ours, theirs, again = trio
    for special in (False, True):
        theirs.encode_special_tokens = not special
        ids = ours.encode(text, special)
        assert ids.dtype == np.int32
        assert ids.tolist() == theirs.encode(text).ids == again.encode(text, special).tolist()
        assert ours.decode(ids) == text


def test_everything_is_kept(trio):
    """Catches a flag dropped by the file, a pickle or a reader."""
    ours, theirs, again = trio
    assert again.__reduce__() == ours.__reduce__() == pickle.loads(pickle.dumps(ours)).__reduce__()
    assert json.loads(theirs.to_str())["added_tokens"] == [
        {"id": i, "content": name, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": name in ours.parts.late, "special": name not in ours.parts.plain}
        for name, i in SPECIAL.items()
    ]  # fmt: skip


def test_plain_tokens_are_text():
    """Catches an added token of plain text counted as special, which makes bits per byte wrong."""
    tokenizer = tokenizer_with(plain={"<a>"})
    assert tokenizer.encode("x<a>").tolist() == [ord("x"), 300]
    assert tokenizer.token_bytes(300) == b"<a>"
    assert tokenizer.token_bytes(302) == b""


def test_roles():
    """Catches a separator or end token searched for by name only, and a begin token that was not requested."""
    assert (VOCAB_300.eot_id, VOCAB_300.end_ids, VOCAB_300.bos_id) == (300, {300}, None)
    assert VOCAB_300.config_fields() == {"eos_token": "<|endoftext|>"}
    other = tokenizer_with()
    assert (other.eot_id, other.end_ids, other.chat_template) == (304, {304}, None)
    names = {"<|endoftext|>": 300, "<|im_end|>": 301}
    chat = tokenizer_with(special_tokens=names, roles=Roles("<|im_end|>", "<|endoftext|>", None, "{{ x }}"))
    assert (chat.eot_id, chat.end_ids, chat.bos_id, chat.chat_template) == (300, {300, 301}, None, "{{ x }}")
    assert (VOCAB_300.start_id, other.start_id, chat.start_id) == (300, 304, 300)
    assert tokenizer_with(roles=Roles("<b>", "<a>")).start_id == 300
    assert tokenizer_with(first="<b>", roles=Roles("<b>", "<a>")).start_id == 302  # the actual begin token
    assert CharTokenizer("ab").start_id == 258
    assert chat.config_fields() == {
        "eos_token": "<|im_end|>", "bos_token": "<|endoftext|>", "chat_template": "{{ x }}",
    }  # fmt: skip
    assert CharTokenizer("ab").end_ids == {258}
    assert CharTokenizer("ab").config_fields() == {}


def test_prompts_begin_with_the_begin_token():
    """Catches a prompt without its begin token, an empty prompt, and a begin token within a text."""
    for tokenizer in (CharTokenizer("ab", FIM), VOCAB_300):
        assert tokenizer.prompt("ab").tolist() == tokenizer.encode("ab").tolist()
        assert tokenizer.prompt("").tolist() == [tokenizer.eot_id]
        assert tokenizer.prompt("<|endoftext|>", special=True).tolist() == [tokenizer.eot_id]
    first = tokenizer_with(first="<b>")
    assert first.bos_id == 302
    assert first.prompt("a").tolist() == [302, ord("a")]
    assert first.prompt("").tolist() == [302]
    assert first.prompt("<a>", special=True).tolist() == [302, 300]
    assert first.encode("a").tolist() == [ord("a")]


def test_a_first_token_is_added_by_hugging_face_too(tmp_path):
    """Catches a post-processor that is not written, or that has a wrong id."""
    ours, theirs, again = saved(tokenizer_with(first="<b>"), tmp_path)
    assert again.bos_id == 302
    assert theirs.encode(CODE).ids == ours.prompt(CODE).tolist()
    assert theirs.encode(CODE, add_special_tokens=False).ids == ours.encode(CODE).tolist()


def test_special_tokens_of_characters(tmp_path):
    """Catches shifted ids, names that text can produce, and names that a file turns into characters."""
    ours = CharTokenizer.train("aab", special_tokens=FIM)
    assert ours.special_tokens == {FIM[0]: 258, FIM[1]: 259, FIM[2]: 260, "<|endoftext|>": 261}
    assert (ours.vocab_size, ours.eot_id) == (262, 261)
    text = f"{FIM[0]}a{FIM[2]}é"
    assert ours.encode(text, special=True).tolist() == [258, 256, 260, 0xC3, 0xA9]
    assert set(ours.encode(text).tolist()).isdisjoint(ours.special_tokens.values())
    assert ours.decode([258, 256]) == FIM[0] + "a"
    assert ours.token_text(258) == FIM[0]
    assert ours.token_bytes(258) == b""
    ours.save(tmp_path)
    again = tinygpt.tokenizers.load(tmp_path)
    assert (again.characters, again.special_tokens) == (ours.characters, ours.special_tokens)
    theirs = peer.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.encode(text).ids == ours.encode(text).tolist()
    assert CharTokenizer("a", ["<|endoftext|>", "<x>"]).special_tokens == {"<x>": 257, "<|endoftext|>": 258}


@pytest.mark.parametrize(
    ("names", "kind", "message"),
    [
        ("<x>", TypeError, "must be a collection of names"),
        ([b"<x>"], TypeError, "'text' must be a str"),
        (["x"], ValueError, "must have two characters or more, got 'x'"),
        (["<0x41>"], ValueError, "must have two characters or more, got '<0x41>'"),
        (["<x>", "<x>"], ValueError, "must each occur once, got '<x>' twice"),
        (["<\ud800>"], ValueError, "must not hold a lone surrogate"),
    ],
)
def test_wrong_special_tokens_of_characters(names, kind, message):
    """Catches a name that a file would turn into something else."""
    with pytest.raises(kind, match=message):
        CharTokenizer("ab", names)


WRONG = {
    "no separator": ({"roles": Roles()}, "must have the separator '<|endoftext|>', or 'roles' name another"),
    "unknown end": ({"roles": Roles(eos_token="<e>")}, "must have '<e>', which is named as eos_token"),
    "unknown padding": ({"roles": Roles("<a>", pad_token="<e>")}, "must have '<e>', which is named as pad_token"),
    "unknown first": ({"first": "<e>"}, "must have '<e>', which is named as a first token"),
    "unknown plain": ({"plain": ["<e>"]}, "must have '<e>'"),
    "unknown late": ({"late": ["<e>"]}, "must have '<e>'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_unknown_names_are_refused(case):
    """Catches a role of a token that does not exist, which would fail later or never."""
    changes, message = WRONG[case]
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        tokenizer_with(**changes)
    assert str(caught.value) == f"[BPETokenizer] 'special_tokens' {message}"


def test_whole_words_that_are_tokens(tmp_path):
    """Catches merges applied to a word that is itself a token. Here no merges lead to it."""
    vocab = {bytes([i]): i for i in range(256)} | {b"ab": 256, b"bc": 257, b"abc": 258, b"c\xc3": 259}
    merges = [(b"b", b"c"), (b"a", b"b")]
    by_merges = BPETokenizer(vocab, merges, "gpt4")
    whole, theirs, again = saved(BPETokenizer(vocab, merges, "gpt4", ignore_merges=True), tmp_path)
    assert by_merges.encode("abc abcabc").tolist() == [97, 257, 32, 97, 257, 97, 257]
    assert whole.encode("abc\nabcabc").tolist() == [258, 10, 97, 257, 97, 257]
    for text in ("abc", "abc\nabcabc", "ab", "\nbc", "x" * 100 + "abc", "abc" * 30):
        for _ in range(2):  # the second time from the cache
            assert whole.encode(text).tolist() == theirs.encode(text).ids == again.encode(text).tolist()


def test_bytes_without_a_token(tmp_path):
    """Catches a byte encoded as another token, a gap that prevents merges beside it, and a write past the end."""
    missing = [0x01, 0x7F, 0xC3, 0xF1]
    tokens = [bytes([i]) for i in range(256) if i not in missing] + [b"ab"]
    vocab = {token: i for i, token in enumerate(tokens)}
    ours, theirs, _ = saved(BPETokenizer(vocab, [(b"a", b"b")], special_tokens={"<|endoftext|>": len(vocab)}), tmp_path)
    assert ours.missing_bytes == bytes(missing)
    assert ours.decode(ours.encode("a\x01b\x7f")) == "ab"
    for text in ("a\x01b", "\x01", "\x01\x7f" * 50, "a\x01" * 50, "é", "\U00040000", "x" * 70 + "\x01ab", ""):
        for _ in range(2):
            assert ours.encode(text).tolist() == theirs.encode(text).ids
    with pytest.raises(ValueError, match="must have a token for every byte of ASCII text, there is none for 0x0A"):
        BPETokenizer({token: i for token, i in vocab.items() if token != b"\n"}, [])
