"""A server on the loopback interface in a thread, and a plain HTTP client."""

import http.client
import json
import threading
import time
from contextlib import contextmanager

from tinygpt.serve.app import build_app
from tinygpt.serve.engine import Engine
from tinygpt.serve.run import Server, listen
from tinygpt.serve.service import Service

from .models import TOKENIZER, small


class Client:
    """Requests to one server."""

    def __init__(self, server, service, port):
        self.server, self.service, self.port = server, service, port
        self.engine = service.engine
        self.connections = []

    def connect(self):
        """Open a connection, which is closed with the server at the latest."""
        self.connections.append(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30))
        return self.connections[-1]

    def send(self, path, body=None, method=None, headers=None, raw=None):
        """Open a connection, send a request and return the response; it is not read yet."""
        connection = self.connect()
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        method = method or ("GET" if data is None else "POST")
        connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
        return connection.getresponse()

    def get(self, path, body=None, status=200, **more):
        """Return the JSON of a response that must have this status."""
        response = self.send(path, body, **more)
        data = response.read()
        response.close()
        assert response.status == status, data
        return json.loads(data)

    def events(self, path, body, **more):
        """Yield the data of server-sent events; JSON is parsed."""
        response = self.send(path, body, **more)
        assert response.status == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        for line in response:
            if line.startswith(b"data: "):
                data = line[6:].strip()
                yield data.decode() if data == b"[DONE]" else json.loads(data)
        response.close()


@contextmanager
def served(model=None, tokenizer=TOKENIZER, key=None, hosts=None, encoder=None, timeout=60.0, grace=5.0, **more):
    """Run a server in a thread."""
    engine = Engine(small() if model is None else model, tokenizer, **more)
    service = Service(engine, "tiny", encoder, timeout)
    with listen("127.0.0.1", 0) as opened:
        server = Server(build_app(service, key, hosts), service, grace)
        thread = threading.Thread(target=server.run, args=([opened],))
        thread.start()
        client = Client(server, service, opened.getsockname()[1])
        try:
            yield client
        finally:
            for connection in client.connections:
                connection.close()
            server.should_exit = True
            thread.join()


def until(condition, seconds=10):
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
