"""The page of the server, and the events that it draws."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import resources

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tinygpt.serve.fields import Json
from tinygpt.serve.sequence import Finished
from tinygpt.serve.service import Job, Service, check_finished

FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def routes() -> list[Route]:
    """Return the routes of the page's files."""
    folder = resources.files("tinygpt.serve") / "templates"
    common = (resources.files("tinygpt.viz") / "templates" / "page.css").read_bytes()
    found = []
    for path, (name, kind) in FILES.items():
        data = (folder / name).read_bytes()
        found.append(Route(path, _file(common + data if name.endswith(".css") else data, kind)))
    return found


def _file(data: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    async def send(_: Request) -> Response:
        return Response(data, media_type=kind, headers=HEADERS)

    return send


async def watched(service: Service, ids: np.ndarray, job: Job) -> AsyncIterator[Json]:
    """Yield the prompt's tokens, then every new token with its prediction, then the end."""
    name = service.tokenizer.token_text
    yield {"prompt": [name(int(i)) for i in ids], "layers": service.engine.model.config.n_layer}
    async for _, event in job:
        if isinstance(event, Finished):
            check_finished(event)
            yield {"end": event.reason, "text": event.text}
        elif event.watched is not None and event.logprob is not None:
            top = [
                {"token": name(i), "p": float(np.exp(value)), "sampled": sampled}
                for (i, value), sampled in zip(event.top, event.watched.sampled, strict=True)
            ]
            yield {
                "token": name(event.token),
                "text": event.text,
                "p": float(np.exp(event.logprob)),
                "bits": -event.logprob / float(np.log(2)),
                "sampled": event.watched.chosen,
                "top": top,
                "attention": event.watched.attention,
            }
