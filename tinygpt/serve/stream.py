"""Responses that end when their reader does: whole ones, and server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tinygpt.serve.fields import Json, Refused
from tinygpt.serve.service import Job

T = TypeVar("T")
SSE = "text/event-stream"


async def _gone(receive: Receive) -> None:
    """Return once the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(request: Request, job: Job, answer: Awaitable[T]) -> T:
    """Wait for the answer of a job; if the client leaves before, cancel the job and raise ClientDisconnect."""
    working, leaving = asyncio.ensure_future(answer), asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        job.cancel()
        working.cancel()
        leaving.cancel()


class EventStream(Response):
    """Server-sent events of one job.

    Parameters
    ----------
    job : Job
        Cancelled when the client leaves.
    parts : async iterator of dict
        Data of the events.
    done : bool
        Whether ``[DONE]`` ends the stream, as in OpenAI's API.
    """

    def __init__(self, job: Job, parts: AsyncIterator[Json], done: bool = True):
        super().__init__(media_type=SSE, headers={"Cache-Control": "no-store"})
        del self.headers["content-length"]
        self.job, self.parts, self.done = job, parts, done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until they end or the client leaves."""
        sending, leaving = asyncio.ensure_future(self._send(send)), asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            self.job.cancel()
            sending.cancel()
            leaving.cancel()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async for part in self.parts:
                await send({"type": "http.response.body", "body": event(part), "more_body": True})
        except Refused as error:  # the status has been sent, so the error is an event
            await send({"type": "http.response.body", "body": event(error.body()), "more_body": True})
        end = b"data: [DONE]\n\n" if self.done else b""
        await send({"type": "http.response.body", "body": end, "more_body": False})


def event(data: Json) -> bytes:
    """Format one server-sent event."""
    return b"data: " + json.dumps(data, ensure_ascii=False, allow_nan=False).encode() + b"\n\n"
