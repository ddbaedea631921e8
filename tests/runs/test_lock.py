"""The lock of a run directory: one process at a time, and no stale locks."""

import json
import os
import signal
import subprocess
import sys

import pytest

from tinygpt.runs import directory, lock
from tinygpt.runs.layout import LOCK
from tinygpt.runs.lock import RunLock, check_free

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no flock")

HOLDER = """
import sys, time
from pathlib import Path
from tinygpt.runs.lock import RunLock
held = RunLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of tmp_path / "run"."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_and_the_first_one_named(tmp_path, holder):
    """Catches two runs that write into one directory, and an error that does not name the other process."""
    words = rf"^\[train\] 'out' {tmp_path / 'run'}: process {holder.pid} on \S+ is training in this directory"
    for refused in (RunLock, check_free, directory.check_writable):
        with pytest.raises(ValueError, match=words):
            refused(tmp_path / "run")
    with pytest.raises(ValueError, match=words):
        directory.check_writable(tmp_path / "run", resume=True)


def test_the_lock_of_a_dead_process_is_free(tmp_path, holder):
    """Catches a run that cannot be resumed after kill -9 because its lock file still exists."""
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / LOCK).exists()
    directory.check_writable(tmp_path / "run")
    with RunLock(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / LOCK).read_text())["process"] == os.getpid()


def test_a_released_lock_leaves_no_file(tmp_path):
    """Catches a lock that is not released, and a lock file left in a finished run."""
    with RunLock(tmp_path / "run"):
        pass
    assert list((tmp_path / "run").iterdir()) == []
    held = RunLock(tmp_path / "run")
    held.release()
    held.release()
    with RunLock(tmp_path / "run"):
        pass


def test_a_file_removed_in_between_is_opened_again(tmp_path, monkeypatch):
    """Catches a lock on a removed file, which does not exclude the next process."""
    first = RunLock(tmp_path)
    doing = lock._lock

    def release_first(handle, out):
        monkeypatch.setattr(lock, "_lock", doing)
        first.release()
        doing(handle, out)

    monkeypatch.setattr(lock, "_lock", release_first)
    with RunLock(tmp_path), pytest.raises(ValueError, match="is training in this directory"):
        check_free(tmp_path)


def test_the_lock_follows_when_the_earlier_run_is_moved(tmp_path):
    """Catches a new run without a lock, because the lock moved away with the earlier run."""
    directory.begin(tmp_path / "run", {"seed": 1})
    with RunLock(tmp_path / "run"):
        assert directory.begin(tmp_path / "run", {"seed": 2}) == str(tmp_path / "run.previous")
        assert not (tmp_path / "run.previous" / LOCK).exists()
        with pytest.raises(ValueError, match=f"process {os.getpid()} on"):
            check_free(tmp_path / "run")
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_run_begun_meanwhile_is_not_replaced(tmp_path):
    """Catches a lock that replaces the lock of a faster process."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / LOCK).write_text(name)
    with pytest.raises(ValueError, match="another process is training in this directory"):
        lock.follow(tmp_path / "old", tmp_path / "new")
    assert (tmp_path / "new" / LOCK).read_text() == "new"


@pytest.mark.parametrize("text", [b"", b"\xff", b"[]", b'{"process": "x"}', b"{" * 5000])
def test_an_unreadable_lock_file_still_locks(tmp_path, text):
    """Catches a check that fails on unexpected content of the lock file."""
    with RunLock(tmp_path):
        (tmp_path / LOCK).write_bytes(text)
        with pytest.raises(ValueError, match=r"another process is training in this directory"):
            check_free(tmp_path)


@pytest.mark.parametrize("number", lock._NO_LOCKS)
def test_a_file_system_without_locks_gives_a_warning(tmp_path, monkeypatch, number):
    """Catches training that is refused on such a file system, or unprotected without a warning."""

    def flock(handle, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with pytest.warns(RuntimeWarning, match="has no locks"), RunLock(tmp_path):
        pass
