"""The character tokenizer: against its own inverse, against Hugging Face, and with invalid files."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tokenizers as peer
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import tinygpt.tokenizers
from tinygpt.tokenizers import CharTokenizer, json_file
from tinygpt.tokenizers.base import visible

# All code points except surrogates; the smallest and largest of each UTF-8 length are drawn often.
EDGES = "\0\x7f\x80\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff"
TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(EDGES + "<|>0xEabc \n\ufeff\ufffd"))
# Characters of each UTF-8 length, some in the vocabulary and some not.
SOME = '\n aé日😀<|>0x\u2028"\\\x1f'


# Any id of a tokenizer trained on SOME; bytes of characters and invalid bytes are drawn often.
MANY_BYTES = st.sampled_from([*"日é😀aX".encode(), 0x80, 0xC0, 0xED, 0xA0, 0xF5, 0xFF]) | st.integers(
    0, CharTokenizer.train(SOME).eot_id
)
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tokenizer")


@pytest.fixture(scope="module")
def pair(folder):
    """A tokenizer, and Hugging Face's tokenizer from its file."""
    ours = CharTokenizer.train(SOME)
    ours.save(folder)
    return ours, peer.Tokenizer.from_file(str(folder / "tokenizer.json"))


@patient
@given(TEXTS, TEXTS)
@example("", EDGES)
@example(EDGES, EDGES[::-1])
def test_decode_is_the_inverse_of_encode(vocabulary, text):
    """Catches a lost character, bytes next to the wrong character, and faults where the UTF-8 length changes."""
    tokenizer = CharTokenizer.train(vocabulary)
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert ids.ndim == 1
    assert tokenizer.decode(ids) == text
    assert tokenizer.eot_id not in ids
    assert b"".join(map(tokenizer.token_bytes, ids.tolist())) == text.encode()


@patient
@given(text=TEXTS)
@example(text="<|endoftext|><0x41>日x語")
def test_ids_and_text_are_those_of_hugging_face(pair, text):
    """Catches a file that means something else there: special tokens cut out of text, another order or byte."""
    ours, theirs = pair
    ids = ours.encode(text).tolist()
    assert ids == theirs.encode(text).ids
    assert ours.decode(ids) == theirs.decode(ids) == text


@patient
@given(ids=st.lists(MANY_BYTES))
def test_any_ids_decode_as_in_hugging_face(pair, ids):
    """Catches one U+FFFD for a whole run, a valid part of an invalid run, and a run across a character."""
    ours, theirs = pair
    assert ours.decode(ids) == theirs.decode(ids)


@patient
@given(chunks=st.lists(st.lists(MANY_BYTES, max_size=5)))
def test_pieces_of_a_stream_make_the_whole_text(pair, chunks):
    """Catches a piece emitted too early, held back at the end, or emitted twice."""
    ours, _ = pair
    decoder = ours.decoder()
    pieces = [decoder.feed(chunk) for chunk in chunks]
    assert "".join(pieces) + decoder.flush() == ours.decode([i for chunk in chunks for i in chunk])
    assert decoder.flush() == ""


def test_a_stream_emits_characters_at_once_and_bytes_after_their_run():
    """Catches a decoder that keeps everything until flush, which would pass the test above."""
    tokenizer = CharTokenizer("ab")
    decoder = tokenizer.decoder()
    a, b = tokenizer.encode("ab").tolist()
    assert decoder.feed(a) == "a"
    assert decoder.feed([0xC3]) == ""
    assert decoder.feed([0xA9]) == ""
    assert decoder.feed([b]) == "éb"
    assert decoder.feed([0xC3, a]) == "\ufffda"
    assert decoder.feed([0xC3]) == ""
    assert decoder.flush() == "\ufffd"
    assert decoder.feed([tokenizer.eot_id]) == "<|endoftext|>"


def test_an_invalid_id_does_not_change_the_stream():
    """Catches ids that are stored before they are checked."""
    decoder = CharTokenizer("a").decoder()
    assert decoder.feed([0xC3]) == ""
    with pytest.raises(IndexError, match="decode"):
        decoder.feed([0xA9, 999])
    assert decoder.feed([0xA9]) + decoder.flush() == "é"


def test_layout_of_the_vocabulary():
    """Catches any order other than bytes, characters by code point, separator."""
    tokenizer = CharTokenizer.train("bca" * 2)
    assert tokenizer.characters == "abc"
    assert tokenizer.vocab_size == 260
    assert tokenizer.eot_id == 259
    assert tokenizer.encode("cab").tolist() == [258, 256, 257]
    assert tokenizer.encode("é").tolist() == [0xC3, 0xA9]
    assert tokenizer.decode([259]) == "<|endoftext|>"


def test_training_keeps_the_most_frequent_characters():
    """Catches the first characters instead of the most frequent, a wrong order, and arbitrary ties."""
    assert CharTokenizer.train("zzzyyx", max_chars=2).characters == "yz"
    assert CharTokenizer.train("zzyyxxxw", max_chars=2).characters == "xy"
    assert CharTokenizer.train("ba", max_chars=1).characters == "a"
    assert CharTokenizer.train("ba", max_chars=0).vocab_size == 257
    assert CharTokenizer.train("").vocab_size == 257


def test_training_on_several_texts_adds_their_counts():
    """Catches counts of the last text only, and texts with different largest code points."""
    assert CharTokenizer.train(iter(["aa😀", "bb", "bc"]), max_chars=1).characters == "b"


@pytest.mark.parametrize("text", ["\ud800", "ok \udfff", "\udc80a"])
def test_lone_surrogates_are_refused(text):
    """Catches a UnicodeEncodeError, or a question mark instead."""
    with pytest.raises(ValueError, match=r"^\[encode\] 'text' must not hold a lone surrogate, got U\+D") as caught:
        CharTokenizer("a").encode(text)
    assert not isinstance(caught.value, UnicodeError)
    with pytest.raises(ValueError, match=r"^\[train\] 'text' must not hold a lone surrogate"):
        CharTokenizer.train(text)


def test_invalid_arguments():
    """Catches bytes read as text, a repeated character, and a negative size."""
    with pytest.raises(TypeError, match=r"^\[encode\] 'text' must be a str, got bytes"):
        CharTokenizer("a").encode(b"a")
    with pytest.raises(ValueError, match=r"^\[CharTokenizer\] 'characters' must each occur once, got 'a' twice"):
        CharTokenizer("aba")
    with pytest.raises(ValueError, match=r"^\[train\] 'max_chars' must be at least 0, got -1"):
        CharTokenizer.train("abc", max_chars=-1)


@pytest.mark.parametrize("wrong", [-1, 258, 2**40, -(2**40)])
def test_ids_out_of_range_are_an_index_error(wrong):
    """Catches negative ids counted from the end, and large ones that wrap around in int32."""
    tokenizer = CharTokenizer("a")
    with pytest.raises(IndexError, match=r"^\[decode\] 'ids' must be in 0 \.\.\. 257, got " + str(wrong)):
        tokenizer.decode([256, wrong])
    with pytest.raises(IndexError, match=r"^\[token_text\]"):
        tokenizer.token_text(wrong)
    with pytest.raises(IndexError, match=r"^\[token_bytes\]"):
        tokenizer.token_bytes(wrong)


def test_ids_of_another_type_or_shape():
    """Catches floats truncated to integers, booleans accepted as ids, and rows joined together."""
    tokenizer = CharTokenizer("a")
    with pytest.raises(TypeError, match=r"^\[decode\] 'ids' must be integers, got float64"):
        tokenizer.decode([1.0])
    with pytest.raises(TypeError, match="bool"):
        tokenizer.decode([True])
    with pytest.raises(ValueError, match=r"^\[decode\] 'ids' must have one axis, got shape \(1, 2\)"):
        tokenizer.decode([[1, 2]])
    assert tokenizer.decode([]) == ""
    assert tokenizer.decode(np.array([256, 256], np.uint16)) == "aa"
    assert tokenizer.decode(np.array([0x41], np.uint8)) == "A"


def test_tokens_for_display_and_as_bytes():
    """Catches invisible characters on display, and a separator counted as text in bits per byte."""
    tokenizer = CharTokenizer.train("a \n\té\u200b")
    shown = {tokenizer.token_text(i) for i in range(256, tokenizer.vocab_size)}
    assert shown == {"a", "\u2423", "\\n", "\\t", "é", "\\u200b", "<|endoftext|>"}
    assert tokenizer.token_text(0xE2) == "<0xE2>"
    assert tokenizer.token_bytes(0xE2) == b"\xe2"
    assert tokenizer.token_bytes(tokenizer.eot_id) == b""
    assert visible("a b") == "a\u2423b"


def test_saving_and_loading_keeps_everything(folder, pair):
    """Catches a character changed by JSON or an encoding, and a load that accepts folders only."""
    ours, _ = pair
    for path in (folder, str(folder / "tokenizer.json")):
        again = tinygpt.tokenizers.load(path)
        assert isinstance(again, CharTokenizer)
        assert again.characters == ours.characters
        assert again.eot_id == ours.eot_id


def test_the_order_of_keys_in_the_file_does_not_matter(tmp_path, pair, folder):
    """Catches ids taken from the order in the file instead of its numbers."""
    content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    content["model"]["vocab"] = dict(reversed(content["model"]["vocab"].items()))
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert tinygpt.tokenizers.load(tmp_path).characters == pair[0].characters


def test_hugging_face_writes_the_same_fields(folder, pair):
    """Catches a field that the library would add or drop."""
    assert json.loads(pair[1].to_str()) == json.loads((folder / "tokenizer.json").read_text("utf-8"))


def test_saving_leaves_no_temporary_file_and_replaces(tmp_path):
    """Catches a save that appends, or that is not atomic."""
    CharTokenizer("abc").save(tmp_path / "tokenizer.json")
    CharTokenizer("x").save(tmp_path / "tokenizer.json")
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]
    assert tinygpt.tokenizers.load(tmp_path).characters == "x"


def content_of(tokenizer, folder):
    tokenizer.save(folder)
    return json.loads((folder / "tokenizer.json").read_text("utf-8"))


def vocab_with(vocab, changes, without=()):
    return {**{token: i for token, i in vocab.items() if token not in without}, **changes}


WRONG_CONTENT = {
    "no model": (lambda c: c.pop("model"), "'model' is missing"),
    "model of another type": (lambda c: c.update(model=[1]), "'model' must be an object, got a list of 1"),
    "another kind": (lambda c: c["model"].update(type="Unigram"), "'model.type' must be 'BPE', got 'Unigram'"),
    "merges": (lambda c: c["model"].update(merges=[["a", "b"]]), "'model.merges' must be an empty list"),
    "no merges": (lambda c: c["model"].pop("merges"), "'model.merges' must be an empty list"),
    "no vocabulary": (lambda c: c["model"].pop("vocab"), "'vocab' is missing"),
    "vocabulary is a list": (lambda c: c["model"].update(vocab=[]), "'vocab' must be an object"),
    "no byte fallback": (
        lambda c: c["model"].update(byte_fallback=False),
        "'model.byte_fallback' must be true, got false",
    ),
    "zero for false": (lambda c: c["model"].update(fuse_unk=0), "'model.fuse_unk' must be false, got 0"),
    "missing field": (lambda c: c["model"].pop("byte_fallback"), "'model.byte_fallback' is missing"),
    "unknown field": (lambda c: c["model"].update(extra=1), "'model.extra' is not known here"),
    "unknown part": (lambda c: c.update(extra=1), "'extra' is not known here"),
    "missing part": (lambda c: c.pop("decoder"), "'decoder' is missing"),
    "normalizer": (lambda c: c.update(normalizer={"type": "NFC"}), "'normalizer' must be null, got an object of 1"),
    "special token": (lambda c: c.update(added_tokens=[{"id": 1}]), "'added_tokens' must be [], got a list of 1"),
    "decoder without Fuse": (lambda c: c["decoder"]["decoders"].pop(), "'decoder' must be "),
}


@pytest.mark.parametrize("case", WRONG_CONTENT)
def test_invalid_content_is_one_line(tmp_path, case):
    """Catches a field that changes ids but is ignored, and an error that does not name the file."""
    content = content_of(CharTokenizer("ab"), tmp_path)
    change, message = WRONG_CONTENT[case]
    change(content)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    refused(tmp_path, message)


WRONG_VOCAB = {
    "duplicate id": ({"b": 256}, (), "'model.vocab' has id 256 twice"),
    "gap": ({"b": 300}, (), "so ids must be 0 ... 258, got 300"),
    "negative": ({"b": -1}, (), "got -1"),
    "boolean": ({"b": True}, (), "got true"),
    "float": ({"b": 257.0}, (), "got 257.0"),
    "text": ({"b": "257"}, (), "got '257'"),
    "byte missing": ({"c": 65}, ("<0x41>",), "must have '<0x41>' as id 65, got null"),
    "bytes swapped": ({"<0x41>": 66, "<0x42>": 65}, (), "must have '<0x41>' as id 65, got 66"),
    "a character too late": ({"bc": 256, "a": 257}, ("b",), "must have a special token as id 257, got 'a'"),
    "no character": ({"": 257}, ("b",), "must have one character as id 257, got ''"),
    "surrogate": ({"\ud800": 257}, ("b",), "must not have lone surrogates, got '\\ud800' as id 257"),
    "no separator": ({"c": 258}, ("<|endoftext|>",), "must have '<|endoftext|>' as its last id"),
    "separator not last": ({"b": 258, "<|endoftext|>": 257}, (), "must have '<|endoftext|>' as its last id"),
}


@pytest.mark.parametrize("case", WRONG_VOCAB)
def test_an_invalid_vocabulary_is_one_line(tmp_path, case):
    """Catches an id that would be read out of range, and a token that could never be decoded."""
    content = content_of(CharTokenizer("ab"), tmp_path)
    changes, without, message = WRONG_VOCAB[case]
    content["model"]["vocab"] = vocab_with(content["model"]["vocab"], changes, without)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    refused(tmp_path, message)


def test_only_bytes_and_an_empty_vocabulary(tmp_path):
    """Catches an IndexError for a vocabulary without a last token."""
    content = content_of(CharTokenizer(""), tmp_path)
    del content["model"]["vocab"]["<|endoftext|>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    refused(tmp_path, "must have '<|endoftext|>' as its last id")
    content["model"]["vocab"] = {}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    refused(tmp_path, "must have '<0x00>' as id 0, got null")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "must be JSON"),
        (b'{"model": {', "must be JSON"),
        (b"[1, 2]", "must hold an object, got a list of 2"),
        (b"null", "must hold an object, got null"),
        (b'{"a": "\xff"}', "must be UTF-8, got byte 0xFF at 7"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "an object has the key 'c' twice"),
        (b"[" * 200_000, "must be JSON of at most 100 levels"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "digits"),
        (b'{"model": {"type": "' + b"x" * 10_000 + b'"}}', "xxx..."),
    ],
)
def test_invalid_files(tmp_path, data, message):
    """Catches a traceback of the parser, a duplicate key that silently overrides the first, and a very long error."""
    (tmp_path / "tokenizer.json").write_bytes(data)
    refused(tmp_path, message)


def test_a_huge_file_is_not_read(tmp_path, monkeypatch):
    """Catches a reader that loads a file of any size into memory."""
    monkeypatch.setattr(json_file, "MAX_BYTES", 1000)
    CharTokenizer("ab").save(tmp_path)
    refused(tmp_path, "must be at most 1000 bytes long, got ")


def test_missing_files(tmp_path):
    """Catches an error that names the folder when a file in it is missing."""
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json: no such file"):
        tinygpt.tokenizers.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere: no such file"):
        tinygpt.tokenizers.load(tmp_path / "nowhere")


def refused(folder, message):
    """Assert that loading fails with one line that begins with the file's name."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        tinygpt.tokenizers.load(folder)
    line = str(caught.value)
    assert line.startswith(f"{folder / 'tokenizer.json'}: ")
    assert message in line
    assert "\n" not in line
    assert len(line) < 400 + len(str(folder))


def test_the_package_loads_on_first_use():
    """Catches a top-level import that makes `import tinygpt.tokenizers` load NumPy."""
    code = "import sys, tinygpt.tokenizers as t; assert 'numpy' not in sys.modules; t.CharTokenizer.train('a')"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        tinygpt.tokenizers.nothing  # noqa: B018
    assert set(tinygpt.tokenizers.__all__) <= set(dir(tinygpt.tokenizers))
