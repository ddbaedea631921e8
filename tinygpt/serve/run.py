"""Run a server until a signal ends it."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from tinygpt.serve.service import Service

BACKLOG = 2048  # connections that wait to be accepted


class Server(uvicorn.Server):
    """A uvicorn server that ends with a clean status: a signal is how a server is meant to end.

    Parameters
    ----------
    app : ASGI application
    service : Service
        Closed when the server ends.
    grace : float
        Seconds for running requests after the signal; they then get an error.
    """

    def __init__(self, app: ASGIApp, service: Service, grace: float):
        # The connections outlive the texts by a moment, so that their last words are sent.
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=int(grace) + 5,
        )
        super().__init__(config)
        self._service, self._grace = service, grace

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let SIGINT and SIGTERM end the server; a second one ends it at once."""
        signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
        before = {number: signal.signal(number, self.handle_exit) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End the server, at once if it is ending already."""
        if self.should_exit:
            self.force_exit = True
            self._service.engine.stop()
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept nothing more, and let running requests finish for a while."""
        closing = asyncio.get_running_loop().run_in_executor(None, self._service.close, self._grace)
        await super().shutdown(sockets)
        await closing


def listen(host: str, port: int) -> socket.socket:
    """Open the socket of a server.

    Raises
    ------
    ValueError
        The address is unknown or in use; the message is one line.
    """
    made = None
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(BACKLOG)
    except OSError as error:
        if made is not None:
            made.close()
        raise ValueError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    return made
