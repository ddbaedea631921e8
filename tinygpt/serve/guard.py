"""Checks before a request reaches an endpoint: host name, API key, media type and size."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from tinygpt.io.strict import parse_object
from tinygpt.serve.fields import Json, Refused

MAX_BODY = 4 * 2**20  # bytes; a context of 128,000 tokens of code is about half a megabyte
BODY_SECONDS = 30.0  # for a client to send its body

# Without a key, too: probes of a supervisor, and the page, which asks its reader for the key.
PUBLIC = ("/health", "/", "/page.css", "/page.js")


class Guard:
    """Middleware that checks host name and API key.

    Parameters
    ----------
    app : ASGI application
    key : str, optional
        The API key; None lets everybody in.
    hosts : collection of str, optional
        Accepted names in the Host header; None accepts all. A page of another site that points its own name at this
        machine is refused.
    """

    def __init__(self, app: ASGIApp, key: str | None = None, hosts: Collection[str] | None = None):
        self.app, self.hosts = app, hosts
        self._digest = None if key is None else _digest(key.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer with 401 or 403."""
        if scope["type"] == "http":
            try:
                self._check(scope["path"], Headers(scope=scope))
            except Refused as error:
                await refusal(error)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _check(self, path: str, headers: Headers) -> None:
        host = headers.get("host", "")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if self.hosts is not None and name not in self.hosts:
            raise Refused("the Host header names another machine; start the server with the host that clients use", 403)
        if self._digest is None or path in PUBLIC:
            return
        scheme, _, key = headers.get("authorization", "").partition(" ")
        # Digests have one length, so that the time of the comparison tells neither the length nor a part of the key.
        if not hmac.compare_digest(_digest(key.strip().encode("latin-1")), self._digest) or scheme.lower() != "bearer":
            raise Refused("the API key is missing or wrong", 401, code="invalid_api_key")


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def refusal(error: Refused) -> JSONResponse:
    """Make the response of an error."""
    headers = {429: {"Retry-After": "1"}, 401: {"WWW-Authenticate": "Bearer"}}.get(error.status)
    return JSONResponse(error.body(), error.status, headers)


async def read_body(request: Request) -> Json:
    """Read and parse the JSON object in a request.

    Raises
    ------
    Refused
        The body is too large, too slow, not declared as JSON, or not a JSON object.
    """
    # A form or plain text can be sent by any web page without asking this server first; JSON cannot.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused("Content-Type must be application/json", 415)
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                data += part
                if len(data) > MAX_BODY:
                    raise Refused(f"the body must have at most {MAX_BODY:,} bytes", 413)
    except TimeoutError:
        raise Refused(f"the body did not arrive within {BODY_SECONDS:g} seconds", 408) from None
    try:
        return parse_object(bytes(data))
    except ValueError as error:
        raise Refused(f"the body {error}") from None
