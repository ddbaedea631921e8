"""A disk that fails under a training run: every write, sync and rename fails once; power is cut at every moment.

A sample of the moments; `python tests/soak/faults.py` takes all of them.
"""

import errno
import os
import shutil

import pytest
from faults import Failing, after_fault, after_power_cut, cuts, further, reference, seeded
from tiny_run import tiny

from tinygpt.io import atomic
from tinygpt.train.loop import TrainingFailed, train

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux's /proc")
EVERY = 9  # calls, of which one fails
PACE = {"steps": 4, "eval_every": 2, "checkpoint_every": 2, "dropout": 0.1, "grad_accum": 2, "batch": 2, "keep": 1}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Leave out real syncs, which only take time."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="module")
def whole(sources, tmp_path_factory):
    """A run that met no fault, and the number of calls that change the disk."""
    return reference(tiny(sources, tmp_path_factory.mktemp("whole") / "new" / "out", **PACE))


@pytest.mark.parametrize(
    ("code", "stays", "first"), [(errno.ENOSPC, False, 0), (errno.EIO, False, 4), (errno.ENOSPC, True, 7)]
)
def test_no_failed_call_costs_more_than_the_steps_since_the_last_checkpoint(
    sources, tmp_path, whole, code, stays, first
):
    """Catches a run that cannot be resumed after a full or broken disk, a lost checkpoint, an error without a file."""
    found, calls = whole
    for at in range(first, calls, EVERY):
        settings = tiny(sources, tmp_path / f"at-{at}" / "new" / "out", **PACE)
        after_fault(settings, found, at, code, stays)


@pytest.mark.parametrize("chance", [None, 0])
def test_no_power_cut_costs_more_than_the_steps_since_the_last_checkpoint(sources, tmp_path, whole, chance):
    """Catches a file renamed before it was synced, a directory whose name was not, a checkpoint without its records."""
    settings = tiny(sources, tmp_path / "cut" / "new" / "out", **PACE)
    directories = cuts(settings, tmp_path / "cuts", 2 * EVERY, None if chance is None else seeded(chance))
    assert len(directories) > 5
    for folder, synced in directories:
        after_power_cut(settings, folder, whole[0], synced)


def test_adapters_survive_the_same(sources, tmp_path):
    """Catches a score of the given model that stands in the metrics twice, and an adapter folder that is lost."""
    base, at = tmp_path / "base", iter(range(1000))
    train(tiny(sources, base))

    def settings():
        return further(sources, base, tmp_path / f"run-{next(at)}" / "new" / "out")

    found, calls = reference(settings())
    for call in range(2, calls, 3 * EVERY):
        after_fault(settings(), found, call, errno.ENOSPC)
    one = settings()
    for folder, synced in cuts(one, tmp_path / "cuts", 4 * EVERY, seeded(2)):
        after_power_cut(one, folder, found, synced)


@pytest.mark.parametrize("broken", ["fsync", "order"])
def test_the_power_cuts_find_what_is_not_synced(sources, tmp_path, whole, monkeypatch, broken):
    """Catches an imitation that would pass any code: without syncs, or with the rename before them, runs are lost."""
    if broken == "fsync":
        monkeypatch.setattr(atomic, "sync_folder", lambda folder: None)
    else:
        monkeypatch.setattr(atomic, "_sync_tree", lambda folder: None)
        monkeypatch.setattr(atomic, "sync_file", lambda path: None)
    settings = tiny(sources, tmp_path / "cut" / "new" / "out", **PACE)
    lost = 0
    for folder, synced in cuts(settings, tmp_path / "cuts", 4 * EVERY, seeded(1)):
        try:
            after_power_cut(settings, folder, whole[0], synced)
        except (AssertionError, ValueError, FileNotFoundError):
            lost += 1
    assert lost


def test_an_error_says_what_is_left_of_the_run(sources, tmp_path):
    """Catches a full disk without the name of the file, the state that is left, or the way on."""
    settings = tiny(sources, tmp_path / "out", **PACE)
    with Failing(tmp_path) as calls:
        train(settings)
    shutil.rmtree(tmp_path / "out")
    with Failing(tmp_path, len(calls.calls) - 9), pytest.raises(TrainingFailed) as error:
        train(settings)
    message = str(error.value)
    assert "No space left on device" in message
    assert f"the last good state is {tmp_path / 'out' / 'checkpoints' / 'step-2'}" in message
    assert message.endswith("when the fault is mended, continue with 'resume'")
    assert "\n" not in message
