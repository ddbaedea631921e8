"""Chat templates of the two common kinds, and a tokenizer with their special tokens."""

from tinygpt.tokenizers import BPETokenizer
from tinygpt.tokenizers.special import Roles

# ChatML, with a default system message.
CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}{{ '<|im_start|>system\nBe kind<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As in Llama 3: headers, trimmed content, a begin token, a date.
HEADERS = """{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set system = '' %}
    {%- set rest = messages %}
{%- endif %}
{{- '<|start|>system<|end|>\\n\\n' }}
{{- 'Today: ' ~ strftime_now('%Y') ~ '\\n' }}
{{- system + '<|eot|>' }}
{%- for message in rest %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must take turns') }}
    {%- endif %}
    {%- if message.role in ['user', 'assistant'] %}
        {{- '<|start|>' ~ message.role ~ '<|end|>\\n\\n' ~ (message.content | trim) ~ '<|eot|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start|>assistant<|end|>\\n\\n' }}
{%- endif %}"""

NAMES = ("<|im_start|>", "<|im_end|>")
TEXT = "Be kind. user system assistant hello there, what is 1 + 1?\n" * 9


def tokenizer(names=NAMES, eos="<|im_end|>", bos=None, template=CHATML):
    """A BPE tokenizer with the special tokens of a chat; `eos` ends the model's turn."""
    plain = BPETokenizer.train(TEXT, 300, "gpt2", names)
    vocab = {plain.token_bytes(i): i for i in range(plain.vocab_size) if i not in plain.special_tokens.values()}
    roles = Roles(eos_token=eos, bos_token=bos, chat_template=template)
    return BPETokenizer(vocab, (), "gpt2", plain.special_tokens, roles=roles)
