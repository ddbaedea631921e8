"""Chat templates: render messages to one text with a model's Jinja template, as ``transformers`` does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

LONGEST = 100_000  # characters of a template

Message = dict[str, str]


class ChatTemplate:
    """A compiled chat template.

    Parameters
    ----------
    text : str
        The template in Jinja. It is untrusted and runs in the sandbox of tinygpt/chat/sandbox.py.
    name : str
        Name for error messages, which begin with it.

    Raises
    ------
    ImportError
        The package `jinja2` is not installed.
    ValueError
        The template is too long, or is not a template.
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
        self, messages: Sequence[Message], answer: bool = True, variables: Mapping[str, object] | None = None
    ) -> str:
        """Render a conversation.

        Parameters
        ----------
        messages : sequence of dict
            Each with ``role`` and ``content``.
        answer : bool
            Add the beginning of an answer (``add_generation_prompt``).
        variables : mapping of str to object, optional
            Further variables of the template, such as ``bos_token``.

        Returns
        -------
        str

        Raises
        ------
        ValueError
            The template refuses the messages, fails, or exceeds a limit.
        """
        self._environment.start(self._size)
        with _named(self.name):
            given = [dict(message) for message in messages]
            # transformers always passes these two, so templates test them for none, not for being defined.
            always = {"tools": None, "documents": None}
            return self._template.render(
                {**always, **(variables or {}), "messages": given, "add_generation_prompt": answer}
            )


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Turn any failure of a template into one ValueError with its name."""
    from jinja2 import TemplateError, TemplateSyntaxError

    from tinygpt.chat.sandbox import TooMuch

    # A template is a program, so it can cause any of Python's ordinary errors.
    ordinary = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError, MemoryError)
    try:
        yield
    except TemplateSyntaxError as error:
        raise ValueError(f"{name}: line {error.lineno}: {_one_line(error.message or 'not a template')}") from None
    except (TemplateError, TooMuch, *ordinary) as error:
        raise ValueError(f"{name}: {_one_line(str(error)) or type(error).__name__}") from None


def _one_line(text: str) -> str:
    return " ".join(text.split())[:500]
