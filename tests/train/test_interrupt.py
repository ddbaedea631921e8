"""Ctrl-C and kill: a training process gets a signal from outside."""

import signal
import subprocess
import sys
import threading
import time

import pytest
from tiny_run import content, flags, state, tiny, without_clock

import tinygpt
from tinygpt.runs import layout
from tinygpt.runs.metrics import read_metrics
from tinygpt.train.interrupt import Interrupt
from tinygpt.train.loop import train

# Long enough that the signal arrives during training on any machine. Only the resumed runs train to the end.
STEPS = 800
PACE = {"steps": STEPS, "embed": 32, "eval_every": 50, "eval_tokens": 64, "checkpoint_every": 50}


def command(*arguments):
    return [sys.executable, "-m", "tinygpt", "train", *arguments]


@pytest.fixture(scope="module")
def whole(sources, tmp_path_factory):
    """A run without interruption."""
    out = tmp_path_factory.mktemp("whole") / "out"
    train(tiny(sources, out, **PACE))
    return out


@pytest.fixture
def begun(sources, tmp_path):
    """A training process that has saved a checkpoint after step 50, and its run directory."""
    out = tmp_path / "out"
    process = subprocess.Popen(
        command(*flags(tiny(sources, out, **PACE)), "--eval-tokens", "64"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end and not (out / "checkpoints" / "step-50").exists():
        time.sleep(0.002)
    yield process, out
    process.kill()
    process.communicate()


def assert_resumes_identically(out, whole):
    """Resume in a process of its own, and compare with the uninterrupted run."""
    done = subprocess.run(
        command("--resume", "--out", str(out), "--quiet"), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert state(out) == state(whole)
    assert state(out / "checkpoints" / f"step-{STEPS}") == state(whole / "checkpoints" / f"step-{STEPS}")
    records = read_metrics(out / "metrics.jsonl")
    assert [record["step"] for record in records if "loss" in record] == list(range(STEPS))
    assert without_clock(records) == without_clock(read_metrics(whole / "metrics.jsonl"))


def test_ctrl_c_saves_and_says_how_to_resume(begun, whole):
    """Catches a traceback, a lost step, a hint that does not work, and a resumed run that differs."""
    process, out = begun
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.count("\n") == 1
    assert err.startswith("tinygpt: stopped after step ")
    assert err.endswith(f"resume with: tinygpt train --resume --out {out}\n")
    step = int(err.split()[4])
    assert 50 <= step < STEPS
    assert layout.latest_checkpoint(out).name == f"step-{step}"
    assert [record["step"] for record in read_metrics(out / "metrics.jsonl") if "loss" in record] == list(range(step))
    tinygpt.load(out)
    assert_resumes_identically(out, whole)


def test_a_killed_run_can_be_resumed(begun, whole):
    """Catches files written in place, metrics older than a checkpoint, and leftovers that are read."""
    process, out = begun
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    tinygpt.load(out)
    tinygpt.load(layout.latest_checkpoint(out))
    assert_resumes_identically(out, whole)
    assert not [path for path in content(out) if path.startswith(".") or "/." in path]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted(number):
    """Catches a signal that ends the current step, and handlers that stay after the run."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Interrupt() as interrupt:
        assert not interrupt.wanted
        signal.raise_signal(number)
        assert interrupt.wanted
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_second_ctrl_c_ends_at_once():
    """Catches a program that cannot be stopped while it saves."""
    before = signal.getsignal(signal.SIGINT)  # may be None: a background job can start without a handler
    with Interrupt():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_thread_trains_without_handlers():
    """Catches a run that fails outside the main thread, where Python allows no signal handlers."""
    found = []

    def run():
        with Interrupt() as interrupt:
            found.append(interrupt.wanted)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [False]
