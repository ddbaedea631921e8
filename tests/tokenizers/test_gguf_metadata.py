"""Tokenizers as GGUF metadata: they read back unchanged, and invalid metadata is refused."""

import inspect
import json.encoder

import pytest

from tinygpt.tokenizers import BPETokenizer, CharTokenizer
from tinygpt.tokenizers.gguf_metadata import PATTERN_OF, PREFIX, from_metadata, to_metadata
from tinygpt.tokenizers.special import Roles

TEXT = "def add(a, b):\n    return a + b  # 1234 日本\n"


def trained(pattern="gpt2", **changes):
    tokenizer = BPETokenizer.train(inspect.getsource(json.encoder), 290, pattern, special_tokens=["<a>", "<s>"])
    parts = tokenizer.parts
    return BPETokenizer(parts.vocab, parts.merges, pattern, parts.special_tokens, **changes)


@pytest.mark.parametrize("pre", PATTERN_OF)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"roles": Roles("<a>", "<s>", "<|endoftext|>", "{{ x }}"), "plain": {"<a>"}},
        {"first": "<s>", "roles": Roles(bos_token="<s>")},
    ],
)
def test_round_trip(pre, changes):
    """Catches a key that is not written or not read, and a pre-tokenizer name for the wrong pattern."""
    ours = trained(PATTERN_OF[pre], ignore_merges=pre == "llama-bpe", **changes)
    fields = to_metadata(ours, rows=ours.vocab_size + 3)
    assert fields[f"{PREFIX}pre"] == pre
    assert len(fields[f"{PREFIX}tokens"]) == len(fields[f"{PREFIX}token_type"]) == ours.vocab_size + 3
    again = from_metadata({"general.architecture": "llama", **fields})
    # A file always names a begin token.
    bos = ours.roles.bos_token or "<|endoftext|>"
    assert again.roles == Roles(ours.roles.eos_token, bos, ours.roles.pad_token, ours.roles.chat_template)
    assert again.__reduce__()[1][:-1] == ours.__reduce__()[1][:-1]
    assert again.encode(TEXT).tolist() == ours.encode(TEXT).tolist()


def test_values_are_plain_python():
    """Catches NumPy numbers, which a writer of GGUF files may not accept."""
    for name, value in to_metadata(trained(first="<s>", roles=Roles(chat_template="x"))).items():
        for one in value if isinstance(value, list) else [value]:
            assert type(one) in (bool, int, str), name
    assert to_metadata(trained())[f"{PREFIX}add_bos_token"] is False


def test_defaults_implied_by_the_pre_tokenizer():
    """Catches a Llama 3 text without its begin token, or with merges that Llama 3 ignores."""
    fields = to_metadata(trained("gpt4", first="<s>", ignore_merges=True))
    del fields[f"{PREFIX}add_bos_token"]
    llama = from_metadata(fields)
    assert llama.bos_id == llama.special_tokens["<s>"]
    assert llama.parts.ignore_merges
    other = from_metadata({**fields, f"{PREFIX}pre": "qwen2"})
    assert other.bos_id is None
    assert not other.parts.ignore_merges


def test_tokenizers_that_gguf_cannot_hold():
    """Catches a file from which readers would make other ids."""
    vocab = {bytes([i]): i for i in range(256)} | {b"bc": 256, b"ab": 257, b"abc": 258}
    merges = [(b"b", b"c"), (b"a", b"b")]
    reachable = {token: i for token, i in vocab.items() if i < 258}
    for tokenizer, message in [
        (CharTokenizer("ab"), "GGUF has no form for a character tokenizer; train a model with 'tokenizer_type' bpe"),
        (trained("code"), "GGUF has no name for the pattern 'code', only for gpt2, gpt4, smollm, qwen2"),
        (
            BPETokenizer(vocab, merges, "gpt4"),
            "'llama-bpe' encodes a word that is a token as that token, which changes the ids of 'abc'",
        ),
        (
            BPETokenizer(vocab, merges, "qwen2", ignore_merges=True),
            "'qwen2' encodes a word by its merges",
        ),
        (trained(late={"<a>"}), "searched for in two rounds"),
        (BPETokenizer.train("", 257), "a tokenizer without merges"),
    ]:
        with pytest.raises(ValueError, match=r"^\[to_metadata\] ") as caught:
            to_metadata(tokenizer)
        assert message in str(caught.value)
    for pattern, ignore_merges in [("gpt4", False), ("qwen2", True)]:
        made = from_metadata(to_metadata(BPETokenizer(reachable, merges, pattern, ignore_merges=ignore_merges)))
        assert made.encode("bc ab abc").tolist() == [256, 32, 257, 32, 97, 256]
    with pytest.raises(ValueError, match="'rows' must be at least 290, got 289"):
        to_metadata(trained(), rows=289)
    named_like_one = BPETokenizer(vocab, merges, "gpt2", {"[PAD265]": 259, "<|endoftext|>": 260})
    with pytest.raises(ValueError, match="must not have the name of an unused row"):
        to_metadata(named_like_one, rows=270)


def at(name, place, value):
    return lambda fields: fields[PREFIX + name].__setitem__(place, value)


def setting(name, value):
    return lambda fields: fields.update({PREFIX + name: value})


WRONG = {
    "no model": (lambda f: f.pop(f"{PREFIX}model"), "model' is missing"),
    "SentencePiece": (setting("model", "llama"), "model' must be 'gpt2' (byte-level BPE), got 'llama'"),
    "no pre-tokenizer": (lambda f: f.pop(f"{PREFIX}pre"), "pre' is missing"),
    "another one": (setting("pre", "tekken"), "pre' must be one of gpt-2, llama-bpe, smollm, qwen2, got 'tekken'"),
    "pre is a number": (setting("pre", 3), "pre' must be a string, got 3"),
    "prefix": (setting("add_space_prefix", True), "add_space_prefix' must be false, got true"),
    "last token": (setting("add_eos_token", True), "add_eos_token' must be false, got true"),
    "flag": (setting("add_bos_token", 1), "add_bos_token' must be true or false, got 1"),
    "no tokens": (lambda f: f.pop(f"{PREFIX}tokens"), "tokens' is missing"),
    "tokens are text": (setting("tokens", "abc"), "tokens' must be a list, got 'abc'"),
    "no types": (lambda f: f.pop(f"{PREFIX}token_type"), "token_type' is missing"),
    "too few types": (
        lambda f: f[f"{PREFIX}token_type"].pop(),
        "token_type' must have an entry for each of 290 tokens",
    ),
    "absurd type": (at("token_type", 7, 9), "token_type' entry 7 must be 1 ... 6, got 9"),
    "type is a flag": (at("token_type", 7, True), "token_type' entry 7 must be 1 ... 6, got true"),
    "token is a number": (at("tokens", 7, 1.5), "tokens' entry 7 must be a string that is not empty, got 1.5"),
    "empty token": (at("tokens", 7, ""), "tokens' entry 7 must be a string that is not empty"),
    "twice": (at("tokens", 7, "A"), "tokens' has 'A' twice, as 7 and 65"),
    "no letters": (at("tokens", 7, "a b"), "tokens' must have tokens written in the letters of bytes, got 'a b'"),
    "surrogate": (at("tokens", 289, "<\ud800>"), "tokens' must be text without lone surrogates"),
    "no merges": (lambda f: f.pop(f"{PREFIX}merges"), "merges' is missing"),
    "merge": (at("merges", 2, "a"), "merges' entry 2 must have two tokens, got 'a'"),
    "merge is a number": (at("merges", 2, 5), "merges' entry 2 must have two tokens, got 5"),
    "merge of nothing": (at("merges", 2, "x zz"), "merges' entry 2 needs 'zz', which is not in the vocabulary"),
    "end out of range": (setting("eos_token_id", 290), "eos_token_id' must be an id in 0 ... 289, got 290"),
    "end is negative": (setting("eos_token_id", -1), "eos_token_id' must be an id in 0 ... 289, got -1"),
    "end is a float": (setting("eos_token_id", 1.0), "eos_token_id' must be an id in 0 ... 289, got 1.0"),
    "end is text": (setting("eos_token_id", 65), "eos_token_id' must be the id of a control token, got 65, 'A'"),
    "first unknown": (
        lambda f: (f.update({f"{PREFIX}add_bos_token": True}), f.pop(f"{PREFIX}bos_token_id")),
        "bos_token_id' is missing, and every text is to begin with this token",
    ),
    "no separator": (
        lambda f: (at("tokens", 289, "<e>")(f), f.pop(f"{PREFIX}eos_token_id")),
        "must have the separator '<|endoftext|>', or 'tokenizer.ggml.eos_token_id' name another",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_invalid_metadata_is_one_line(case):
    """Catches an id read out of range, and a tokenizer that differs from the metadata."""
    fields = to_metadata(trained())
    change, message = WRONG[case]
    change(fields)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        from_metadata(fields)
    line = str(caught.value)
    assert line.startswith(f"'{PREFIX}")
    assert message in line
    assert "\n" not in line


@pytest.mark.parametrize("template", [7, ["x"], True])
def test_a_template_that_is_not_text(template):
    """Catches a template that fails only when the first message is rendered."""
    with pytest.raises(ValueError, match=r"^'tokenizer\.chat_template' must be a string, got"):
        from_metadata({**to_metadata(trained()), "tokenizer.chat_template": template})


def test_unused_tokens_in_the_middle_keep_their_ids():
    """Catches ids that shift where a token is unused."""
    ours = trained()
    fields = to_metadata(ours)
    fields[f"{PREFIX}token_type"][287] = 5
    again = from_metadata(fields)
    assert again.vocab_size == ours.vocab_size
    assert again.special_tokens == ours.special_tokens


def test_several_end_tokens():
    """Catches an end-of-turn or end-of-message token lost in writing or reading."""
    ours = trained(roles=Roles("<a>", end_ids=frozenset([65, 66])))
    fields = to_metadata(ours)
    assert (fields[f"{PREFIX}eot_token_id"], fields[f"{PREFIX}eom_token_id"]) == (65, 66)
    assert from_metadata(fields).end_ids == ours.end_ids == {65, 66, ours.eot_id, ours.special_tokens["<a>"]}
    for name in ("eot_token_id", "eom_token_id"):
        for wrong in (-1, len(fields[f"{PREFIX}tokens"]), True, "x"):
            with pytest.raises(ValueError, match=f"{name}' must be an id in 0 ... "):
                from_metadata({**fields, PREFIX + name: wrong})
    with pytest.raises(ValueError, match="GGUF has fields for 3 tokens that end a text, got 4"):
        to_metadata(trained(roles=Roles("<a>", end_ids=frozenset([65, 66, 67]))))


def test_an_added_token_that_is_also_a_merge():
    """Catches merges lost because one of their tokens is an added token."""
    plain = BPETokenizer.train(inspect.getsource(json.encoder), 290, "gpt2")
    special = {"se": plain.parts.vocab[b"se"], **plain.special_tokens}
    ours = BPETokenizer(plain.parts.vocab, plain.parts.merges, "gpt2", special, plain={"se"})
    again = from_metadata(to_metadata(ours, ours.vocab_size))
    assert again.parts.vocab == ours.parts.vocab
    assert again.encode("self.se house").tolist() == ours.encode("self.se house").tolist()
