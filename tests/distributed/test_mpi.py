"""Real jobs under mpiexec: the same losses as one process, errors in one line, ranks that die, resumed jobs."""

import os
import re
import signal
import subprocess
import time

import numpy as np
import pytest
from tiny_run import flags, tiny

from tinygpt.runs import layout
from tinygpt.runs.metrics import read_metrics
from tinygpt.train.loop import train

SETTINGS = {"batch": 12, "grad_accum": 2, "dropout": 0.1, "steps": 8}
MORE = ("--batch", 12, "--grad-accum", 2, "--dropout", 0.1)
AT_ONCE = 10.0  # seconds in which a job must have ended, on a machine that is busy too


def losses(out):
    return np.array([record["loss"] for record in read_metrics(out / layout.METRICS) if "loss" in record])


@pytest.fixture(scope="module")
def alone(sources, tmp_path_factory):
    """The run of one process."""
    out = tmp_path_factory.mktemp("alone") / "out"
    train(tiny(sources, out, **SETTINGS))
    return out


def words(sources, out, *more):
    return ["train", *flags(tiny(sources, out, steps=8)), *MORE, *more]


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_the_losses_of_one_process(mpiexec, sources, alone, tmp_path, ranks):
    """Catches a rank with another part of the batch, other dropout masks, a sum that is no mean; noise from ranks."""
    out = tmp_path / "out"
    done = mpiexec(ranks, *words(sources, out))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\ntokens ") == done.stdout.count("\nvalidation ") == 1
    assert f"{ranks} ranks on 1 machine, 1 thread each" in done.stdout
    np.testing.assert_allclose(losses(out), losses(alone), atol=1e-5, rtol=0)
    evaluations = [
        [record["val_loss"] for record in read_metrics(run / layout.METRICS) if "val_loss" in record]
        for run in (out, alone)
    ]
    np.testing.assert_allclose(*evaluations, atol=1e-5, rtol=0)


def test_a_batch_that_cannot_be_divided(mpiexec, sources, tmp_path):
    """Catches a line from every rank, an exit status that hides the error, and a directory that is written anyway."""
    done = mpiexec(3, "train", *flags(tiny(sources, tmp_path / "out")))
    assert done.returncode == 2
    assert done.stderr == "tinygpt: error: --batch 4 must be a multiple of the 3 processes of mpiexec\n"
    assert not (tmp_path / "out").exists()


def test_a_flag_that_does_not_exist(mpiexec):
    """Catches an error that every rank prints, because it is found before the ranks know each other."""
    done = mpiexec(2, "train", "--layerz", 3)
    assert done.returncode == 2
    assert done.stderr.count("tinygpt: error:") == 1


FAILING = """
import sys
from tinygpt.cli import main
from tinygpt.data.windows import Windows
from tinygpt.train.loop import Trainer

batch = Windows.batch

def failing(self, first, count):
    if first >= 6 * 24:
        raise MemoryError("no room for the batch")
    return batch(self, first, count)

Windows.batch = failing
sys.exit(main())
"""


def test_a_rank_that_fails_ends_the_job_with_its_reason(mpiexec, sources, alone, tmp_path):
    """Catches ranks that wait for ever, a reason that is not told, and a job that cannot be resumed afterwards."""
    out = tmp_path / "out"
    began = time.monotonic()
    done = mpiexec(1, *words(sources, out), other=FAILING)
    assert time.monotonic() - began < AT_ONCE + 10
    assert done.returncode == 1
    assert re.search(r"^tinygpt: error: rank 1 on \S+: not enough memory: no room for the batch$", done.stderr, re.M)
    assert layout.latest_checkpoint(out).name == "step-5"
    done = mpiexec(3, "train", "--resume", "--out", out)  # another number of ranks
    assert (done.returncode, done.stderr) == (0, "")
    np.testing.assert_allclose(losses(out), losses(alone), atol=1e-5, rtol=0)


def processes(out):
    """Process ids of the ranks that write or watch a run directory."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                line = file.read().decode().split("\0")
        except OSError:
            continue
        if str(out) in line and line[1:3] == ["-m", "tinygpt"]:
            found.append(int(pid))
    return sorted(found)


@pytest.fixture
def endless(mpiexec, sources, tmp_path):
    """A job of two ranks that has written a checkpoint and would train for hours."""
    if not os.path.isdir("/proc/self"):
        pytest.skip("ranks are found through /proc")
    out = tmp_path / "out"
    pace = flags(tiny(sources, out, steps=10**7, eval_every=10**7, checkpoint_every=20))
    job = mpiexec(2, "train", *pace, *MORE, start=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    end = time.monotonic() + 60
    while job.poll() is None and time.monotonic() < end and not (out / "checkpoints" / "step-20").exists():
        time.sleep(0.01)
    yield job, out
    job.kill()
    job.communicate()


def test_a_killed_rank_ends_the_job(endless):
    """Catches ranks that wait for one that is dead, and that stay behind."""
    job, out = endless
    ranks = processes(out)
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    _, said = job.communicate(timeout=AT_ONCE)
    assert job.returncode != 0
    assert "Killed" in said or "signal 9" in said or job.returncode == 9
    end = time.monotonic() + AT_ONCE
    while processes(out) and time.monotonic() < end:
        time.sleep(0.01)
    assert processes(out) == []
    assert layout.latest_checkpoint(out) is not None


def test_ctrl_c_stops_all_ranks_after_the_same_step(endless, mpiexec):
    """Catches ranks that stop after different steps, of which one waits for ever, and a hint that is no use."""
    job, out = endless
    job.send_signal(signal.SIGINT)
    _, said = job.communicate(timeout=AT_ONCE)
    assert job.returncode == 130
    found = re.search(r"^tinygpt: stopped after step (\d+) of .*; resume with: (.*)$", said, re.M)
    assert found[2] == f"mpiexec -n 2 tinygpt train --resume --out {out}"
    assert layout.latest_checkpoint(out).name == f"step-{found[1]}"
    assert len(losses(out)) == int(found[1])
