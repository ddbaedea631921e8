"""Chat templates against transformers: the same text and the same ids."""

import pytest
from chat.talk import CHATML, HEADERS, tokenizer

from tinygpt.chat.conversation import MessageEncoder
from tinygpt.chat.template import ChatTemplate

from .conftest import gguf_of_smollm2, require

transformers = require("transformers")

LLAMA_NAMES = ("<|begin|>", "<|start|>", "<|end|>", "<|eot|>")
SYSTEM = {"role": "system", "content": " Be brief.\n"}
TALKS = [
    [{"role": "user", "content": "hi there\n\n  x "}],
    [SYSTEM, {"role": "user", "content": " hé 日本 'quoted' <b>"}],
    [
        SYSTEM,
        {"role": "user", "content": "\n\nif a:\n\tb"},
        {"role": "assistant", "content": "  ok\n"},
        {"role": "user", "content": ""},
        {"role": "assistant", "content": "1 + 1"},
        {"role": "user", "content": "why?"},
    ],
]


def smollm2():
    """The chat template of SmolLM2."""
    return require("gguf").GGUFReader(gguf_of_smollm2()).fields["tokenizer.chat_template"].contents()


def kinds(name):
    """A template of the given name, and a tokenizer with its special tokens."""
    if name == "headers":
        return HEADERS, tokenizer(LLAMA_NAMES, "<|eot|>", "<|begin|>", HEADERS)
    template = CHATML if name == "chatml" else smollm2()
    return template, tokenizer(template=template)


@pytest.mark.parametrize("name", ["chatml", "headers", "smollm2"])
def test_equals_transformers(tmp_path, name):
    """Catches different whitespace rules, a missing variable, and a text split differently."""
    template, known = kinds(name)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    known.save(tmp_path)
    peer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"),
        bos_token=known.roles.bos_token,
        eos_token=known.roles.eos_token,
        chat_template=template,
    )
    encoder = MessageEncoder(known, ChatTemplate(template))
    for messages in TALKS:
        text = peer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert encoder.text(messages) == text
        ids = peer.apply_chat_template(messages, add_generation_prompt=True)
        assert encoder(messages).tolist() == list(ids["input_ids"] if hasattr(ids, "keys") else ids)
