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
    """Flags of `tinygpt chat`, one field each."""

    model: str = "runs/tiny"
    """Directory of a model with a chat template, as `tinygpt import` writes it."""
    system: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    """System message. Default: the one in the chat template, if it has one."""
    template: str | None = None
    """File with a chat template (Jinja) that replaces the model's."""
    once: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    """Send one message, print the answer and exit."""
    length: int = 512
    """Maximum length of an answer, in tokens."""
    weights: str = "float32"
    """Type of the weights in memory: float32, or bfloat16 or int8, which are rounded, smaller and faster."""
    quiet: bool = False
    """Print the answers only."""

    def validate(self) -> None:
        """Raise ValueError, naming the flag, for a value out of range."""
        if self.length < 1:
            raise ValueError(f"--length must be at least 1, got {self.length}")
        self.validate_sampling()
        if self.once is not None and not self.once.strip():
            raise ValueError("--once must not be empty")
        for name in ("system", "once"):
            try:
                (getattr(self, name) or "").encode()
            except UnicodeError:
                raise ValueError(f"--{name}: not UTF-8") from None


def chat(options: Annotated[ChatOptions, Parameter(name="*")] = ChatOptions()) -> int:  # noqa: B008
    """Talk with a model that has a chat template.

    On a terminal, Ctrl-C stops an answer, /reset starts a new conversation, and
    /exit or Ctrl-D quits. Otherwise each line of standard input is a message, and
    the answers are written to standard output.
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
        print(f"[{options.model}, seed {seed}; /reset starts over, /exit quits]", file=sys.stderr)
    if terminal:
        _on_terminal(talk)
        return 0
    for line in _lines() if options.once is None else [options.once]:
        talk.answer(line)
    return 0


def _template(options: ChatOptions, tokenizer: Tokenizer):
    """Return the chat template of --template, or the model's own."""
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
    """Yield the messages on standard input: its non-empty lines."""
    try:
        for line in sys.stdin:
            line.encode()  # Python passes bytes that are not UTF-8 as lone surrogates, which fail here
            if line.strip():
                yield line.rstrip("\n")
    except UnicodeError as error:
        raise ValueError(f"standard input: not UTF-8: {getattr(error, 'reason', error)}") from None


class _Talk:
    """Printer of answers, with one remark when the context is full."""

    def __init__(self, conversation: Conversation, context: int, quiet: bool):
        from tinygpt.cli.console import harmless

        self.conversation, self.context, self.quiet = conversation, context, quiet
        self.shown = harmless if sys.stdout.isatty() else str
        self.said: set[str] = set()

    def answer(self, text: str) -> None:
        """Print the answer to a message while it is sampled."""
        try:
            for piece in self.conversation.ask(text):
                sys.stdout.write(self.shown(piece))
                sys.stdout.flush()
        except ValueError:
            raise  # no part of the answer has been printed
        except BaseException:
            print(flush=True)
            raise
        print(flush=True)
        if self.conversation.dropped:
            self._say(f"the context of {self.context:,} tokens is full: the oldest messages are dropped from now on")
        if self.conversation.full:
            self._say(f"the context of {self.context:,} tokens is full: the answer was cut off")

    def _say(self, note: str) -> None:
        if note not in self.said and not self.quiet:
            print(f"[{note}]", file=sys.stderr)
        self.said.add(note)


def _on_terminal(talk: _Talk) -> None:
    """Prompt for messages until the user quits."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives input() line editing and a history
    while True:
        try:
            text = input(PROMPT)
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\n[/exit or Ctrl-D quits]", file=sys.stderr)
            continue
        command = text.strip()
        if command == "/exit":
            return
        if command == "/reset":
            talk.conversation.reset()
            talk.said.clear()
        elif command.startswith("/") and command[1:].isalpha():
            print(f"[{command} is not a command; use /reset or /exit]", file=sys.stderr)
        elif command:
            _answer(talk, text)


def _answer(talk: _Talk, text: str) -> None:
    """Print an answer until Ctrl-C, or an error in one line; the conversation continues in both cases."""
    try:
        text.encode()
        talk.answer(text)
    except KeyboardInterrupt:
        print("[answer stopped]", file=sys.stderr)
    except UnicodeError:
        print("tinygpt: error: the message is not UTF-8", file=sys.stderr)
    except ValueError as error:
        print(f"tinygpt: error: {error}", file=sys.stderr)
