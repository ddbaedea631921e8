"""Messages to one text by the Jinja template that a model carries, as ``transformers`` renders it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

LONGEST = 100_000  # characters of a template

Message = dict[str, str]


class ChatTemplate:
    """A chat template, compiled.

    Parameters
    ----------
    text : str
        Is not trusted: see tinygpt/chat/sandbox.py.
    name : str
        What an error calls it.

    Raises
    ------
    ImportError
        jinja2 is not there.
    ValueError
        The template is too long, or is none.
    """

    def __init__(self, text: str, name: str = "chat template"):
        try:
            from tinygpt.chat import sandbox
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "jinja2":
                raise
            raise ImportError("a chat template needs jinja2: pip install 'tinygpt[chat]'") from None
        self.name, self._size = name, len(text)
        if len(text) > LONGEST:
            raise ValueError(f"{name}: must have at most {LONGEST:,} characters, has {len(text):,}")
        self._environment = sandbox.Environment()
        with _named(name):
            self._template = self._environment.from_string(text)

    def render(
        self, messages: Sequence[Message], answer: bool = True, variables: Mapping[str, str] | None = None
    ) -> str:
        """The text of a conversation.

        Parameters
        ----------
        messages : sequence of dict
            Each with ``role`` and ``content``.
        answer : bool
            Add what begins an answer (``add_generation_prompt``).
        variables : mapping of str to str, optional
            More names for the template, such as ``bos_token``.

        Returns
        -------
        str

        Raises
        ------
        ValueError
            The template refuses the messages, fails, or does too much.
        """
        self._environment.start(self._size)
        with _named(self.name):
            given = [dict(message) for message in messages]
            return self._template.render(dict(variables or {}, messages=given, add_generation_prompt=answer))


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Make one ValueError, with the template's name, of all that a template can do wrong."""
    from jinja2 import TemplateError, TemplateSyntaxError

    from tinygpt.chat.sandbox import TooMuch

    # A template is a program: of what Python raises it can cause any of the ordinary errors.
    ordinary = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError, MemoryError)
    try:
        yield
    except TemplateSyntaxError as error:
        raise ValueError(f"{name}: line {error.lineno}: {_one_line(error.message or 'no template')}") from None
    except (TemplateError, TooMuch, *ordinary) as error:
        raise ValueError(f"{name}: {_one_line(str(error)) or type(error).__name__}") from None


def _one_line(text: str) -> str:
    return " ".join(text.split())[:500]
