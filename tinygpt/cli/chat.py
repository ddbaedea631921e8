"""`tinygpt chat`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tinygpt.cli.options import Sampling, load_model

if TYPE_CHECKING:
    from tinygpt.chat.conversation import Conversation
    from tinygpt.tokenizers.base import Tokenizer

PROMPT = "> "


@dataclass(kw_only=True)
class ChatOptions(Sampling):
    """One field per flag."""

    model: str = "runs/tiny"
    """Directory of a model that carries a chat template, as `tinygpt import` writes it."""
    system: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    """What the model is told before anything else; the template may have a text of its own."""
    template: str | None = None
    """File with a chat template (Jinja) instead of the model's."""
    once: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    """Say this, print the answer, and end."""
    length: int = 512
    """Tokens of an answer at most."""
    weights: str = "float32"
    """How weights are kept in memory: float32, or rounded to bfloat16 or to int8 blocks, which is faster."""
    quiet: bool = False
    """Print the answers only."""

    def validate(self) -> None:
        """Raise ValueError, naming the flag, for a value out of range."""
        if self.length < 1:
            raise ValueError(f"--length must be at least 1, got {self.length}")
        self.validate_sampling()
        for name in ("system", "once"):
            try:
                (getattr(self, name) or "").encode()
            except UnicodeError:
                raise ValueError(f"--{name}: not UTF-8") from None


def chat(options: Annotated[ChatOptions, Parameter(name="*")] = ChatOptions()) -> int:  # noqa: B008
    """Talk with a model that carries a chat template.

    On a terminal, Ctrl-C ends an answer, /reset begins anew, /exit or Ctrl-D
    leaves. Without one, every line of standard input is a message, and the
    answers go to standard output.
    """
    import secrets

    from tinygpt.chat.conversation import Conversation, MessageEncoder

    options.validate()
    options.apply()
    seed = secrets.randbelow(2**31) if options.seed is None else options.seed
    model, tokenizer = load_model(options.model, options.weights)
    encoder = MessageEncoder(tokenizer, _template(options, tokenizer))
    talk = _Talk(
        Conversation(model, encoder, options.sampler(seed), options.length, options.system),
        model.config.block_size,
        options.quiet,
    )
    terminal = options.once is None and sys.stdin.isatty()
    if terminal and not options.quiet:
        print(f"[{options.model}, seed {seed}; /reset begins anew, /exit leaves]", file=sys.stderr)
    if terminal:
        _on_terminal(talk)
        return 0
    for line in _lines() if options.once is None else [options.once]:
        talk.answer(line)
    return 0


def _template(options: ChatOptions, tokenizer: Tokenizer):
    """The template of --template, or the model's."""
    from tinygpt.chat.template import ChatTemplate

    if options.template is not None:
        try:
            return ChatTemplate(Path(options.template).read_text(encoding="utf-8"), options.template)
        except UnicodeError:
            raise ValueError(f"{options.template}: not UTF-8") from None
    if tokenizer.chat_template is None:
        raise ValueError(f"{options.model}: the model has no chat template; give one with --template FILE")
    return ChatTemplate(tokenizer.chat_template, f"{options.model}: chat template")


def _lines() -> Iterator[str]:
    """The messages on standard input: the lines that are not empty."""
    try:
        for line in sys.stdin:
            line.encode()  # Python hands on bytes that are not UTF-8 as lone surrogates
            if line.strip():
                yield line.rstrip("\n")
    except UnicodeError as error:
        raise ValueError(f"standard input: not UTF-8: {getattr(error, 'reason', error)}") from None


class _Talk:
    """Prints answers, and says once what became of older messages."""

    def __init__(self, conversation: Conversation, context: int, quiet: bool):
        from tinygpt.cli.console import harmless

        self.conversation, self.context, self.quiet = conversation, context, quiet
        self.shown = harmless if sys.stdout.isatty() else str
        self.said: set[str] = set()

    def answer(self, text: str) -> None:
        """Print the answer to a message as it comes."""
        try:
            for piece in self.conversation.ask(text):
                sys.stdout.write(self.shown(piece))
                sys.stdout.flush()
        except ValueError:
            raise  # nothing of an answer has been printed
        except BaseException:
            print(flush=True)
            raise
        print(flush=True)
        if self.conversation.dropped:
            self._say(f"the context of {self.context:,} is full: the oldest messages are forgotten from here on")
        if self.conversation.full:
            self._say(f"the context of {self.context:,} is full: the answer ends here")

    def _say(self, note: str) -> None:
        if note not in self.said and not self.quiet:
            print(f"[{note}]", file=sys.stderr)
        self.said.add(note)


def _on_terminal(talk: _Talk) -> None:
    """Ask for messages until the user leaves."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - input() then edits lines, and knows the ones before
    while True:
        try:
            text = input(PROMPT)
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\n[/exit or Ctrl-D leaves]", file=sys.stderr)
            continue
        command = text.strip()
        if command == "/exit":
            return
        if command == "/reset":
            talk.conversation.reset()
            talk.said.clear()
        elif command.startswith("/") and command[1:].isalpha():
            print(f"[{command} is no command: there are /reset and /exit]", file=sys.stderr)
        elif command:
            _answer(talk, text)


def _answer(talk: _Talk, text: str) -> None:
    """An answer that Ctrl-C ends, or an error in one line; the conversation goes on."""
    try:
        text.encode()
        talk.answer(text)
    except KeyboardInterrupt:
        print("[the answer ends here]", file=sys.stderr)
    except UnicodeError:
        print("tinygpt: error: the message is not UTF-8", file=sys.stderr)
    except ValueError as error:
        print(f"tinygpt: error: {error}", file=sys.stderr)
