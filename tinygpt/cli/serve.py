"""`tinygpt serve`."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tinygpt.cli.options import Compute, load_model, note

if TYPE_CHECKING:
    from tinygpt.chat.conversation import MessageEncoder
    from tinygpt.tokenizers.base import Tokenizer

KEY = "TINYGPT_API_KEY"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MB = 2**20


@dataclass(kw_only=True)
class ServeOptions(Compute):
    """One field per flag."""

    model: str = "runs/tiny"
    """Model directory."""
    host: str = "127.0.0.1"
    """Address to listen on. The default is reachable from this machine only."""
    port: int = 8012
    """Port to listen on; 0 means any free one."""
    name: str | None = None
    """Name of the model in the API. Default: the name of its directory."""
    api_key_file: str | None = None
    """File with the API key that clients must send. Default: the environment variable TINYGPT_API_KEY, if it is set."""
    batch: int = 64
    """Largest number of texts that are generated at the same time."""
    queue: int = 64
    """Largest number of texts that wait; further requests get status 429."""
    timeout: float = 600
    """Longest time of a request, in seconds."""
    grace: float = 10
    """Seconds for running requests to finish after Ctrl-C or SIGTERM."""
    cache_mb: int = 1024
    """Memory for keys and values in MiB; at least that of one context is used."""
    weights: str = "float32"
    """Type of the weights in memory: float32, or bfloat16 or int8, which are rounded and faster."""
    quiet: bool = False
    """Print nothing but errors."""

    def validate(self) -> None:
        """Raise ValueError, naming the flag, for a value out of range."""
        if not 0 <= self.port <= 65535:
            raise ValueError(f"--port must be 0 to 65535, got {self.port}")
        for flag, value, least in (
            ("batch", self.batch, 1),
            ("queue", self.queue, 0),
            ("cache-mb", self.cache_mb, 0),
            ("grace", self.grace, 0),
        ):
            if not value >= least:
                raise ValueError(f"--{flag} must be at least {least}, got {value}")
        if not self.timeout > 0:
            raise ValueError(f"--timeout must be more than 0, got {self.timeout}")

    def key(self) -> str | None:
        """Read the API key."""
        if self.api_key_file is None:
            found, source = os.environ.get(KEY), KEY
        else:
            try:
                found, source = Path(self.api_key_file).read_text(encoding="utf-8").strip(), self.api_key_file
            except UnicodeError:
                raise ValueError(f"{self.api_key_file}: not UTF-8") from None
        if found is not None and not (found.isascii() and found.isprintable() and found):
            raise ValueError(f"{source}: the API key must be printable ASCII and not empty")
        return found


def serve(options: Annotated[ServeOptions, Parameter(name="*")] = ServeOptions()) -> int:  # noqa: B008
    """Serve a model over HTTP, in the form of OpenAI's API.

    Clients of OpenAI's API use http://127.0.0.1:8012/v1, editors' llama.cpp
    plug-ins /infill, a browser the page at /. Ctrl-C ends the server.
    """
    options.validate()
    options.apply()
    key = options.key()
    try:
        from tinygpt.serve.app import build_app
        from tinygpt.serve.run import Server, listen
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("starlette", "uvicorn"):
            raise
        raise ImportError(f"tinygpt serve needs {missing}: pip install 'tinygpt[serve]'") from None
    from tinygpt.serve.engine import Engine
    from tinygpt.serve.service import Service

    opened = listen(options.host, options.port)  # before the model is loaded, which may take long
    with opened:
        model, tokenizer = load_model(options.model, options.weights)
        encoder = _encoder(options, tokenizer)
        engine = Engine(model, tokenizer, options.batch, options.queue, options.cache_mb * MB)
        name = options.name or Path(options.model).resolve().name or "model"
        service = Service(engine, name, encoder, options.timeout)
        local = options.host in LOOPBACK
        hosts = {"127.0.0.1", "localhost", "[::1]"} if local else None
        if not options.quiet:
            if not local and key is None:
                note(f"{options.host} may be reachable by others, and no API key is set (--api-key-file)")
            print(_welcome(options, name, opened.getsockname()[1], encoder is not None), file=sys.stderr, flush=True)
        Server(build_app(service, key, hosts), service, options.grace).run([opened])
    if not options.quiet:
        print("stopped", file=sys.stderr)
    return 0


def _encoder(options: ServeOptions, tokenizer: Tokenizer) -> MessageEncoder | None:
    """Compile the chat template of the model, if it has one."""
    from tinygpt.chat.conversation import MessageEncoder
    from tinygpt.chat.template import ChatTemplate

    if tokenizer.chat_template is None:
        return None
    return MessageEncoder(tokenizer, ChatTemplate(tokenizer.chat_template, f"{options.model}: chat template"))


def _welcome(options: ServeOptions, name: str, port: int, chats: bool) -> str:
    host = f"[{options.host}]" if ":" in options.host else options.host
    kinds = "completions and chat" if chats else "completions; the model has no chat template"
    return f"serving   {name} at http://{host}:{port}  ({kinds}); Ctrl-C ends the server"
