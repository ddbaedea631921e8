"""Load test of the server on the loopback interface: many clients, one model, minutes long.

usage: python tests/soak/load.py [--seconds 600] [--clients 64] [--out FILE.json]

A process serves a model of 6 layers, 384 wide, with random weights. First one client measures its throughput and
records the answers to seeded requests. Then all clients send requests of many kinds, some of which they abandon. The
program fails (exit status 1) on any answer other than 200 and 429, on a seeded answer that differs from the one of the
single client, on less than three times its throughput, and on memory, threads or files that grow.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np

from tinygpt import GPT, GPTConfig, save
from tinygpt.tokenizers import CharTokenizer

TEXT = Path(__file__).read_text()
SIZE = {"block_size": 256, "n_layer": 6, "n_head": 6, "n_embd": 384}
SEEDED = 16  # requests whose answers are known
SHARE = {"seeded": 0.25, "streamed": 0.25, "abandoned": 0.05}
LEAST_GAIN = 3.0
GROWTH = 64  # MiB that the server may grow after its first fifth of the time
BURST = 192  # requests at the same moment, more than batch and queue take


class Server:
    """The process that is tested."""

    def __init__(self, folder: str):
        tokenizer = CharTokenizer.train(TEXT)
        save(folder, GPT(GPTConfig(tokenizer.vocab_size, **SIZE), seed=0), tokenizer)
        command = [
            sys.executable,
            "-P",
            "-m",
            "tinygpt",
            "serve",
            "--model",
            folder,
            "--port",
            "0",
            "--cache-mb",
            "512",
        ]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        line = next(line for line in self.process.stderr if line.startswith("serving"))
        self.port = int(re.search(r":(\d+) ", line)[1])

    def state(self) -> dict[str, int]:
        """Memory in MiB, threads and open files of the process."""
        folder = Path(f"/proc/{self.process.pid}")
        status = dict(re.findall(r"(\w+):\s+(\d+)", (folder / "status").read_text()))
        files = len(list((folder / "fd").iterdir()))
        return {"mib": int(status["VmRSS"]) // 1024, "threads": int(status["Threads"]), "files": files}

    def metrics(self) -> dict[str, int]:
        """Read the metrics of the server."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
        connection.close()
        return {line.rpartition(" ")[0]: int(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}

    def end(self) -> int:
        """End the server as Ctrl-C does; returns its exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)


def body_of(number: int) -> dict:
    """A request that depends on its number alone; several share the beginning of their prompts."""
    rng = np.random.default_rng(number)
    start, length = 60 * int(rng.integers(0, 8)), int(rng.integers(4, 150))
    prompt = TEXT[start : start + length]
    settings = {"temperature": float(rng.choice([0, 0.7, 1])), "top_k": int(rng.choice([0, 20])), "seed": number}
    return {"prompt": prompt, "max_tokens": int(rng.integers(8, 64)), **settings}


class Load:
    """Clients and what they saw."""

    def __init__(self, port: int, answers: dict[int, str]):
        self.port, self.answers = port, answers
        self.statuses: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.seconds: list[float] = []

    def ask(self, connection: http.client.HTTPConnection, body: dict) -> str | None:
        """Send a request and return its text; None if the queue is full."""
        began = time.perf_counter()
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        data = response.read().decode()
        self.statuses[str(response.status)] += 1
        if response.status == 429:
            return None
        if response.status != 200:
            self.wrong.append(f"status {response.status}: {data[:200]}")
            return None
        self.seconds.append(time.perf_counter() - began)
        if not body.get("stream"):
            return json.loads(data)["choices"][0]["text"]
        parts = [json.loads(line[6:]) for line in data.split("\n\n") if line.startswith("data: {")]
        self.wrong += [str(part["error"]) for part in parts if "error" in part]
        return "".join(part["choices"][0]["text"] for part in parts if "choices" in part)

    def client(self, name: int, end: float) -> None:
        """Send requests until the time is over."""
        rng = np.random.default_rng((1, name))
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        while time.monotonic() < end:
            kind = rng.random()
            try:
                if kind < SHARE["abandoned"]:
                    self.abandon(int(rng.integers(2**31)), float(rng.random()))
                elif kind < SHARE["abandoned"] + SHARE["seeded"]:
                    self.seeded(connection, int(rng.integers(SEEDED)), bool(rng.integers(2)))
                else:
                    streams = bool(rng.random() < SHARE["streamed"])
                    if self.ask(connection, {**body_of(int(rng.integers(2**31))), "stream": streams}) is None:
                        time.sleep(0.1)
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                self.wrong.append(f"{type(error).__name__}: {error}")
                return
        connection.close()

    def seeded(self, connection: http.client.HTTPConnection, number: int, streams: bool) -> None:
        """Compare the answer to a known request with that of the single client."""
        text = self.ask(connection, {**body_of(number), "stream": streams})
        if text is not None and text != self.answers[number]:
            self.wrong.append(f"request {number} has another text than alone")

    def abandon(self, number: int, wait: float) -> None:
        """Leave before the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        body = {**body_of(number), "max_tokens": 200}
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        time.sleep(wait / 10)
        connection.close()
        self.statuses["abandoned"] += 1

    def burst(self, number: int) -> None:
        """Send one request of a burst."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        self.ask(connection, body_of(number))
        connection.close()


def run(targets: list[threading.Thread]) -> None:
    """Run threads to their end."""
    for one in targets:
        one.start()
    for one in targets:
        one.join()


def throughput(server: Server, load: Load, clients: int, seconds: float) -> float:
    """Tokens per second that the server generates for some clients."""
    before, end = server.metrics()["tinygpt_generated_tokens_total"], time.monotonic() + seconds
    began = time.monotonic()
    run([threading.Thread(target=load.client, args=(i, end)) for i in range(clients)])
    return (server.metrics()["tinygpt_generated_tokens_total"] - before) / (time.monotonic() - began)


def test(server: Server, clients: int, seconds: float) -> tuple[dict, list[str]]:
    """Return what was measured, and what is wrong."""
    alone = Load(server.port, {})
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
    alone.answers.update({number: alone.ask(connection, body_of(number)) or "" for number in range(SEEDED)})
    connection.close()
    one = throughput(server, alone, 1, seconds / 6)
    load = Load(server.port, alone.answers)
    throughput(server, load, clients, seconds / 6)
    before = server.state()
    load.seconds.clear()
    many = throughput(server, load, clients, seconds * 4 / 6)
    latency = np.percentile(load.seconds, [50, 99])
    run([threading.Thread(target=load.burst, args=(i,)) for i in range(BURST)])
    time.sleep(2)
    after, metrics = server.state(), server.metrics()
    wrong = alone.wrong + load.wrong
    if many < LEAST_GAIN * one:
        wrong.append(f"{clients} clients get {many:.0f} tokens/s, one gets {one:.0f}")
    if after["mib"] > before["mib"] + GROWTH or after["threads"] > before["threads"] + 1:
        wrong.append(f"the server grew from {before} to {after}")
    if after["files"] > before["files"]:
        wrong.append(f"open files: {before['files']} before, {after['files']} after")
    if metrics["tinygpt_running"] or metrics["tinygpt_waiting"]:
        wrong.append("texts are left when all clients have gone")
    if not load.statuses["429"]:
        wrong.append("a burst of requests did not fill the queue")
    measured = {
        "seconds": seconds,
        "clients": clients,
        "cores": len(os.sched_getaffinity(0)),
        "parameters": GPT(GPTConfig(CharTokenizer.train(TEXT).vocab_size, **SIZE), seed=None).num_parameters(),
        "tokens_per_s_one": round(one, 1),
        "tokens_per_s_many": round(many, 1),
        "gain": round(many / one, 2),
        "latency_p50": round(float(latency[0]), 3),
        "latency_p99": round(float(latency[1]), 3),
        "answers": dict(sorted((alone.statuses + load.statuses).items())),
        "wrong": len(wrong),
        "mib": [before["mib"], after["mib"]],
    }
    return measured, wrong


def main() -> int:
    """Run the test and print its result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(folder)
        try:
            measured, wrong = test(server, options.clients, options.seconds)
        finally:
            status = server.end()
    if status != 0:
        wrong.append(f"the server ended with status {status}")
    print(json.dumps(measured, indent=2))
    for line in sorted(set(wrong))[:20]:
        print(f"wrong: {line}", file=sys.stderr)
    if options.out is not None and not wrong:
        options.out.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
