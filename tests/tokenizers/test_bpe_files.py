"""Byte-level BPE on disk: files read back, mean the same to Hugging Face, and invalid ones are refused."""

import json

import numpy as np
import pytest
import tokenizers as peer
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import tinygpt.tokenizers
from tinygpt.tokenizers import BPETokenizer, CharTokenizer
from tinygpt.tokenizers.bpe_parts import LETTERS, from_letters, to_letters
from tinygpt.tokenizers.patterns import PATTERNS

CODE = "def add(self, other):\n    return self.value + other.value\n\n\nclass Ümlaut:\n\tx  = 12345  # 日本語's\n" * 3
TEXTS = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from("ab ab_(.'sStT1²\n\n\t\r \u00a0\u2028\x00\x85\u017f日😀")
) | st.lists(st.sampled_from([" ", "  ", "\n", "'ll", "'S", "x", "1234", "->", "_", "é", "<|endoftext|>", "\t"])).map(
    "".join
)
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module", params=PATTERNS)
def pair(request, tmp_path_factory):
    """A tokenizer, Hugging Face's tokenizer from its file, and the folder of the file."""
    folder = tmp_path_factory.mktemp("bpe")
    ours = BPETokenizer.train(CODE, 330, request.param, special_tokens=["<é a>"])
    ours.save(folder)
    return ours, peer.Tokenizer.from_file(str(folder / "tokenizer.json")), folder


@patient
@given(text=TEXTS)
@example(text=CODE)
@example(text="a<|endoftext|>b <é a>\n\n  x\r\n\r\n \t \n")
@example(text=" " * 3 + "'\u017fx 'LLx\u00a0\u00a0x \u2028\n")
@example(text="x" * 100_000 + " \n" * 1000)
def test_ids_and_text_are_those_of_hugging_face(pair, text):
    """Catches a file that means something else there, or a scanner that splits differently from its pattern."""
    ours, theirs, _ = pair
    theirs.encode_special_tokens = True
    ids = ours.encode(text).tolist()
    assert ids == theirs.encode(text).ids
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False) == text
    theirs.encode_special_tokens = False
    assert ours.encode(text, special=True).tolist() == theirs.encode(text).ids


@patient
@given(data=st.data())
def test_any_ids_decode_as_in_hugging_face(pair, data):
    """Catches a different number of U+FFFD for invalid bytes, and special tokens within a character."""
    ours, theirs, _ = pair
    ids = data.draw(st.lists(st.integers(0, 255) | st.sampled_from([*"日é😀".encode(), 0xED, 0xF5, ours.eot_id])))
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)


def test_hugging_face_writes_the_same_fields(pair):
    """Catches a field that the library would add or drop."""
    written = json.loads((pair[2] / "tokenizer.json").read_text("utf-8"))
    assert json.loads(pair[1].to_str()) == written


def test_saving_and_loading_keeps_everything(pair):
    """Catches a token changed by JSON or by an encoding."""
    ours, _, folder = pair
    for path in (folder, str(folder / "tokenizer.json")):
        again = tinygpt.tokenizers.load(path)
        assert type(again) is BPETokenizer
        assert again.__reduce__() == ours.__reduce__()
        assert again.eot_id == ours.eot_id
        assert again.encode(CODE).tolist() == ours.encode(CODE).tolist()


def test_saving_is_in_one_step(tmp_path):
    """Catches a save that appends, or that leaves a temporary file."""
    for text in ("ab ab", "cd cd cd"):
        BPETokenizer.train(text, 300).save(tmp_path / "tokenizer.json")
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]
    assert tinygpt.tokenizers.load(tmp_path).encode("cd").tolist() == [256]


def test_variants_of_other_programs(tmp_path):
    """Catches a reader that accepts only its own files: GPT-2's file is written like this."""
    ours = BPETokenizer.train(CODE, 330)
    content = content_of(ours, tmp_path)
    content["model"] = {
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
        "fuse_unk": False,
        "vocab": dict(reversed(content["model"]["vocab"].items())),
        "merges": [" ".join(merge) for merge in content["model"]["merges"]],
    }
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    content.update(
        pre_tokenizer=byte_level, decoder={**byte_level, "add_prefix_space": True}, post_processor=byte_level
    )
    content["added_tokens"][0]["normalized"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert tinygpt.tokenizers.load(tmp_path).__reduce__() == ours.__reduce__()
    theirs = peer.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.encode(CODE).ids == ours.encode(CODE).tolist()


def test_ids_in_any_order(tmp_path):
    """Catches ids used as ranks: the ids of this file are reversed."""
    ours = BPETokenizer.train(CODE, 330, "code")
    content = content_of(ours, tmp_path)
    last = ours.vocab_size - 1
    content["model"]["vocab"] = {token: last - i for token, i in content["model"]["vocab"].items()}
    content["added_tokens"][0]["id"] = last - content["added_tokens"][0]["id"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    turned = tinygpt.tokenizers.load(tmp_path)
    np.testing.assert_array_equal(turned.encode(CODE), last - ours.encode(CODE))
    assert turned.decode(turned.encode(CODE)) == CODE
    assert turned.eot_id == 0
    theirs = peer.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.encode(CODE).ids == turned.encode(CODE).tolist()


def test_the_letters_of_bytes():
    """Catches a letter used for two bytes, one that is not printable, and a wrong letter for the space."""
    assert sorted(LETTERS) == list(range(256))
    assert len(set(LETTERS.values())) == 256
    assert all(letter.isprintable() and not letter.isspace() for letter in LETTERS.values())
    assert to_letters(b" a\n\xff") == "\u0120a\u010aÿ"
    assert from_letters(to_letters(bytes(range(256)))) == bytes(range(256))
    assert from_letters("a b") is None


def content_of(tokenizer, folder):
    tokenizer.save(folder)
    return json.loads((folder / "tokenizer.json").read_text("utf-8"))


def refused(call, file, message):
    """Assert that the call fails with one line that begins with the file's name."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        call()
    line = str(caught.value)
    assert line.startswith(f"{file}: ")
    assert message in line
    assert "\n" not in line
    assert len(line) < 500 + len(str(file))


def vocab(change):
    return lambda c: change(c["model"]["vocab"])


# The vocabulary of merges a b and c d: 256 is ab, 257 is cd, 258 is the separator.
WRONG = {
    "another kind": (lambda c: c["model"].update(type="WordPiece"), "'model.type' must be 'BPE', got 'WordPiece'"),
    "normalizer": (
        lambda c: c.update(normalizer={"type": "NFC"}),
        '\'normalizer\' must be {"type": "Sequence", "normalizers": []}, got an object of 1',
    ),
    "normalizers": (
        lambda c: c.update(normalizer={"type": "Sequence"}),
        '\'normalizer\' must be {"type": "Sequence", "normalizers": []}',
    ),
    "version": (lambda c: c.pop("version"), "'version' must be \"1.0\", got null"),
    "unknown part": (lambda c: c.update(extra=1), "'extra' is not known here"),
    "unknown field": (lambda c: c["model"].update(extra=1), "'model.extra' is not known here"),
    "dropout": (lambda c: c["model"].update(dropout=0.1), "'model.dropout' must be 0.0, got 0.1"),
    "ignore merges": (
        lambda c: c["model"].update(ignore_merges=1),
        "'model.ignore_merges' must be true or false, got 1",
    ),
    "prefix": (lambda c: c["model"].update(continuing_subword_prefix="##"), "must be '', got '##'"),
    "no decoder": (lambda c: c.pop("decoder"), "'decoder.type' must be 'ByteLevel', got null"),
    "post-processor": (lambda c: c.update(post_processor={"type": "Bert"}), "'post_processor' must be null or of type"),
    "no byte level": (lambda c: c.update(pre_tokenizer={"type": "Whitespace"}), "must be or end with 'ByteLevel'"),
    "prefix space": (lambda c: c["pre_tokenizer"].update(add_prefix_space=True), "must be false, got true"),
    "no split": (lambda c: c["pre_tokenizer"].update(use_regex=False), "must split by one of the patterns"),
    "empty sequence": (lambda c: c.update(pre_tokenizer={"type": "Sequence", "pretokenizers": []}), "got 'Sequence'"),
    "sequence of nothing": (lambda c: c.update(pre_tokenizer={"type": "Sequence"}), "got 'Sequence'"),
    "sequence of text": (lambda c: c.update(pre_tokenizer={"type": "Sequence", "pretokenizers": ["x"]}), "ByteLevel"),
    "pre-tokenizer is text": (lambda c: c.update(pre_tokenizer="ByteLevel"), "must be or end with 'ByteLevel'"),
    "no vocabulary": (lambda c: c["model"].pop("vocab"), "'model.vocab' is missing"),
    "vocabulary is a list": (lambda c: c["model"].update(vocab=[]), "'model.vocab' must be an object, got a list of 0"),
    "byte missing": (vocab(lambda v: v.pop("A")), "a token for every byte of ASCII text, there is none for 0x41"),
    "duplicate id": (vocab(lambda v: v.update(cd=256)), "'model.vocab' has id 256 twice, for 'ab' and 'cd'"),
    "gap": (vocab(lambda v: v.update(cd=300)), "ids must be 0 ... 258, got 300 for 'cd'"),
    "negative": (vocab(lambda v: v.update(cd=-1)), "got -1 for 'cd'"),
    "boolean": (vocab(lambda v: v.update(cd=True)), "got true for 'cd'"),
    "float": (vocab(lambda v: v.update(cd=257.0)), "got 257.0 for 'cd'"),
    "huge": (vocab(lambda v: v.update(cd=10**100)), "got a number of more than 60 digits for 'cd'"),
    "no letters": (vocab(lambda v: v.update({"a b": 259})), "must have tokens written in the letters of bytes"),
    "surrogate": (vocab(lambda v: v.update({"\ud800": 259})), "must have tokens written in the letters of bytes"),
    "empty token": (vocab(lambda v: v.update({"": 259})), "'model.vocab' must not have an empty token"),
    "no merges": (lambda c: c["model"].pop("merges"), "'model.merges' is missing"),
    "token missing": (vocab(lambda v: v.pop("cd")), "'model.merges' entry 1 needs 'cd', which is not in the vocab"),
    "half missing": (lambda c: c["model"]["merges"].append(["a", "xy"]), "'model.merges' entry 2 needs 'xy'"),
    "merge twice": (lambda c: c["model"]["merges"].append(["a", "b"]), "'model.merges' entry 2 occurs before"),
    "merge of one": (lambda c: c["model"]["merges"].append(["a"]), "'model.merges' entry 2 must have two tokens"),
    "merge of three": (lambda c: c["model"]["merges"].append("a b c"), "entry 2 must have two tokens, got 'a b c'"),
    "merge of nothing": (
        lambda c: c["model"]["merges"].append(["", "a"]),
        "entry 2 must have two tokens in the letters",
    ),
    "merge of numbers": (
        lambda c: c["model"]["merges"].append([1, 2]),
        "entry 2 must have two tokens, got a list of 2",
    ),
    "merge is a number": (lambda c: c["model"]["merges"].append(7), "entry 2 must have two tokens, got 7"),
    "no added tokens": (lambda c: c.pop("added_tokens"), "'added_tokens' is missing"),
    "no separator": (lambda c: c.update(added_tokens=[]), "'added_tokens' must have the separator"),
    "another separator": (
        lambda c: (c["added_tokens"][0].update(content="<e nd>"), c["model"]["vocab"].pop("<|endoftext|>")),
        "'added_tokens' must have the separator '<|endoftext|>'",
    ),
    "two ids": (lambda c: c["added_tokens"][0].update(id=3), "has '<|endoftext|>' as id 3, 'model.vocab' as 258"),
    "id twice": (
        lambda c: (c["added_tokens"][0].update(id=3), c["model"]["vocab"].pop("<|endoftext|>")),
        "'added_tokens' has id 3 twice",
    ),
    "no id": (lambda c: (c["added_tokens"][0].pop("id"), c["model"]["vocab"].pop("<|endoftext|>")), "got null for"),
    "not special": (
        lambda c: c["added_tokens"][0].update(special=0),
        "'added_tokens[0].special' must be true or false, got 0",
    ),
    "strips": (lambda c: c["added_tokens"][0].update(lstrip=True), "'added_tokens[0].lstrip' must be false, got true"),
    "name is a number": (
        lambda c: c["added_tokens"][0].update(content=1),
        "'added_tokens[0].content' must be a string",
    ),
    "added twice": (lambda c: c["added_tokens"].append(c["added_tokens"][0]), "'added_tokens[1].content' occurs"),
    "added text": (lambda c: c["added_tokens"].append("x"), "'added_tokens[1]' must be an object, got 'x'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_invalid_content_is_one_line(tmp_path, case):
    """Catches a field that changes ids but is ignored, and an id that would be read out of range."""
    content = content_of(BPETokenizer.train("ab\nab\ncd\ncd", 300), tmp_path)
    assert content["model"]["vocab"]["<|endoftext|>"] == 258
    change, message = WRONG[case]
    change(content)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    refused(lambda: tinygpt.tokenizers.load(tmp_path), tmp_path / "tokenizer.json", message)


def test_an_unknown_pattern(tmp_path):
    """Catches a file whose words would be split by a different expression than it states."""
    content = content_of(BPETokenizer.train("ab ab", 300, "gpt4"), tmp_path)
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] += "|x"
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    message = "one of the patterns gpt2, gpt4, qwen2, smollm, code, got another 'Split' and 'ByteLevel'"
    refused(lambda: tinygpt.tokenizers.load(tmp_path), tmp_path / "tokenizer.json", message)


@patient
@given(st.integers(0, 10_000))
def test_a_truncated_file(tmp_path_factory, length):
    """Catches a traceback, and half a vocabulary accepted as a whole one."""
    file = tmp_path_factory.getbasetemp() / "cut.json"
    BPETokenizer.train("ab ab", 258).save(file)
    data = file.read_bytes()
    file.write_bytes(data[: min(length, len(data) - 3)])
    refused(lambda: tinygpt.tokenizers.load(file), file, "must be ")


def test_the_kind_of_a_tokenizer_is_recognised(tmp_path):
    """Catches a character tokenizer read as BPE, or the other way round."""
    for made in (CharTokenizer("ab"), BPETokenizer.train("", 300), BPETokenizer.train("", 300, "code")):
        made.save(tmp_path)
        assert type(tinygpt.tokenizers.load(tmp_path)) is type(made)


# ------------------------------------------------------------------------------------------------------------- GPT-2


@pytest.fixture
def gpt2_files(tmp_path):
    """The two files of a small vocabulary with ids in GPT-2's order, and the tokenizer they come from."""
    ours = BPETokenizer.train(CODE, 300)
    merges = ours.__reduce__()[1][1]
    ids = {letter: i for i, letter in enumerate(sorted(LETTERS.values()))}
    ids.update({to_letters(a + b): 256 + i for i, (a, b) in enumerate(merges)}, **{"<|endoftext|>": 256 + len(merges)})
    (tmp_path / "encoder.json").write_text(json.dumps(ids))
    lines = ["#version: 0.2", *(f"{to_letters(a)} {to_letters(b)}" for a, b in merges)]
    (tmp_path / "vocab.bpe").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "encoder.json", tmp_path / "vocab.bpe", ours


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_gpt2_files(gpt2_files, ending):
    """Catches ids in training order instead of the file's, and a version line read as a merge."""
    encoder, merges, ours = gpt2_files
    merges.write_bytes(merges.read_bytes().replace(b"\n", ending.encode()))
    theirs = BPETokenizer.from_gpt2(encoder, str(merges))
    text = CODE + EDGE
    assert theirs.decode(theirs.encode(text)) == text
    assert [theirs.token_bytes(i) for i in theirs.encode(text)] == [ours.token_bytes(i) for i in ours.encode(text)]
    assert theirs.encode("!").tolist() == [0]
    assert theirs.pattern == "gpt2"
    assert theirs.eot_id == 299
    merges.write_bytes(merges.read_bytes().split(b"\n", 1)[1])
    assert BPETokenizer.from_gpt2(encoder, merges).__reduce__() == theirs.__reduce__()


EDGE = "\x00\x85 \u2028é😀"


def lines_with(change):
    return lambda lines: "\n".join(change(lines)).encode()


WRONG_MERGES = {
    "cut in a line": (lines_with(lambda lines: [*lines[:9], lines[9][:1]]), "line 10 must have two tokens"),
    "cut after a line": (lines_with(lambda lines: lines[:30]), "no line makes "),
    "empty": (lambda lines: b"", "line 1 must have two tokens, got ''"),
    "twice": (lines_with(lambda lines: [*lines, lines[5]]), "line 45 occurs before"),
    "unknown token": (lines_with(lambda lines: [*lines, "x zz"]), "line 45 needs 'zz', which is not in the vocabulary"),
    "unknown result": (lines_with(lambda lines: [*lines, "x z"]), "line 45 needs 'xz', which is not in the vocabulary"),
    "three": (lines_with(lambda lines: [*lines[:2], "a b c"]), "line 3 must have two tokens, got 'a b c'"),
    "no letters": (
        lines_with(lambda lines: [*lines[:2], "a \t"]),
        "line 3 must have two tokens in the letters of bytes",
    ),
    "empty line": (lines_with(lambda lines: [*lines[:2], "", *lines[2:]]), "line 3 must have two tokens, got ''"),
    "not UTF-8": (lambda lines: b"a \xff\n", "must be UTF-8, got byte 0xFF at 2"),
}


@pytest.mark.parametrize("case", WRONG_MERGES)
def test_invalid_merges_are_one_line(gpt2_files, case):
    """Catches a truncated list of merges, and an ignored line, which would shift all later ranks."""
    encoder, merges, _ = gpt2_files
    change, message = WRONG_MERGES[case]
    lines = merges.read_text("utf-8").rstrip("\n").split("\n")
    assert len(lines) == 44
    merges.write_bytes(change(lines))
    refused(lambda: BPETokenizer.from_gpt2(encoder, merges), merges, message)


WRONG_ENCODER = {
    "no separator": (lambda v: v.pop("<|endoftext|>"), "the vocabulary must have the separator"),
    "no byte": (lambda v: v.pop("!"), "the vocabulary must have a token for every byte of ASCII text"),
    "twice": (lambda v: v.update({'"': 0}), "the vocabulary has id 0 twice"),
    "separator twice": (lambda v: v.update({"<|endoftext|>": 0}), "the vocabulary has id 0 twice"),
    "no number": (lambda v: v.update({'"': None}), "got null for '\"'"),
    "no letters": (lambda v: v.update({"a b": 300}), "must have tokens written in the letters of bytes, got 'a b'"),
}


@pytest.mark.parametrize("case", WRONG_ENCODER)
def test_an_invalid_encoder_is_one_line(gpt2_files, case):
    """Catches an error that names the wrong file, and ids that are not checked."""
    encoder, merges, _ = gpt2_files
    change, message = WRONG_ENCODER[case]
    ids = json.loads(encoder.read_text())
    change(ids)
    encoder.write_text(json.dumps(ids))
    refused(lambda: BPETokenizer.from_gpt2(encoder, merges), encoder, message)


def test_missing_files(gpt2_files, tmp_path):
    """Catches an error that names the existing file, and a folder read as a file."""
    encoder, merges, _ = gpt2_files
    for arguments in ((encoder, tmp_path / "no"), (tmp_path / "no", merges)):
        with pytest.raises(FileNotFoundError, match="no: no such file"):
            BPETokenizer.from_gpt2(*arguments)
    refused(lambda: BPETokenizer.from_gpt2(encoder, tmp_path), tmp_path, "must be a regular file")
