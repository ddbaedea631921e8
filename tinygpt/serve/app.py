"""The web application: endpoints and errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from tinygpt.serve import bodies, completions, page
from tinygpt.serve.fields import Field, Json, Refused, read
from tinygpt.serve.guard import Guard, read_body, refusal
from tinygpt.serve.infill import Fill
from tinygpt.serve.openapi import description
from tinygpt.serve.service import Ask, Service
from tinygpt.serve.stream import EventStream, unless_gone

Endpoint = Callable[[Request], Awaitable[Response]]
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


def build_app(service: Service, key: str | None = None, hosts: Collection[str] | None = None) -> Starlette:
    """Make the web application of a server.

    Parameters
    ----------
    service : Service
    key : str, optional
        API key; see `Guard`.
    hosts : collection of str, optional
        Accepted host names; see `Guard`.
    """
    api = Api(service)
    routes = [
        Route("/v1/completions", api.complete, methods=["POST"]),
        Route("/v1/chat/completions", api.chat, methods=["POST"]),
        Route("/v1/models", api.models),
        Route("/v1/models/{name:path}", api.model),
        Route("/infill", api.infill, methods=["POST"]),
        Route("/watch", api.watch, methods=["POST"]),
        Route("/health", api.health),
        Route("/metrics", api.metrics),
        Route("/openapi.json", api.openapi),
        *page.routes(),
    ]
    handlers = {Refused: _refused, HTTPException: _http_error, ClientDisconnect: _left, Exception: _failed}
    middleware = [Middleware(Guard, key=key, hosts=hosts)]
    return Starlette(routes=routes, middleware=middleware, exception_handlers=handlers)


class Api:
    """The endpoints of one service."""

    def __init__(self, service: Service):
        self.service = service

    async def complete(self, request: Request) -> Response:
        """Continue one or several texts."""
        body = await self._body(request, bodies.COMPLETION)
        asks = await completions.prompts(self.service, body)
        return await self._openai(request, body, asks, body["max_tokens"], body["logprobs"], chat=False)

    async def chat(self, request: Request) -> Response:
        """Answer the last message of a conversation."""
        body = await self._body(request, bodies.CHAT)
        if body["top_logprobs"] is not None and not body["logprobs"]:
            raise Refused("'top_logprobs' needs 'logprobs' to be true", param="top_logprobs")
        asks = await completions.conversation(self.service, body)
        length = body["max_completion_tokens"] or body["max_tokens"] or self.service.context
        top = (body["top_logprobs"] or 0) if body["logprobs"] else None
        return await self._openai(request, body, asks, length, top, chat=True)

    async def _openai(
        self, request: Request, body: Json, asks: Sequence[Ask], length: int, top: int | None, chat: bool
    ) -> Response:
        usage = bool((body["stream_options"] or {}).get("include_usage"))
        shape = completions.Shape(self.service, chat, top is not None, usage)
        job = self.service.start(asks, body, length, top=top, streams=bool(body["stream"]))
        if body["stream"]:
            return EventStream(job, shape.chunks(job))
        return JSONResponse(await unless_gone(request, job, shape.whole(job)))

    async def infill(self, request: Request) -> Response:
        """Fill the gap between two texts."""
        body = await self._body(request, bodies.INFILL, None)
        fill = await Fill.of(self.service, body)
        job = fill.start()
        if body["stream"]:
            return EventStream(job, fill.chunks(job), done=False)
        return JSONResponse(await unless_gone(request, job, fill.whole(job)))

    async def watch(self, request: Request) -> Response:
        """Continue a text and tell how each token was predicted."""
        body = await self._body(request, bodies.WATCH, ())
        ids = await self.service.encode(lambda: self.service.tokenizer.prompt(body["prompt"]))
        self.service.check_ids(ids, "prompt")
        job = self.service.start([Ask(ids)], body, body["max_tokens"], top=body["top"], watch=True)
        return EventStream(job, page.watched(self.service, ids, job), done=False)

    async def models(self, _: Request) -> Response:
        """List the model."""
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def model(self, request: Request) -> Response:
        """Describe the model."""
        self.service.check_model(request.path_params["name"])
        return JSONResponse(self._card())

    async def health(self, _: Request) -> Response:
        """Tell whether the server can generate."""
        failed = self.service.engine.failed
        return JSONResponse({"status": "error" if failed else "ok"}, 503 if failed else 200)

    async def metrics(self, _: Request) -> Response:
        """Show counters and gauges for Prometheus."""
        return PlainTextResponse(self.service.engine.counters.text(), media_type=PROMETHEUS)

    async def openapi(self, _: Request) -> Response:
        """Describe this API."""
        return JSONResponse(description(self.service.name))

    def _card(self) -> Json:
        service = self.service
        return {"id": service.name, "object": "model", "created": service.created, "owned_by": "tinygpt",
                "meta": {"n_ctx": service.context, "n_vocab": service.tokenizer.vocab_size}}  # fmt: skip

    async def _body(
        self, request: Request, fields: Sequence[Field], ignored: Collection[str] | None = bodies.IGNORED
    ) -> Json:
        """Read and check the body of a request."""
        body = read(fields, await read_body(request), ignored)
        self.service.check_model(body.get("model"))
        return body


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return refusal(error)


async def _http_error(_: Request, error: Exception) -> Response:
    """Answer an unknown path or method in the form of the other errors."""
    assert isinstance(error, HTTPException)
    made = refusal(Refused(str(error.detail), error.status_code))
    made.headers.update(error.headers or {})
    return made


async def _left(_: Request, error: Exception) -> Response:
    return Response(status_code=499)  # the client does not read it


async def _failed(_: Request, error: Exception) -> Response:
    """Answer an error that nobody expected; the server prints its traceback."""
    return refusal(Refused("internal error; the server's output says why", 500))
