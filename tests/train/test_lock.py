"""Training holds the lock of its run directory from the first write to the end."""

import os

import pytest
from tiny_run import Listening, content, tiny

from tinygpt.runs.layout import LOCK
from tinygpt.runs.lock import RunLock, check_free
from tinygpt.train.loop import train

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no flock")


def test_a_locked_directory_is_refused(sources, tmp_path):
    """Catches a run that moves away or writes into the directory of a run in progress."""
    out = tmp_path / "out"
    train(tiny(sources, out, steps=2))
    with RunLock(out):
        before = content(tmp_path)
        for resume in (False, True):
            with pytest.raises(ValueError, match=f"process {os.getpid()} on .* is training in this directory"):
                train(tiny(sources, out, resume=resume))
        assert content(tmp_path) == before


@pytest.mark.parametrize("resume", [False, True])
def test_the_lock_is_held_during_a_run(sources, tmp_path, resume):
    """Catches a lock that is never taken, never released, or moved away with an earlier run."""
    out, refused = tmp_path / "out", []
    train(tiny(sources, out, steps=2))

    def probe():
        with pytest.raises(ValueError, match="is training in this directory"):
            check_free(out)
        refused.append(True)

    train(tiny(sources, out, steps=4, resume=resume), Listening(step2=probe))
    assert refused == [True]
    assert not list(tmp_path.rglob(LOCK))


def test_a_failed_run_releases_the_lock(sources, tmp_path):
    """Catches a lock that is kept until the process ends, for example in a notebook."""

    def die():
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        train(tiny(sources, tmp_path / "out"), Listening(step1=die))
    check_free(tmp_path / "out")
    assert not (tmp_path / "out" / LOCK).exists()
