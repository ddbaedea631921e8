"""Fields of request bodies: from one table per endpoint, bodies are checked and the OpenAPI description is made."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tinygpt.io.strict import shown

MOST_STRINGS, LONGEST_STRING = 16, 1000  # stop strings, and characters in one of them
MOST_PROMPTS = 64  # in one request
MAX_COUNT = 2**31 - 1

Json = dict[str, Any]


class Refused(Exception):
    """A request that gets an error, in the form of OpenAI's API.

    Parameters
    ----------
    message : str
        One line.
    status : int
        HTTP status.
    param : str, optional
        The field at fault.
    code : str, optional
        A short name for programs.
    """

    def __init__(self, message: str, status: int = 400, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.message, self.status, self.param, self.code = " ".join(message.split()), status, param, code

    def body(self) -> Json:
        """Return the body of the response."""
        kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class Field:
    """One field of a body.

    Parameters
    ----------
    name : str
    kind : str
        A key of KINDS.
    text : str
        Description.
    default : object
        Value of a field that is missing or null.
    low, high : float, optional
        Range of a number, ends included.
    required : bool
        Whether the field must be there; null is then refused too.
    """

    name: str
    kind: str
    text: str
    default: Any = None
    low: float | None = None
    high: float | None = None
    required: bool = False

    def read(self, body: Mapping[str, Any]) -> Any:
        """Return the checked value of the field; raise Refused if it has another type or range."""
        value = body.get(self.name)
        if value is None:
            if self.required:
                raise Refused(f"'{self.name}' is required", param=self.name)
            return self.default
        words, check, _ = KINDS[self.kind]
        found = check(value)
        if found is None:
            raise Refused(f"'{self.name}' must be {words}, got {shown(value)}", param=self.name)
        if (self.low is not None and found < self.low) or (self.high is not None and found > self.high):
            at_least = self.high is None or self.high >= MAX_COUNT
            bounds = f"at least {self.low:g}" if at_least and found < (self.low or 0) else f"{self.low} to {self.high}"
            raise Refused(f"'{self.name}' must be {bounds}, got {shown(value)}", param=self.name)
        return found

    def schema(self) -> Json:
        """Return the JSON schema of the field."""
        found = dict(KINDS[self.kind][2])
        if self.low is not None:
            found["minimum"] = self.low
        if self.high is not None:
            found["maximum"] = self.high
        if not self.required:
            found = {"anyOf": [found, {"type": "null"}]}
        default = {} if self.default is None else {"default": self.default}
        return {**found, "description": self.text, **default}


def read(fields: Sequence[Field], body: Mapping[str, Any], ignored: Collection[str] | None) -> Json:
    """Check a body.

    Parameters
    ----------
    fields : sequence of Field
    body : mapping
    ignored : collection of str or None
        Names that have no effect; any other unknown name is refused. None ignores all.

    Returns
    -------
    dict
        A value for every field.

    Raises
    ------
    Refused
        A value is wrong, or a name is unknown.
    """
    names = {field.name for field in fields}
    if ignored is not None:
        for name in body:
            if name not in names and name not in ignored and body[name] is not None:
                raise Refused(f"unknown or unsupported field {shown(name)}", param=name[:100])
    return {field.name: field.read(body) for field in fields}


def schema(fields: Sequence[Field], ignored: Collection[str] | None) -> Json:
    """Return the JSON schema of a body."""
    properties = {field.name: field.schema() for field in fields}
    if ignored is not None:
        properties |= {name: {"description": "Accepted for other servers' clients; has no effect."} for name in ignored}
    required = [field.name for field in fields if field.required]
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": ignored is None,
        **({"required": required} if required else {}),
    }


def text(value: Any) -> str | None:
    """Return a string that UTF-8 can encode, otherwise None."""
    if not isinstance(value, str):
        return None
    return None if any("\ud800" <= char <= "\udfff" for char in value) else value


def integer(value: Any) -> int | None:
    """Return an integer, also one that is written as 5.0; otherwise None."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def number(value: Any) -> float | None:
    """Return a finite number, otherwise None."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or abs(value) > 1e300:
        return None
    return float(value) if math.isfinite(value) else None


def _boolean(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _strings(value: Any) -> list[str] | None:
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or len(found) > MOST_STRINGS:
        return None
    return found if all(text(one) is not None and 0 < len(one) <= LONGEST_STRING for one in found) else None


def _prompts(value: Any) -> list[str | list[int]] | None:
    """Return prompts, each a text or token ids."""
    found = [value] if isinstance(value, str) or _are_ids(value) else value
    if not isinstance(found, list) or not 1 <= len(found) <= MOST_PROMPTS:
        return None
    return found if all(text(one) is not None or _are_ids(one) for one in found) else None


def _are_ids(value: Any) -> bool:
    def is_id(one: Any) -> bool:
        return isinstance(one, int) and not isinstance(one, bool) and 0 <= one <= MAX_COUNT

    return isinstance(value, list) and bool(value) and all(map(is_id, value))


def _messages(value: Any) -> list[dict[str, str]] | None:
    """Return messages of a chat, their contents joined from parts."""
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_MESSAGES:
        return None
    found = [_message(one) for one in value]
    return None if None in found else [one for one in found if one is not None]


def _message(value: Any) -> dict[str, str] | None:
    if not isinstance(value, dict) or value.get("role") not in ROLES:
        return None
    content = value.get("content")
    if isinstance(content, list):
        parts = [one.get("text") if isinstance(one, dict) and one.get("type") == "text" else None for one in content]
        content = "".join(parts) if all(text(part) is not None for part in parts) else None  # type: ignore[arg-type]
    content = text(content)
    return None if content is None else {"role": value["role"], "content": content}


def _stream_options(value: Any) -> Json | None:
    known = isinstance(value, dict) and set(value) <= {"include_usage", "include_obfuscation"}
    return value if known and all(isinstance(one, bool) for one in value.values()) else None


ROLES = ("system", "developer", "user", "assistant", "tool")
MAX_MESSAGES = 1000
_STRING = {"type": "string"}
_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": _STRING},
    "required": ["type", "text"],
}
_MESSAGE = {
    "type": "object",
    "properties": {
        "role": {"enum": list(ROLES)},
        "content": {"anyOf": [_STRING, {"type": "array", "items": _PART}]},
    },
    "required": ["role", "content"],
}
_STOP = {**_STRING, "minLength": 1, "maxLength": LONGEST_STRING}
_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": MAX_COUNT}, "minItems": 1}

# Kind -> words of an error, check (None means refused), JSON schema.
KINDS: dict[str, tuple[str, Callable[[Any], Any], Json]] = {
    "text": ("a string", text, _STRING),
    "integer": ("an integer", integer, {"type": "integer"}),
    "number": ("a number", number, {"type": "number"}),
    "boolean": ("true or false", _boolean, {"type": "boolean"}),
    "strings": (
        f"a string or up to {MOST_STRINGS} strings of 1 to {LONGEST_STRING} characters",
        _strings,
        {"anyOf": [_STOP, {"type": "array", "items": _STOP, "maxItems": MOST_STRINGS}]},
    ),
    "prompts": (
        f"a string, token ids, or a list of up to {MOST_PROMPTS} of these",
        _prompts,
        {
            "anyOf": [
                _STRING,
                _IDS,
                {"type": "array", "items": _STRING, "minItems": 1, "maxItems": MOST_PROMPTS},
                {"type": "array", "items": _IDS, "minItems": 1, "maxItems": MOST_PROMPTS},
            ]
        },
    ),
    "messages": (
        "a list of messages, each with a role and a text as content",
        _messages,
        {"type": "array", "items": _MESSAGE, "minItems": 1, "maxItems": MAX_MESSAGES},
    ),
    "stream_options": (
        "an object with include_usage",
        _stream_options,
        {
            "type": "object",
            "properties": {"include_usage": {"type": "boolean"}, "include_obfuscation": {"type": "boolean"}},
            "additionalProperties": False,
        },
    ),
    "names": (
        "a list of strings",
        lambda value: value if isinstance(value, list) and all(isinstance(one, str) for one in value) else None,
        {"type": "array", "items": _STRING},
    ),
}
