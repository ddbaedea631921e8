"""A conversation: messages to tokens, answers, and what is kept from turn to turn."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from tinygpt.chat.template import ChatTemplate, Message
from tinygpt.data.infilling import never_drawn
from tinygpt.decoding import steps
from tinygpt.model import GPT
from tinygpt.sampling import Sampler
from tinygpt.tokenizers.base import SEPARATOR, Tokenizer
from tinygpt.tokenizers.special import Roles

Ids = npt.NDArray[np.int32]

NONCHARACTERS = "".join(map(chr, range(0xFDD0, 0xFDF0)))  # code points that Unicode keeps free for use inside programs


class MessageEncoder:
    """Messages to ids, so that special tokens come from the template alone.

    What the template is given has a random mark within each name of a special token, and it is taken out again once the
    rendered text has been cut at the names that are left. Between two special tokens the text is encoded as a whole: so
    for messages without such names the ids are those of ``apply_chat_template`` in transformers.

    Parameters
    ----------
    tokenizer : Tokenizer
    template : ChatTemplate
    """

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate):
        self.tokenizer, self.template = tokenizer, template
        names = sorted(tokenizer.special_tokens, key=len, reverse=True)
        self._names = re.compile("|".join(map(re.escape, names)))
        # Parts of names: two messages, or a message and the template, could make a name together.
        self._begins = {name[:n] for name in names for n in range(1, len(name))}
        self._ends = {name[n:] for name in names for n in range(1, len(name))}
        self._longest = len(names[0])
        roles: Roles = getattr(tokenizer, "roles", Roles(eos_token=SEPARATOR))
        self._variables: dict[str, object] = {**roles.names()}
        if roles.additional:
            self._variables["additional_special_tokens"] = list(roles.additional)

    def text(self, messages: Sequence[Message]) -> str:
        """What the template makes of messages."""
        return self.template.render(messages, variables=self._variables)

    def __call__(self, messages: Sequence[Message]) -> Ids:
        """The ids of messages, and of what begins an answer.

        Parameters
        ----------
        messages : sequence of dict
            Each with ``role`` and ``content``.

        Returns
        -------
        int32 array, shape (n,)

        Raises
        ------
        ValueError
            As `ChatTemplate.render`; or nothing is left.
        """
        mark = "".join(secrets.choice(NONCHARACTERS) for _ in range(24))
        marked = [message | {"content": self._shield(message["content"], mark)} for message in messages]
        text = self.text(marked)
        parts, start = [np.empty(0, np.int32)], 0
        for found in self._names.finditer(text):
            parts.append(self._plain(text[start : found.start()], mark))
            parts.append(np.array([self.tokenizer.special_tokens[found[0]]], np.int32))
            start = found.end()
        parts.append(self._plain(text[start:], mark))
        ids = np.concatenate(parts)
        if not ids.size:
            raise ValueError(f"{self.template.name}: makes nothing of the messages")
        return ids

    def _plain(self, text: str, mark: str) -> Ids:
        return self.tokenizer.encode(text.replace(mark, ""))

    def _shield(self, content: str, mark: str) -> str:
        """Content in which no name of a special token is left, nor a part of one at its ends."""
        content = self._names.sub(lambda found: mark.join(found[0]), content)
        first, last = len(content) - len(content.lstrip()), len(content.rstrip())
        lengths = range(1, self._longest)
        if any(content[last - n : last] in self._begins for n in lengths if n <= last):
            content = content[:last] + mark + content[last:]
        if any(content[first : first + n] in self._ends for n in lengths):
            content = content[:first] + mark + content[first:]
        return content


class Conversation:
    """Messages, and the keys and values of what the model has read.

    Parameters
    ----------
    model : GPT
    encoder : MessageEncoder
    sampler : Sampler
        For a batch of one.
    length : int
        Tokens of an answer at most.
    system : str, optional
        A message that stands before all others, and stays.

    Attributes
    ----------
    messages : list of dict
        Those that are still part of the conversation, the system message not among them.
    dropped : int
        Messages that are not any more.
    full : bool
        Whether the last answer ended because the context did.
    computed : int
        Tokens of the last prompt that had to go through the model, those of the turns before it being there still.
    """

    def __init__(
        self, model: GPT, encoder: MessageEncoder, sampler: Sampler, length: int = 512, system: str | None = None
    ):
        self.model, self.encoder, self.sampler, self.length = model, encoder, sampler, length
        self._system: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self._cache = model.new_cache(1)
        self._held: Ids = np.empty(0, np.int32)  # the tokens whose keys and values are in the cache
        self.reset()

    def reset(self) -> None:
        """Forget all messages but that of the system."""
        self.messages: list[Message] = []
        self.dropped = self.computed = 0
        self.full = False

    def ask(self, text: str) -> Iterator[str]:
        """Say something, and yield the answer as it comes, one piece per token.

        An answer that is not taken to its end, or that is interrupted, stays as far as it came.

        Parameters
        ----------
        text : str

        Yields
        ------
        str

        Raises
        ------
        ValueError
            The template refuses the messages, or this one alone does not fit the context; it is then not kept.
        """
        messages, ids = self._fit([*self.messages, {"role": "user", "content": text}])
        room = self.model.config.block_size - len(ids) + 1  # the last token is drawn and not read
        self.dropped += len(self.messages) + 1 - len(messages)
        cache, tokenizer = self._cache, self.encoder.tokenizer
        cache.length = min(_common(self._held, ids), len(ids) - 1)
        self.computed, self.full = len(ids) - cache.length, False
        decoder, drawn, answer = tokenizer.decoder(), list[int](), list[str]()
        try:
            length, never = min(self.length, room), never_drawn(tokenizer, self.model.config.vocab_size)
            for step in steps(self.model, ids[None], length, self.sampler, cache, never):
                drawn.append(int(step.tokens[0]))
                if drawn[-1] in tokenizer.end_ids:
                    break
                answer.append(decoder.feed(drawn[-1]))
                yield answer[-1]
            else:
                self.full = room < self.length
            answer.append(decoder.flush())
            yield answer[-1]
        finally:
            self._held = np.concatenate([ids, np.array(drawn, np.int32)])[: cache.length]
            self.messages = [*messages, {"role": "assistant", "content": "".join(answer)}]

    def _fit(self, messages: list[Message]) -> tuple[list[Message], Ids]:
        """The newest messages, whole turns of them, that leave room for an answer; and their ids."""
        context = self.model.config.block_size
        reserve = min(self.length, max(1, context // 4))
        while True:
            ids = self.encoder([*self._system, *messages])
            if len(ids) - 1 + reserve <= context:
                return messages, ids
            later = [i for i, message in enumerate(messages) if message["role"] == "user"][1:]
            if not later:
                break
            messages = messages[later[0] :]
        room = f"the context of {context:,} has room for {max(0, context + 1 - reserve):,} and an answer"
        raise ValueError(f"the message has {len(ids):,} tokens, with what the template adds; {room}")


def _common(a: Ids, b: Ids) -> int:
    """How many tokens two texts have in common at their beginnings."""
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if different.size else n
