"""Tokenizer files as other programs save them: the same ids as transformers from the same directory."""

import json
import os

import pytest

import tinygpt.tokenizers
from tinygpt.chat.conversation import MessageEncoder
from tinygpt.chat.template import ChatTemplate
from tinygpt.tokenizers import BPETokenizer, CharTokenizer
from tinygpt.tokenizers.bpe_parts import to_letters

from .conftest import require

os.environ["HF_HUB_OFFLINE"] = "1"  # before the import of transformers: no test needs the network
peer = require("tokenizers")
transformers = require("transformers")
transformers.utils.logging.set_verbosity_error()

TEXT = "def default(a, b):\n    return a + b  # 12\n"
CHAT = "<|im_start|>user\nWhat is def?<|im_end|>\n<|im_start|>assistant\n<|tool|>"
NAMES = ["<|im_start|>", "<|im_end|>", "<|tool|>"]
FIRST = BPETokenizer.train(TEXT * 4, 280, "gpt4").vocab_size  # the id of the first added token


def write(file, content):
    file.write_text(json.dumps(content), encoding="utf-8")


def trained(folder, **config):
    """A directory whose tokenizer.json has the separator as its only special token."""
    BPETokenizer.train(TEXT * 4, FIRST, "gpt4").save(folder)
    write(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **config})
    return folder


def gpt2_files(folder, **config):
    """A directory with vocab.json and merges.txt, and no tokenizer.json."""
    parts = BPETokenizer.train(TEXT * 4, FIRST, "gpt2").parts
    vocab = {to_letters(token): i for token, i in parts.vocab.items()} | parts.special_tokens
    write(folder / "vocab.json", vocab)
    lines = "".join(f"{to_letters(left)} {to_letters(right)}\n" for left, right in parts.merges)
    (folder / "merges.txt").write_text("#version: 0.2\n" + lines, encoding="utf-8")
    write(folder / "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", **config})
    return folder


def added(first, **flags):
    plain = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    return {str(i): {"content": name, **plain, **flags} for i, name in enumerate(NAMES, first)}


def check(folder, texts=(CHAT, TEXT, "", " def", "redefine<|endoftext|>x")):
    """Assert that both give the same ids with and without special tokens, and the same vocabulary size."""
    ours = tinygpt.tokenizers.load(folder)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert ours.vocab_size == len(theirs)
    for text in texts:
        wanted = theirs(text)["input_ids"]
        ids = ours.encode(text, special=True).tolist()
        assert ([] if ours.bos_id is None else [ours.bos_id]) + ids == wanted
        assert ours.decode(ids) == theirs.decode(wanted, skip_special_tokens=False).removeprefix(
            theirs.bos_token if ours.bos_id is not None else ""
        )
    return ours, theirs


PLACES = {
    "added_tokens_decoder": ({"added_tokens_decoder": added(FIRST)}, {}),
    "of plain tokens": ({"added_tokens_decoder": added(FIRST, special=False, normalized=True)}, {}),
    "additional_special_tokens": ({"additional_special_tokens": NAMES}, {}),
    "extra_special_tokens": ({"extra_special_tokens": NAMES}, {}),
    "roles": ({"eos_token": NAMES[1], "bos_token": NAMES[0], "additional_special_tokens": [NAMES[2]]}, {}),
    "special_tokens_map": (
        {},
        {"special_tokens_map.json": {"eos_token": {"content": NAMES[1]}, "additional_special_tokens": NAMES}},
    ),
    "map and config": ({"eos_token": "<|endoftext|>"}, {"special_tokens_map.json": {"eos_token": NAMES[1]}}),
    "added_tokens": ({}, {"added_tokens.json": {name: i for i, name in enumerate(NAMES, FIRST)}}),
    "added_tokens, special": (
        {"additional_special_tokens": NAMES[::-1]},
        {"added_tokens.json": {name: i for i, name in enumerate(NAMES, FIRST)}},
    ),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("make", [trained, gpt2_files])
def test_tokens_that_tokenizer_json_does_not_name(tmp_path, make, place):
    """Catches chat tokens split into pieces, and added tokens with other ids than in transformers."""
    config, files = PLACES[place]
    folder = make(tmp_path, **config)
    for name, content in files.items():
        write(folder / name, content)
    ours, theirs = check(folder)
    if theirs.eos_token is not None:
        assert theirs.eos_token_id in ours.end_ids
    saved = tmp_path / "saved"
    saved.mkdir()
    ours.save(saved)
    write(saved / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **ours.config_fields()})
    again, _ = check(saved)
    assert again.special_tokens == ours.special_tokens
    assert again.end_ids == ours.end_ids


@pytest.mark.parametrize("kind", ["bytes", "characters"])
def test_saved_padding_and_truncation_are_ignored(tmp_path, kind):
    """Catches a file refused because its program last padded and truncated."""
    folder = trained(tmp_path, pad_token="<|endoftext|>")
    if kind == "characters":
        CharTokenizer.train(TEXT).save(folder)
        write(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    theirs.pad_token = theirs.pad_token or "a"
    theirs(["a", TEXT], padding=True, truncation=True, max_length=8)
    theirs.save_pretrained(tmp_path / "saved")
    content = json.loads((tmp_path / "saved" / "tokenizer.json").read_text("utf-8"))
    if kind == "characters":
        content["added_tokens"] = []  # the padding token is an ordinary character here
        write(tmp_path / "saved" / "tokenizer.json", content)
    assert content["truncation"] is not None
    assert content["padding"] is not None
    ours = tinygpt.tokenizers.load(tmp_path / "saved")
    assert ours.encode(TEXT).tolist() == tinygpt.tokenizers.load(folder).encode(TEXT).tolist()
    if kind == "bytes":
        check(tmp_path / "saved", [TEXT])


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("ignore_merges", [False, True])
def test_an_added_token_that_is_also_a_merge(tmp_path, special, ignore_merges):
    """Catches a token refused because it is in the vocabulary, and words that no longer merge through it."""
    folder = trained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    theirs.add_tokens(["def", "12"], special_tokens=special)
    theirs.save_pretrained(folder)
    content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    content["model"]["ignore_merges"] = ignore_merges
    write(folder / "tokenizer.json", content)
    ours, theirs = check(folder, [TEXT, "def", "undefined default", "112", "d ef"])
    raw = peer.Tokenizer.from_file(str(folder / "tokenizer.json"))
    raw.encode_special_tokens = True
    assert ours.encode(TEXT).tolist() == raw.encode(TEXT, add_special_tokens=False).ids
    shared = ours.special_tokens["def"]
    assert ours.token_bytes(shared) == b"def"
    ours.save(tmp_path / "again.json")
    assert tinygpt.tokenizers.load(tmp_path / "again.json").encode(TEXT).tolist() == ours.encode(TEXT).tolist()


@pytest.mark.parametrize(
    "change",
    [
        {"dropout": 0.0},
        {"continuing_subword_prefix": "", "end_of_word_suffix": ""},
        {"unk_token": "<|endoftext|>", "fuse_unk": True},
        {"byte_fallback": True},
    ],
)
def test_harmless_values(tmp_path, change):
    """Catches a field refused although its value changes nothing."""
    folder = trained(tmp_path)
    content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    content["model"].update(change)
    content["normalizer"] = {"type": "Sequence", "normalizers": []}
    write(folder / "tokenizer.json", content)
    check(folder)


@pytest.mark.parametrize("make", [trained, gpt2_files])
def test_a_begin_token_set_by_the_config_alone(tmp_path, make):
    """Catches a missing begin token, and one added although tokenizer.json decides it."""
    ours, _ = check(make(tmp_path, bos_token="<|endoftext|>", add_bos_token=True, add_eos_token=False))
    assert ours.bos_id == (None if make is trained else ours.eot_id)


TEMPLATES = {
    "tools": "{% if tools is not none %}T{{ tools }}{% endif %}{% if documents is not none %}D{% endif %}x",
    "special tokens": "{{ bos_token }}{{ eos_token }}{{ unk_token }}{{ sep_token }}{{ cls_token }}{{ mask_token }}",
    "undefined": "{{ pad_token is defined }}{{ nothing is defined }}{{ tools is defined }}{{ messages[0].content }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("make", [trained, gpt2_files])
def test_variables_of_a_chat_template(tmp_path, make, name):
    """Catches tools printed in every prompt, and special tokens rendered as nothing."""
    roles = {"bos_token": "<s>", "sep_token": "<sep>", "cls_token": "<cls>", "mask_token": "<m>"}
    folder = make(
        tmp_path,
        eos_token="<|im_end|>",
        chat_template=TEMPLATES[name],
        **roles,
        additional_special_tokens=["<|im_start|>"],
    )
    ours, theirs = check(folder)
    messages = [{"role": "user", "content": "a"}]
    wanted = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert MessageEncoder(ours, ChatTemplate(ours.chat_template)).text(messages) == wanted
