"""Chat templates: how they render messages, and limits on hostile ones."""

import builtins
import sys
import time

import pytest

from tinygpt.chat.sandbox import SIZE, Environment, measure
from tinygpt.chat.template import LONGEST, ChatTemplate

from .talk import CHATML, HEADERS

TALK = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": " c "}]
GROW = "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set ns.x = STEP %}{% endfor %}{{ ns.x }}"


def rendered(text, messages=TALK, **given):
    return ChatTemplate(text, "t.jinja").render(messages, **given)


def test_a_conversation():
    """Catches a lost message, a default system message beside a given one, and a missing start of the answer."""
    system = {"role": "system", "content": "S"}
    turns = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\n c <|im_end|>\n"
    assert rendered(CHATML, answer=False) == "<|im_start|>system\nBe kind<|im_end|>\n" + turns
    assert rendered(CHATML, [system, *TALK]) == f"<|im_start|>system\nS<|im_end|>\n{turns}<|im_start|>assistant\n"


def test_features_of_templates_in_transformers():
    """Catches a missing feature that real templates use: block trimming, variables, functions, filters."""
    text = rendered(HEADERS, variables={"bos_token": "<|begin|>"})
    year = time.strftime("%Y")
    assert text.startswith(f"<|begin|><|start|>system<|end|>\n\nToday: {year}\n<|eot|><|start|>user<|end|>\n\na<|eot|>")
    assert text.endswith("<|start|>user<|end|>\n\nc<|eot|><|start|>assistant<|end|>\n\n")
    assert rendered("{% if true %}\n  {% set x = 1 %}\nx\n{% endif %}\n") == "x\n"
    assert rendered("{{ messages[0] | tojson }}{{ '<é>' | tojson }}") == '{"role": "user", "content": "a"}"<é>"'
    assert rendered(
        "{% for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}{{ m.role }}{% endfor %}"
    ) == ("user")
    assert rendered("{% for m in messages %}{{ loop.index }}{{ loop.length }}{{ loop.last }}{% endfor %}") == (
        "13False23False33True"
    )
    assert rendered("{% generation %}a{{ 1 }}{% endgeneration %}b{{ nothing }}") == "a1b"
    assert rendered(
        "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join('-') }}"
    ) == ("a- c ")


def test_a_template_cannot_change_the_messages():
    """Catches a template with write access to the messages."""
    messages = [dict(message) for message in TALK]
    for text in ("{{ messages.append(1) }}", "{{ messages[0].update(role='x') }}", "{{ messages[0].clear() }}"):
        with pytest.raises(ValueError, match=r"^t\.jinja: "):
            rendered(text, messages)
    assert messages == TALK


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{% for m in messages %}", "line 1: Unexpected end of template"),
        ("\n\n{{ x | nofilter }}", "line 3: No filter named 'nofilter'"),
        ("{{ raise_exception('no\nway') }}", "no way"),
        (HEADERS.replace("== 0", "== 1"), "roles must take turns"),
        ("{{ nothing.x }}", "'nothing' is undefined"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{% include 'x' %}", "no loader"),
        ("{{ ''.__class__.__mro__ }}", "access to attribute '__class__' of 'str' object is unsafe"),
        ("{{ raise_exception.__globals__['os'] }}", "access to attribute '__globals__'"),
        ("{{ cycler('a') }}", "'cycler' is undefined"),
        ("x" * (LONGEST + 1), "must have at most"),
    ],
)
def test_errors_are_one_line(text, message):
    """Catches a traceback, an error of several lines, and one that does not name the template."""
    with pytest.raises(ValueError, match=rf"^t\.jinja: .*{message}") as caught:
        rendered(text)
    assert "\n" not in str(caught.value)


HOSTILE = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in range(99999) %}{{ range(99999) | list | length }}{% endfor %}",
    "{% for a in range(99999) %}{{ range(99999) | sum }}{% endfor %}",
    "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(30) }}",
    "{% for a in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "{{ 'a' * 999999999 }}",
    "{{ 9999999 * 'a' }}",
    "{{ [[1] * 1000] * 1000000 }}",
    "{{ 10 ** 9999999999 }}",
    "{{ '%999999999d' % 3 }}",
    "{{ '%999999999d' | format(3) }}",
    "{{ '{:999999999}'.format(1) }}",
    "{{ 'a'.center(999999999) }}",
    "{{ 'a' | center(999999999) }}",
    "{{ 'a' | indent(999999999) }}",
    "{{ 'a'.zfill(999999999) }}",
    "{{ [1] | tojson(indent=999999999) }}",
    "{{ strftime_now('%999999999Y') }}",
    GROW.replace("STEP", "ns.x ~ ns.x"),
    GROW.replace("STEP", "ns.x + ns.x"),
    GROW.replace("STEP", "ns.x | replace('a', 'aa')"),
    GROW.replace("STEP", "ns.x.replace('a', 'aa')"),
    GROW.replace("STEP", "ns.x.join([ns.x, ns.x])"),
    GROW.replace("STEP", "[ns.x, ns.x] | join"),
    GROW.replace("STEP", "[ns.x, ns.x] | sum(start='')"),
    GROW.replace("STEP", "[ns.x, ns.x]"),
    GROW.replace("STEP", "(ns.x, ns.x)"),
    GROW.replace("STEP", "{'a': ns.x, 'b': ns.x}"),
    GROW.replace("STEP", "dict(a=ns.x, b=ns.x)"),
    GROW.replace("STEP", "ns.x | tojson | tojson"),
    "{% set n = namespace(x='aa') %}{% for i in range(99) %}{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}{% endfor %}",
    "{% set x %}{% for i in range(99999) %}" + "a" * 90_000 + "{% endfor %}{% endset %}",
    "{{ 'a' | e" + " | replace('a', '&') | e" * 9000 + " }}",
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:60])
def test_a_hostile_template_is_stopped(text):
    """Catches a short template that takes unbounded time or memory."""
    limit = sys.getrecursionlimit()
    with pytest.raises(ValueError, match=r"^t\.jinja: "):
        rendered(text)
    assert sys.getrecursionlimit() == limit


def test_a_long_conversation_is_within_the_limits():
    """Catches limits too low for real use: a thousand messages, and one of half a million characters."""
    many = [{"role": ("user", "assistant")[i % 2], "content": f"message {i}"} for i in range(1001)]
    assert rendered(HEADERS, many).count("<|eot|>") == 1002
    assert len(rendered(CHATML, [{"role": "user", "content": "a" * 500_000}])) > 500_000


def test_limits_apply_to_each_rendering():
    """Catches limits that add up over several renderings of a template."""
    template = ChatTemplate("{% for i in range(60000) %}{% endfor %}done")
    assert [template.render([]) for _ in range(3)] == ["done"] * 3


def test_measuring_counts_shared_parts_every_time():
    """Catches a nested list measured as small although its output would be huge."""
    value = ["abc"]
    assert measure(value) == 4
    for _ in range(60):
        value = [value, value]
    with pytest.raises(Exception, match=f"more than {SIZE:,}"):
        measure(value)
    assert measure({"ab": ("c",)}) == 1 + 2 + 1 + 1


def test_filters_have_their_names():
    """Catches a filter that a new version of Jinja renamed."""
    assert {"trim", "tojson", "join", "selectattr"} <= Environment().filters.keys()


def test_without_jinja_the_extra_is_named(monkeypatch):
    """Catches a ModuleNotFoundError that does not say what to install."""
    importing = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("jinja2"):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return importing(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, "tinygpt.chat.sandbox")
    monkeypatch.delattr(sys.modules["tinygpt.chat"], "sandbox")
    with pytest.raises(ImportError, match=r"pip install 'tinygpt\[chat\]'"):
        ChatTemplate("")
