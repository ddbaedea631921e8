"""Files beside tokenizer.json, and parts of tokenizer.json that other programs write."""

import json

import pytest
import tokenizers as peer

import tinygpt.tokenizers
from tinygpt.tokenizers import BPETokenizer, CharTokenizer

TEXT = "def add(a, b):\n    return a + b  # 1234\n"


@pytest.fixture
def folder(tmp_path):
    BPETokenizer.train(TEXT * 4, 300, "gpt4", special_tokens=["<|im_end|>", "<s>"]).save(tmp_path)
    return tmp_path


def with_config(folder, **content):
    (folder / "tokenizer_config.json").write_text(json.dumps(content))
    return tinygpt.tokenizers.load(folder)


def changed(folder, change):
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text("utf-8"))
    change(content)
    file.write_text(json.dumps(content))
    return tinygpt.tokenizers.load(folder)


def refused(folder, file, message, call):
    """Assert that the call fails with one line that begins with the file's name."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        call()
    line = str(caught.value)
    assert line.startswith(f"{folder / file}: ")
    assert message in line
    assert "\n" not in line


def test_roles_and_template_of_the_config(folder):
    """Catches a role that is ignored in either notation, and a template other than the default one."""
    plain = tinygpt.tokenizers.load(folder)
    assert plain.end_ids == {plain.eot_id}
    token = {"__type": "AddedToken", "content": "<|im_end|>", "special": True}
    templates = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "y"}]
    tokenizer = with_config(folder, eos_token=token, bos_token="<s>", pad_token=None, chat_template=templates)
    assert tokenizer.eot_id == plain.eot_id
    assert tokenizer.end_ids == {plain.eot_id, tokenizer.special_tokens["<|im_end|>"]}
    assert tokenizer.bos_id is None
    assert tokenizer.chat_template == "y"
    assert tokenizer.config_fields() == {"eos_token": "<|im_end|>", "bos_token": "<s>", "chat_template": "y"}
    (folder / "chat_template.jinja").write_text("z", "utf-8")
    assert tinygpt.tokenizers.load(folder).chat_template == "z"


def test_the_config_of_characters_has_no_roles(tmp_path):
    """Catches a separator in a character tokenizer's config, which transformers would cut out of texts."""
    CharTokenizer("ab").save(tmp_path)
    assert with_config(tmp_path, eos_token="<e>", chat_template="x").chat_template is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"eos_token": 3}, "'eos_token' must be a string or an object with 'content', got 3"),
        ({"bos_token": {"content": None}}, "'bos_token' must be a string or an object with 'content', got an object"),
        ({"chat_template": 7}, "'chat_template' must be a string, got 7"),
        ({"chat_template": [{"name": "default", "template": 7}]}, "'chat_template' must be a string, got 7"),
        ({"chat_template": [{"name": "rag", "template": "x"}]}, "one template named 'default', got 0"),
        ({"chat_template": ["x"]}, "one template named 'default', got 0"),
        ({"add_prefix_space": True}, "'add_prefix_space' must be false, got true"),
        ({"add_bos_token": 1}, "'add_bos_token' must be true or false, got 1"),
        ({"do_lower_case": True}, "'do_lower_case' must be false, got true"),
        ({"new_option": 1}, "'new_option' is not known here"),
        ({"additional_special_tokens": "<x>"}, "'additional_special_tokens' must be a list, got '<x>'"),
        ({"additional_special_tokens": [None]}, "'additional_special_tokens[0]' must be a string, got null"),
        ({"added_tokens_decoder": {"-1": {"content": "<x>"}}}, "must have ids as keys, got '-1'"),
        ({"added_tokens_decoder": {"400": "<x>"}}, "'added_tokens_decoder.400' must be an object, got '<x>'"),
        ({"added_tokens_decoder": {"400": {"content": "<x>", "lstrip": True}}}, "lstrip' must be false, got true"),
    ],
)
def test_invalid_configs(folder, content, message):
    """Catches a traceback, and a field that changes ids but is ignored."""
    refused(folder, "tokenizer_config.json", message, lambda: with_config(folder, **content))


def test_a_config_with_unknown_tokens(folder):
    """Catches a KeyError, an end token without its own id, and a padding token that enlarges the vocabulary."""
    plain = tinygpt.tokenizers.load(folder)
    tokenizer = with_config(folder, eos_token="<e>")
    assert tokenizer.special_tokens["<e>"] == plain.vocab_size == tokenizer.vocab_size - 1
    assert tokenizer.end_ids == {plain.eot_id, plain.vocab_size}
    tokenizer = with_config(folder, pad_token="<pad>", unk_token="<unk>")
    assert tokenizer.vocab_size == plain.vocab_size
    assert tokenizer.roles.pad_token is tokenizer.roles.unk_token is None
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    refused(folder, "chat_template.jinja", "must be UTF-8, got byte 0xFF at 0", lambda: with_config(folder))


def test_a_separator_with_another_name(folder):
    """Catches a file without <|endoftext|> refused although it names its end token, or accepted although not."""

    def rename(content):
        content["added_tokens"][-1]["content"] = "</s>"
        content["model"]["vocab"]["</s>"] = content["model"]["vocab"].pop("<|endoftext|>")

    message = "must have the separator '<|endoftext|>', or 'eos_token' of tokenizer_config.json name another"
    refused(folder, "tokenizer.json", message, lambda: changed(folder, rename))
    tokenizer = with_config(folder, eos_token="</s>")
    assert tokenizer.eot_id == tokenizer.special_tokens["</s>"]
    assert tokenizer.end_ids == {tokenizer.eot_id}


def template(name="<s>", ids=None, **changes):
    made = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {name: {"id": name, "ids": ids, "tokens": [name]}},
    }
    return {**made, **changes}


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}


def test_post_processors(folder):
    """Catches an ignored begin token, and one taken from a sequence that has none."""
    s = tinygpt.tokenizers.load(folder).special_tokens["<s>"]
    in_sequence = {"type": "Sequence", "processors": [BYTE_LEVEL, template(ids=[s])]}
    nothing = template(ids=[s], single=[{"Sequence": {"id": "A", "type_id": 0}}])
    for processor, bos in [(template(ids=[s]), s), (in_sequence, s), (BYTE_LEVEL, None), (nothing, None), (None, None)]:
        tokenizer = changed(folder, lambda c, processor=processor: c.update(post_processor=processor))
        assert tokenizer.bos_id == bos
        theirs = peer.Tokenizer.from_file(str(folder / "tokenizer.json"))
        assert theirs.encode(TEXT).ids == tokenizer.prompt(TEXT).tolist()


@pytest.mark.parametrize(
    "processor",
    [
        template(ids=[0]),
        template("<x>", ids=[0]),
        template(ids=None),
        template(special_tokens=[]),
        template(single=[{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<s>", "type_id": 0}}]),
        template(single=7),
        {"type": "Sequence", "processors": [template(), template()]},
        {"type": "Sequence", "processors": 7},
        {"type": "RobertaProcessing"},
        "ByteLevel",
    ],
)
def test_other_post_processors_are_refused(folder, processor):
    """Catches a token at the end of a text, or a wrong id, that is ignored."""
    refused(
        folder,
        "tokenizer.json",
        "'post_processor",
        lambda: changed(folder, lambda c: c.update(post_processor=processor)),
    )


@pytest.mark.parametrize("pattern", ["smollm", "qwen2", "gpt4"])
def test_pre_tokenizers_of_real_models(tmp_path, pattern):
    """Catches a real file refused for a field that makes no difference."""
    ours = BPETokenizer.train(TEXT * 4, 300, pattern)
    ours.save(tmp_path)

    def change(content):
        last = content["pre_tokenizer"]["pretokenizers"][-1]
        last["trim_offsets"] = False

    assert changed(tmp_path, change).pattern == pattern


@pytest.mark.parametrize(
    "before",
    [
        {"type": "Digits", "individual_digits": False},
        {"type": "Punctuation", "behavior": "Isolated"},
        {"type": "Split", "pattern": {"String": " "}, "behavior": "Isolated", "invert": False},
        {"type": "Split", "pattern": {"Regex": r"\p{N}"}, "behavior": "Removed", "invert": False},
    ],
)
def test_other_pre_tokenizers_are_refused(folder, before):
    """Catches words split differently from what the file states."""

    def change(content):
        content["pre_tokenizer"]["pretokenizers"][0] = before

    message = f"got another '{before['type']}' and 'ByteLevel'"
    refused(folder, "tokenizer.json", message, lambda: changed(folder, change))


def test_files_that_give_a_token_two_ids(folder):
    """Catches a token with different ids in tokenizer.json and in a file beside it."""
    i = tinygpt.tokenizers.load(folder).special_tokens["<s>"]
    message = f"'added_tokens_decoder' of tokenizer_config.json has '<s>' as id 0, 'added_tokens' as {i}"
    call = lambda: with_config(folder, added_tokens_decoder={"0": {"content": "<s>"}})  # noqa: E731
    refused(folder, "tokenizer.json", message, call)
    message = "there are 303 tokens, so ids must be 0 ... 302, got 400 for '<x>'"
    call = lambda: with_config(folder, added_tokens_decoder={"400": {"content": "<x>"}})  # noqa: E731
    refused(folder, "tokenizer.json", message.replace("303", str(i + 3)).replace("302", str(i + 2)), call)


def test_several_end_tokens(folder):
    """Catches generation that does not stop at the second end token, and an id beyond the vocabulary."""
    plain = tinygpt.tokenizers.load(folder)
    (folder / "config.json").write_text('{"eos_token_id": [5, 70000]}')
    assert tinygpt.tokenizers.load(folder).end_ids == {plain.eot_id, 5}
    (folder / "generation_config.json").write_text('{"eos_token_id": 7}')
    assert tinygpt.tokenizers.load(folder).end_ids == {plain.eot_id, 5, 7}
    for wrong in ("true", '"x"', "[1.0]", "{}"):
        (folder / "generation_config.json").write_text(f'{{"eos_token_id": {wrong}}}')
        refused(folder, "generation_config.json", "'eos_token_id' must be an id or", lambda: with_config(folder))
