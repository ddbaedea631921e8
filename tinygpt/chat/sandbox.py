"""Jinja's sandbox with limits on time and memory, for untrusted chat templates.

Jinja's sandbox keeps a template away from Python's internals, but a short template can still request any amount of time
or memory. These limits are far above the needs of a chat template:

    steps                   at most STEPS: items that loops and filters visit, calls, operators
    characters              at most SIZE in a text, in a list with everything inside it, and in the output
    numbers                 at most BITS in a product or power
    filters, text methods   only FILTERS and METHODS, because others pad or format to any width

Design
- When a template is parsed, every ``for``, every literal list and every ``~`` gets a filter that counts. Jinja has
  hooks for calls, operators, filters and output, so that nothing else can grow. An item counts every time a list
  contains it, otherwise nested lists of the same list would seem small.
- Rejected: a separate process with limits of the operating system. It takes longer to start than most answers take to
  begin, and not every system has such limits.
- Rejected: a signal after some seconds. Only the main thread receives signals, and they do not limit memory.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import ext, nodes, parser, sandbox
from jinja2.visitor import NodeTransformer

STEPS = 100_000
WRITTEN = 100_000_000  # characters of a template that all steps together may output
SIZE = 1_000_000
BITS = 4096
FILTERS = (
    "abs", "attr", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "groupby",
    "int", "items", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "reverse", "safe",
    "select", "selectattr", "sort", "string", "title", "trim", "unique", "upper",
)  # fmt: skip
METHODS = (
    "capitalize", "count", "endswith", "find", "index", "isalnum", "isalpha", "isascii", "isdecimal", "isdigit",
    "isidentifier", "islower", "isnumeric", "isprintable", "isspace", "istitle", "isupper", "join", "lower", "lstrip",
    "partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex", "rpartition", "rsplit", "rstrip",
    "split", "splitlines", "startswith", "strip", "swapcase", "title", "upper",
)  # fmt: skip


class TooMuch(Exception):
    """Raised when a template exceeds a limit."""


class Environment(sandbox.ImmutableSandboxedEnvironment):
    """Jinja environment of chat templates: the environment of ``transformers``, with limits."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[ext.loopcontrols, _Generation], finalize=self.write
        )
        filters: dict[str, Callable[..., Any]] = {name: self.filters[name] for name in FILTERS}
        filters |= {"tojson": _tojson, "replace": _replaced, "join": _join_filter, "sum": _sum_filter}
        filters |= {_MEASURED: lambda value: value, _JOINED: _joined}
        self.filters = {name: self._limited(function) for name, function in filters.items()}
        self.filters[_COUNTED] = self.counted
        self.globals = {name: self.globals[name] for name in ("range", "dict", "namespace")}
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
        self.left = self.room = 0

    def start(self, template_size: int) -> None:
        """Reset the counts for a template of `template_size` characters; a step outputs at most all of them."""
        self.left, self.room = min(STEPS, WRITTEN // max(1, template_size)), SIZE

    def spend(self, steps: int = 1) -> None:
        """Count steps."""
        self.left -= steps
        if self.left < 0:
            raise TooMuch("takes too many steps")

    def write(self, value: Any) -> Any:
        """Count output; Jinja calls this for the value of every expression that is written."""
        self.room -= measure(value)
        check_size(SIZE - self.room)
        return value

    def counted(self, items: Iterable[Any]) -> Iterator[Any]:
        """Count the items of a loop."""
        for item in items:
            self.spend()
            yield item

    def _limited(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a filter so that its arguments are measured."""

        @functools.wraps(function)  # keeps the marks that Jinja puts on filters
        def limited(*args: Any, **kwargs: Any) -> Any:
            self._measure_all(args, kwargs)
            return function(*args, **kwargs)

        return limited

    def _measure_all(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> None:
        given = [*args, *kwargs.values()]
        self.spend(1 + sum(len(one) for one in given if isinstance(one, (list, tuple, dict, range))))
        check_size(sum(map(measure, given)))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _Limits().visit(super()._parse(source, name, filename))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Measure and make a call in a template."""
        __self._measure_all(args, kwargs)
        owner, method = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str) and method in ("replace", "join"):
            return _replaced(owner, *args[:3]) if method == "replace" else _joined(args[0] if args else (), owner)
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Count, check and apply an operator in a template."""
        self.spend()
        _check_operation(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Tell whether a template may read an attribute."""
        known = attr in METHODS if isinstance(obj, str) else not isinstance(obj, (bytes, int, float))
        return known and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """Return None, so that `is_safe_attribute` refuses methods that format."""


_COUNTED, _MEASURED, _JOINED = "tinygpt_counted", "tinygpt_measured", "tinygpt_joined"


class _Limits(NodeTransformer):
    """Transformer that inserts the counting filters into a parsed template."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 - a name that the visitor searches for
        self.generic_visit(node)  # changes the node in place
        node.iter = _filter(node.iter, _COUNTED)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), _JOINED)

    def visit_List(self, node: nodes.List | nodes.Dict) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        return _filter(node, _MEASURED)

    visit_Dict = visit_List  # noqa: N815

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return _filter(node, _MEASURED) if node.ctx == "load" else node


def _filter(node: Any, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class _Generation(ext.Extension):
    """The block ``{% generation %}``, which marks the words of the model; only training uses the mark."""

    tags = {"generation"}  # noqa: RUF012 - as in the base class

    def parse(self, parser: parser.Parser) -> nodes.Node:
        """Parse the block as if it were not marked."""
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def measure(value: Any) -> int:
    """Count the characters and items of a value, with everything in it.

    Raises
    ------
    TooMuch
        There are more than SIZE; counting stops there.
    """
    size, waiting = 0, [value]
    while waiting:
        one = waiting.pop()
        size += len(one) if isinstance(one, (str, list, tuple, dict, range)) else 1
        check_size(size)
        if isinstance(one, (list, tuple)):
            waiting += one
        elif isinstance(one, dict):
            waiting += [*one.keys(), *one.values()]
    return size


def check_size(size: int) -> None:
    """Raise TooMuch if a size is above SIZE."""
    if size > SIZE:
        raise TooMuch(f"makes more than {SIZE:,} characters")


def _check_operation(operator: str, left: Any, right: Any) -> None:
    """Raise TooMuch before an operator makes a value that is too large."""
    if operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * max(0, right) if operator == "**" else left.bit_length() + right.bit_length()
        if bits > BITS:
            raise TooMuch(f"makes a number of more than {BITS} bits")
    elif operator == "%" and isinstance(left, str):
        raise ValueError("the operator % does not format text in chat templates")
    elif operator == "+":
        check_size(measure(left) + measure(right))
    elif operator == "*":
        for held, n in ((left, right), (right, left)):
            check_size(measure(held) * n if isinstance(n, int) else 0)


def _joined(parts: Iterable[Any], between: str = "") -> str:
    """Join the text of all parts, after a check of the total size."""
    texts = [str(part) for part in parts]
    check_size(sum(map(len, texts)) + len(between) * len(texts))
    return between.join(texts)


def _replaced(text: Any, old: str, new: str, count: int | None = None) -> str:
    """Replace text as str.replace does, after a check of the resulting size."""
    text, found = str(text), str(text).count(old)
    found = found if count is None or count < 0 else min(count, found)
    check_size(len(text) + found * (len(new) - len(old)))
    return text.replace(old, new, found)


def _join_filter(value: Iterable[Any], d: str = "", attribute: str | None = None) -> str:
    if attribute is not None:
        raise ValueError("the filter 'join' takes no attribute in chat templates")
    return _joined(value, d)


def _sum_filter(value: Iterable[Any], attribute: str | None = None, start: float = 0) -> float:
    numbers = [start, *(item if attribute is None else item[attribute] for item in value)]
    if not all(isinstance(number, (int, float)) for number in numbers):
        raise ValueError("the filter 'sum' adds nothing but numbers in chat templates")
    return sum(numbers)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Write JSON as transformers does; Jinja's own filter escapes characters of HTML."""
    if not (indent is None or (isinstance(indent, int) and indent <= 16)):
        raise ValueError("the filter 'tojson' indents by at most 16 in chat templates")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: object) -> None:
    raise jinja2.TemplateError(str(message))


def _strftime_now(form: str) -> str:
    if len(form) > 100 or any(character.isdigit() for character in form):  # %9999d would pad
        raise ValueError("strftime_now takes a short format without widths")
    return datetime.now().strftime(form)
