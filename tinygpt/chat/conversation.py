"""Conversations with a model: messages to tokens, answers as they are generated, and the KV cache between turns."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from tinygpt.cache import common_prefix
from tinygpt.chat.template import ChatTemplate, Message
from tinygpt.data.infilling import never_drawn
from tinygpt.decoding import steps
from tinygpt.model import GPT
from tinygpt.sampling import Sampler
from tinygpt.tokenizers.base import SEPARATOR, Tokenizer
from tinygpt.tokenizers.special import Roles

Ids = npt.NDArray[np.int32]

NONCHARACTERS = "".join(map(chr, range(0xFDD0, 0xFDF0)))  # code points that Unicode reserves for use inside programs


class MessageEncoder:
    """Encoder of messages that lets only the template produce special tokens, never the content of a message.

    A random mark is inserted into every name of a special token in a message. The rendered text is then split at the
    remaining names, which come from the template, and the marks are removed. Text between two special tokens is encoded
    as a whole, so that for messages without such names, the ids equal those of ``apply_chat_template`` in transformers.

    Parameters
    ----------
    tokenizer : Tokenizer
    template : ChatTemplate
    """

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate):
        self.tokenizer, self.template = tokenizer, template
        names = sorted(tokenizer.special_tokens, key=len, reverse=True)
        self._names = re.compile("|".join(map(re.escape, names)))
        # Parts of names, because two messages, or a message and the template, could form a name together.
        self._begins = {name[:n] for name in names for n in range(1, len(name))}
        self._ends = {name[n:] for name in names for n in range(1, len(name))}
        self._longest = len(names[0])
        roles: Roles = getattr(tokenizer, "roles", Roles(eos_token=SEPARATOR))
        self._variables: dict[str, object] = {**roles.names()}
        if roles.additional:
            self._variables["additional_special_tokens"] = list(roles.additional)

    def text(self, messages: Sequence[Message]) -> str:
        """Render messages as text."""
        return self.template.render(messages, variables=self._variables)

    def __call__(self, messages: Sequence[Message]) -> Ids:
        """Encode messages and the beginning of an answer.

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
            The template refuses the messages or fails, or the rendered text is empty.
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
            raise ValueError(f"{self.template.name}: renders the messages as empty text")
        return ids

    def _plain(self, text: str, mark: str) -> Ids:
        return self.tokenizer.encode(text.replace(mark, ""))

    def _shield(self, content: str, mark: str) -> str:
        """Insert marks so that the content has no name of a special token, and no part of one at its ends."""
        content = self._names.sub(lambda found: mark.join(found[0]), content)
        first, last = len(content) - len(content.lstrip()), len(content.rstrip())
        lengths = range(1, self._longest)
        if any(content[last - n : last] in self._begins for n in lengths if n <= last):
            content = content[:last] + mark + content[last:]
        if any(content[first : first + n] in self._ends for n in lengths):
            content = content[:first] + mark + content[first:]
        return content


class Conversation:
    """Conversation with a model: its messages, and the KV cache of the tokens read so far.

    Parameters
    ----------
    model : GPT
    encoder : MessageEncoder
    sampler : Sampler
        A sampler for a batch of one.
    length : int
        Largest number of tokens in an answer.
    system : str, optional
        System message: it comes first and is never dropped.

    Attributes
    ----------
    messages : list of dict
        Messages that the model still sees, without the system message.
    dropped : int
        Number of messages that no longer fit the context.
    full : bool
        True if the last answer ended because the context was full.
    computed : int
        Number of tokens of the last prompt that were computed; the others were in the KV cache.
    """

    def __init__(
        self, model: GPT, encoder: MessageEncoder, sampler: Sampler, length: int = 512, system: str | None = None
    ):
        self.model, self.encoder, self.sampler, self.length = model, encoder, sampler, length
        self._system: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self._cache = model.new_cache(1)
        self._held: Ids = np.empty(0, np.int32)  # tokens in the KV cache
        self.reset()

    def reset(self) -> None:
        """Drop all messages except the system message."""
        self.messages: list[Message] = []
        self.dropped = self.computed = 0
        self.full = False

    def ask(self, text: str) -> Iterator[str]:
        """Add a user message and yield the answer while it is generated, one piece per token.

        If the caller stops early, the generated part of the answer stays in the conversation.

        Parameters
        ----------
        text : str

        Yields
        ------
        str

        Raises
        ------
        ValueError
            The template refuses the messages, or this message alone does not fit the context. It is then dropped.
        """
        messages, ids = self._fit([*self.messages, {"role": "user", "content": text}])
        room = self.model.config.block_size - len(ids) + 1  # the last token is sampled but not read
        self.dropped += len(self.messages) + 1 - len(messages)
        cache, tokenizer = self._cache, self.encoder.tokenizer
        cache.length = min(common_prefix(self._held, ids), len(ids) - 1)
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
        """Return the newest whole turns that leave room for an answer, and their ids."""
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
        raise ValueError(f"the message has {len(ids):,} tokens, including those of the template; {room}")
