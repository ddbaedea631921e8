"""Real jobs that shard, compress, reduce in a fixed order, or meet only now and then."""

import shutil

import numpy as np
import pytest
from tiny_run import flags, state, tiny, without_clock

from tinygpt.runs import checkpoint, layout
from tinygpt.runs.metrics import read_metrics
from tinygpt.train.loop import train
from tinygpt.train.report import Report
from tinygpt.train.setup import prepare

SETTINGS = {"batch": 6, "grad_accum": 2, "dropout": 0.1, "steps": 8, "checkpoint_every": 4}
MORE = ("--batch", 6, "--grad-accum", 2, "--dropout", 0.1)


def losses(out):
    return np.array([record["loss"] for record in read_metrics(out / layout.METRICS) if "loss" in record])


def words(sources, out, *more):
    return ["train", *flags(tiny(sources, out, steps=8, checkpoint_every=4)), *MORE, *more]


@pytest.fixture(scope="module")
def alone(sources, tmp_path_factory):
    """The run of one process, without any of these ways."""
    out = tmp_path_factory.mktemp("alone") / "out"
    train(tiny(sources, out, **SETTINGS))
    return out


def moments(sources, out):
    """Load the optimizer of the last checkpoint."""
    settings = tiny(sources, out, **SETTINGS)
    run = prepare(settings, Report(), layout.latest_checkpoint(out))
    checkpoint.load_checkpoint(layout.latest_checkpoint(out), run.model, run.optimizer)
    return run.optimizer.state


def test_sharded_state_is_whole_in_a_checkpoint(mpiexec, sources, alone, tmp_path):
    """Catches moments of another rank that are missing, a part that is updated twice or never, and a lost resume."""
    out = tmp_path / "out"
    done = mpiexec(2, *words(sources, out, "--shard-optimizer"))
    assert (done.returncode, done.stderr) == (0, "")
    np.testing.assert_allclose(losses(out), losses(alone), atol=1e-5, rtol=0)
    for name, wanted in moments(sources, alone).items():
        np.testing.assert_allclose(moments(sources, out)[name], wanted, atol=1e-6, rtol=1e-3)
    done = mpiexec(3, "train", "--resume", "--out", out, "--steps", 12)
    assert (done.returncode, done.stderr) == (0, "")
    longer = tmp_path / "longer"
    shutil.copytree(alone, longer)
    train(tiny(sources, longer, **SETTINGS | {"steps": 12, "resume": True}))
    np.testing.assert_allclose(losses(out), losses(longer), atol=1e-5, rtol=0)


def test_deterministic_reduce_keeps_every_bit(mpiexec, sources, tmp_path):
    """Catches an order of additions that depends on the number of ranks or on the split into forward passes."""
    ways = {"alone": SETTINGS, "split": SETTINGS | {"batch": 3, "grad_accum": 4}}
    for name, settings in ways.items():
        train(tiny(sources, tmp_path / name, deterministic_reduce=True, **settings))
    done = mpiexec(3, *words(sources, tmp_path / "three", "--deterministic-reduce"))
    assert (done.returncode, done.stderr) == (0, "")
    last = [state(layout.latest_checkpoint(tmp_path / name)) for name in ("alone", "split", "three")]
    assert last[0] == last[1] == last[2]
    records = [without_clock(read_metrics(tmp_path / name / layout.METRICS)) for name in ("alone", "split", "three")]
    assert records[0] == records[1] == records[2]


def test_compressed_gradients_learn_the_same(mpiexec, sources, alone, tmp_path):
    """Catches gradients that are rounded without error feedback or scaled, and ranks that end with other weights."""
    out = tmp_path / "out"
    done = mpiexec(2, *words(sources, out, "--compress", "bf16"))
    assert (done.returncode, done.stderr) == (0, "")
    np.testing.assert_allclose(losses(out), losses(alone), atol=0.01, rtol=0)
    assert (losses(out) != losses(alone)).any()


def test_ranks_that_meet_every_four_steps(mpiexec, sources, alone, tmp_path):
    """Catches weights that are never averaged, momentum that a checkpoint loses, and an end without an average."""
    out = tmp_path / "out"
    done = mpiexec(2, *words(sources, out, "--sync-every", 4))
    assert (done.returncode, done.stderr) == (0, "")
    found = [record["val_loss"] for record in read_metrics(out / layout.METRICS) if "val_loss" in record]
    wanted = [record["val_loss"] for record in read_metrics(alone / layout.METRICS) if "val_loss" in record]
    assert found[-1] < found[0]
    assert abs(found[-1] - wanted[-1]) < 1  # of about 5: outer momentum needs more than two outer steps


@pytest.mark.parametrize("way", [("--compress", "bf16"), ("--sync-every", 4)])
def test_a_resumed_job_ends_with_the_same_bits(mpiexec, sources, tmp_path, way):
    """Catches a residual or a momentum that the run has and its checkpoint does not."""
    out = tmp_path / "out"
    assert mpiexec(2, *words(sources, out, *way)).returncode == 0
    last = layout.latest_checkpoint(out)
    wanted = state(last)
    shutil.rmtree(last)
    assert mpiexec(2, "train", "--resume", "--out", out).returncode == 0
    assert state(last) == wanted


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shard_optimizer": True, "deterministic_reduce": True}, "'shard_optimizer' cannot be combined with"),
        ({"compress": "bf16", "sync_every": 4}, "'compress' cannot be combined with 'sync_every'"),
        ({"sync_every": 3}, "'eval_every' 4 must be a multiple of 'sync_every' 3"),
        ({"outer_lr": 0.0}, "'outer_lr' must be more than 0"),
        ({"shard_optimizer": True, "watch": "weights"}, "'watch' cannot be combined with 'shard_optimizer'"),
    ],
)
def test_ways_that_exclude_each_other(sources, tmp_path, changes, message):
    """Catches a combination that would train something else than was asked for."""
    with pytest.raises(ValueError, match=message):
        tiny(sources, tmp_path, **changes).validate()
