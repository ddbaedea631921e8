"""`tinygpt serve` as a process: it says where it listens, ends cleanly, and refuses in one line."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from tinygpt import cli


@pytest.fixture
def process(run):
    """A server on a free port."""
    command = [sys.executable, "-m", "tinygpt", "serve", "--model", str(run), "--port", "0", "--grace", "5"]
    environment = {**os.environ, "TINYGPT_API_KEY": "secret"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as server:
        yield server
        server.kill()


def port_of(process):
    """Wait for the line that tells the address."""
    for line in process.stderr:
        found = re.search(r"at http://127\.0\.0\.1:(\d+) ", line)
        if found:
            assert line.startswith("serving   run at ")
            return int(found[1])
    raise AssertionError("the server ended")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server(process, number):
    """Catches a server that a signal ends with a traceback, and one that does not end."""
    port = port_of(process)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/v1/models", headers={"Authorization": "Bearer secret"})
    assert json.loads(connection.getresponse().read())["data"][0]["id"] == "run"
    connection.close()
    process.send_signal(number)
    assert process.wait(30) == 0
    assert process.stderr.read() == "stopped\n"
    assert process.stdout.read() == ""


def test_an_address_in_use(run, capsys):
    """Catches a traceback, and a model that is loaded before the address is known to be free."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert cli.main(["serve", "--model", str(run), "--port", str(port)]) == 2
    assert capsys.readouterr().err == (f"tinygpt: error: cannot listen on 127.0.0.1:{port}: Address already in use\n")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--port", "70000"], "--port must be 0 to 65535, got 70000"),
        (["--batch", "0"], "--batch must be at least 1, got 0"),
        (["--timeout", "0"], "--timeout must be more than 0, got 0.0"),
        (
            ["--model", "nowhere", "--port", "0"],
            "nowhere: no such directory; train a model with 'tinygpt train' or name another with --model",
        ),
        (["--api-key-file", "nowhere"], "nowhere: No such file or directory"),
        (["runs/tiny"], "unexpected argument 'runs/tiny'; did you mean --model runs/tiny?"),
    ],
)
def test_bad_flags(capsys, arguments, line):
    """Catches a value that fails later, or without the name of its flag."""
    assert cli.main(["serve", *arguments]) == 2
    assert capsys.readouterr().err == f"tinygpt: error: {line}\n"


def test_the_extra_is_named(capsys, monkeypatch):
    """Catches a traceback where the extra is not installed."""
    for name in [name for name in sys.modules if name.startswith("tinygpt.serve.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    assert cli.main(["serve"]) == 2
    assert capsys.readouterr().err == "tinygpt: error: tinygpt serve needs starlette: pip install 'tinygpt[serve]'\n"
