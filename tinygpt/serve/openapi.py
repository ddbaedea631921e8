"""The OpenAPI description of the server, made from the tables of fields."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from tinygpt import __version__
from tinygpt.serve import bodies
from tinygpt.serve.fields import Field, Json, schema

_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}
_ERRORS = {
    400: "The body is not as described, or does not fit the model.",
    401: "The API key is missing or wrong.",
    403: "The Host header names another machine.",
    404: "There is no such model.",
    408: "The body arrived too slowly.",
    413: "The body is too large.",
    415: "The body is not declared as JSON.",
    429: "The queue is full.",
    500: "The model failed.",
    503: "The server is shutting down.",
    504: "The request took too long.",
}
_USAGE = {
    "type": "object",
    "properties": {name: {"type": "integer"} for name in ("prompt_tokens", "completion_tokens", "total_tokens")},
    "required": ["prompt_tokens", "completion_tokens", "total_tokens"],
}
_CARD = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "model"},
        "created": {"type": "integer"},
        "owned_by": {"type": "string"},
    },
    "required": ["id", "object", "created", "owned_by"],
}
_LIST = {"type": "object", "properties": {"data": {"type": "array", "items": _CARD}}, "required": ["data"]}


def description(name: str) -> Json:
    """Return the OpenAPI document of a server.

    Parameters
    ----------
    name : str
        Name of the served model.
    """
    paths = {
        "/v1/completions": _post("Continue texts", bodies.COMPLETION, _answer("text_completion")),
        "/v1/chat/completions": _post("Answer a conversation", bodies.CHAT, _answer("chat.completion")),
        "/infill": _post("Fill a gap between two texts", bodies.INFILL, {"type": "object"}, None),
        "/watch": _post("Continue a text and tell how each token was predicted", bodies.WATCH, None, ()),
        "/v1/models": _get("List the model", _LIST),
        "/v1/models/{name}": _get("Describe the model", _CARD, name),
        "/health": _get("Tell whether the server can generate", {"type": "object"}),
        "/metrics": {"get": {"summary": "Show metrics for Prometheus", "responses": {
            "200": {"description": "Text of metrics", "content": {"text/plain": {"schema": {"type": "string"}}}},
            **_errors(401, 403),
        }}},
    }  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {"title": "tinygpt", "version": __version__, "description": f"The model {name}."},
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "paths": paths,
    }


def _answer(kind: str) -> Json:
    return {
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "object": {"const": kind},
            "created": {"type": "integer"},
            "model": {"type": "string"},
            "choices": {"type": "array", "items": {"type": "object"}, "minItems": 1},
            "usage": _USAGE,
        },
        "required": ["id", "object", "created", "model", "choices", "usage"],
    }


def _errors(*statuses: int) -> Json:
    content = {"application/json": {"schema": _ERROR}}
    return {str(status): {"description": _ERRORS[status], "content": content} for status in statuses}


def _post(
    summary: str,
    fields: Sequence[Field],
    answer: Json | None,
    ignored: Collection[str] | None = bodies.IGNORED,
) -> Json:
    """Describe an endpoint that takes a body; without an answer of its own it only streams."""
    content: Json = {"text/event-stream": {}}
    if answer is not None:
        content["application/json"] = {"schema": answer}
    body = {"required": True, "content": {"application/json": {"schema": schema(fields, ignored)}}}
    responses = {"200": {"description": "The answer", "content": content}, **_errors(*_ERRORS)}
    return {"post": {"summary": summary, "requestBody": body, "responses": responses}}


def _get(summary: str, answer: Json, name: str | None = None) -> Json:
    responses = {"200": {"description": "The answer", "content": {"application/json": {"schema": answer}}}}
    found: Json = {"summary": summary, "responses": {**responses, **_errors(401, 403, 404, 503)}}
    if name is not None:
        found["parameters"] = [
            {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}, "example": name}
        ]
    return {"get": found}
