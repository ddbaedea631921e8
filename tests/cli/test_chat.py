"""`tinygpt chat`: one message with --once, messages from standard input, and a dialogue on a terminal."""

import io
import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest
from chat.talk import CHATML, tokenizer

from tinygpt import GPT, GPTConfig, cli, tokenizers
from tinygpt.chat.conversation import Conversation, MessageEncoder
from tinygpt.chat.template import ChatTemplate
from tinygpt.files import model_directory
from tinygpt.sampling import Sampler

CONTEXT = 160
FIXED = ("--temp", "0", "--length", "8")


@pytest.fixture(scope="module")
def talker(tmp_path_factory):
    """An untrained model with large weights, and a tokenizer with a chat template."""
    out = tmp_path_factory.mktemp("chat") / "talker"
    known = tokenizer()
    model = GPT(GPTConfig(known.vocab_size, CONTEXT, 1, 2, 16), seed=4)
    for parameter in model.parameters():
        if parameter.decay:
            parameter.data = parameter.data * 20
    model_directory.save(out, model, known)
    assert tokenizers.load(out).chat_template == CHATML
    return out


def said(capsys, *arguments):
    assert cli.main(["chat", *map(str, arguments)]) == 0
    return capsys.readouterr()


def answers(talker, *questions, system=None, length=8):
    """The answers of the Python interface to the same questions."""
    model, known = model_directory.load(talker)
    encoder = MessageEncoder(known, ChatTemplate(CHATML))
    talk = Conversation(model, encoder, Sampler(0), length, system)
    return ["".join(talk.ask(question)) for question in questions]


def test_once(talker, capsys):
    """Catches --once, --system or --length without effect, and a prompt printed with the answer."""
    assert said(capsys, "--model", talker, "--once", "hello", *FIXED) == (answers(talker, "hello")[0] + "\n", "")
    with_system = answers(talker, "hello", system="-x", length=4)[0] + "\n"
    out = said(capsys, "--model", talker, "--once", "hello", "--temp", "0", "--system", "-x", "--length", "4").out
    assert out == with_system


def test_lines_are_messages(talker, capsys, monkeypatch):
    """Catches turns that do not see the previous ones, and an empty line that is answered."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n\nwhat is 1 + 1?\n/reset\n"))
    want = answers(talker, "hello", "what is 1 + 1?", "/reset")
    assert said(capsys, "--model", talker, *FIXED).out.splitlines() == "\n".join(want).splitlines()


def test_the_seed_determines_the_answer(talker, capsys):
    """Catches a seed or a temperature that does not reach the sampler."""
    words = ("--model", talker, "--once", "hello", "--length", "12", "--temp", "2")
    texts = [said(capsys, *words, "--seed", seed).out for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_dropped_turns_are_reported_once(talker, capsys, monkeypatch):
    """Catches messages dropped silently, a warning that is repeated, and a warning despite --quiet."""
    for quiet in (False, True):
        monkeypatch.setattr(sys, "stdin", io.StringIO("hello there, what is 1 + 1?\n" * 9))
        out, err = said(capsys, "--model", talker, *FIXED, *(["--quiet"] if quiet else []))
        assert err.count(f"[the context of {CONTEXT} tokens is full: the oldest messages are dropped from now on]") == (
            not quiet
        )
        assert out


def test_a_template_from_a_file(talker, run, tmp_path, capsys):
    """Catches a template file that is ignored, also when the model has its own template."""
    file = tmp_path / "plain.jinja"
    file.write_text("{{ messages[-1].content }}")
    out = said(capsys, "--model", talker, "--template", file, "--once", "hello", *FIXED).out
    assert out != said(capsys, "--model", talker, "--once", "hello", *FIXED).out
    assert said(capsys, "--model", run, "--template", file, "--once", "def", *FIXED).out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "RUN"], "RUN: the model has no chat template; give one with --template FILE"),
        (["--length", "0"], "--length must be at least 1, got 0"),
        (["--temp", "-1"], "--temp must be 0 or more, got -1"),
        (["--template", "nowhere.jinja"], "nowhere.jinja: No such file"),
        (["--template", "BROKEN"], "BROKEN: line 1: "),
        (["--template", "BYTES"], "BYTES: not UTF-8"),
        (["--once", " "], "--once must not be empty"),
        (["--once", "a\udcff"], "--once: not UTF-8"),
        (["--once", "x y " * 200], f"the context of {CONTEXT} has room for"),
        (["--template", "REFUSES"], "REFUSES: only for others"),
    ],
)
def test_bad_input_is_one_line(talker, run, tmp_path, capsys, arguments, message):
    """Catches a traceback, an error that does not name what to correct, and a partial answer."""
    files = {"RUN": run, **{name: tmp_path / name for name in ("BROKEN", "BYTES", "REFUSES")}}
    files["BROKEN"].write_text("{% if %")
    files["BYTES"].write_bytes(b"\xff")
    files["REFUSES"].write_text("{{ raise_exception('only for others') }}")
    words = [str(files.get(word, word)) for word in arguments]
    for name, path in files.items():
        message = message.replace(name, str(path))
    for flag, value in (("--model", str(talker)), ("--once", "hello")):
        words += [] if flag in words else [flag, value]
    assert cli.main(["chat", *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


class Terminal:
    """A chat process on a pseudo-terminal."""

    def __init__(self, *arguments):
        self.leader, follower = pty.openpty()
        command = [sys.executable, "-m", "tinygpt", "chat", *map(str, arguments)]
        environment = {**os.environ, "TERM": "dumb"}
        self.process = subprocess.Popen(
            command, stdin=follower, stdout=follower, stderr=follower, env=environment, start_new_session=True
        )
        os.close(follower)
        self.seen = ""

    def until(self, text, seconds=60):
        """Read the screen until an expected text appears."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            ready, _, _ = select.select([self.leader], [], [], max(0, end - time.monotonic()))
            try:
                part = os.read(self.leader, 65536) if ready else b""
            except OSError:  # the process has closed its end
                part = b""
            assert part, f"no {text!r} in {self.seen!r}"
            self.seen += part.decode(errors="replace").replace("\r\n", "\n")
        before, _, self.seen = self.seen.partition(text)
        return before

    def type(self, text):
        os.write(self.leader, text.encode())

    def interrupt(self):
        """Press Ctrl-C. A signal just before input() starts to wait is only noticed with the next one, so try again."""
        for _ in range(10):
            os.kill(self.process.pid, signal.SIGINT)
            if select.select([self.leader], [], [], 5)[0]:
                return

    def end(self):
        try:
            return self.process.wait(timeout=60)
        finally:
            self.process.kill()
            os.close(self.leader)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_a_terminal(talker):
    """Catches a Ctrl-C that ends the program, a command sent as a message, and /exit or Ctrl-D without effect."""
    terminal = Terminal("--model", talker, "--temp", "0", "--length", "100000")
    assert "/reset starts over, /exit quits]" in terminal.until("> ")
    terminal.type("/nothing\n")
    terminal.until("[/nothing is not a command; use /reset or /exit]\n> ")
    terminal.type("x y " * 300 + "\n")
    terminal.until("tinygpt: error: the message has ")
    terminal.until("> ")
    terminal.interrupt()
    terminal.until("[/exit or Ctrl-D quits]\n> ")
    terminal.type("hello\n")
    first = terminal.until("\n> ")
    terminal.type("/reset\n")
    terminal.until("> ")
    terminal.type("hello\n")
    assert terminal.until("\n> ").splitlines()[1:2] == first.splitlines()[1:2]  # a new conversation
    terminal.type("\x04")
    assert terminal.end() == 0


class Endless(Conversation):
    """A conversation whose answers are interrupted after one letter."""

    def ask(self, text):
        yield "a"
        raise KeyboardInterrupt


def test_ctrl_c_ends_only_the_answer(talker, capsys, monkeypatch):
    """Catches a conversation that ends when an answer is interrupted."""
    lines = iter(["hello", "  ", "hello", "/exit", "never"])
    monkeypatch.setattr("tinygpt.chat.conversation.Conversation", Endless)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    out, err = said(capsys, "--model", talker, "--quiet")
    assert out == "a\na\n"
    assert err.count("[answer stopped]\n") == 2
    assert next(lines) == "never"
