"""The contest of benchmarks/: jobs, alternation, agreement, statistics, and the worker processes."""

import importlib
import json
import math
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from tinygpt import GPT, GPTConfig

PROGRAMS = Path(__file__).resolve().parent.parent / "benchmarks"


def program(name):
    """Import a module of benchmarks/, whose programs import each other by name."""
    sys.path.insert(0, str(PROGRAMS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(PROGRAMS))


jobs, worker, contest, inputs = map(program, ("jobs", "worker", "contest", "inputs"))
TINY = jobs.Model(11, 12, 2, 2, 8, 2, 12)


def test_a_job_has_the_parameters_of_tinygpt():
    """Catches a contender that starts from other weights because of a different name or shape."""
    gpt = GPT(GPTConfig(11, 12, 2, 2, 8))
    assert dict(TINY.shapes()) == {name: p.shape for name, p in gpt.named_parameters()}
    assert TINY.parameters() == gpt.num_parameters()
    given = dict(inputs.weights(TINY))
    assert {name: x.shape for name, x in given.items()} == dict(TINY.shapes())
    assert all(x.dtype == np.float32 for x in given.values())
    assert len({x.tobytes() for x in given.values()}) == len(given)


def test_operations_are_those_of_the_model():
    """Catches a flop count without the head, the backward pass or the causal half."""
    assert TINY.step_flops() == TINY.tokens * GPTConfig(11, 12, 2, 2, 8).flops_per_token()
    assert TINY.forward_flops(head_rows=1) == TINY.forward_flops() - 2 * 11 * 8 * (TINY.tokens - 1)


def test_costs_of_a_job():
    """Catches prompt tokens counted as decoded ones, and weights counted once for a whole sequence."""
    train = jobs.Job("a", "train", TINY, ("tinygpt",))
    decode = jobs.Job("b", "decode", TINY, ("tinygpt",), 5)
    assert (train.tokens(), train.bytes()) == (24, 28 * TINY.parameters())
    assert (decode.tokens(), decode.bytes()) == (10, 5 * 4 * TINY.multiplying())
    assert jobs.Model(**train.task(0.1)["model"]) == TINY


def test_products_cover_forward_and_both_gradients():
    """Catches a wrong transpose, a repeated shape, and a shape that takes minutes."""
    found = jobs.products()
    keys = [(task["case"], task["M"], task["K"], task["N"]) for task in found]
    assert len(keys) == len(set(keys))
    assert {("NT", 256, 768, 2304), ("NN", 256, 2304, 768), ("TN", 2304, 256, 768)} <= set(keys)
    assert {task["rows"] for task in found} == set(jobs.ROWS)
    assert max(task["rows"] for task in found if 50257 in (task["M"], task["K"], task["N"])) == 256
    for task in found[::17]:
        small = task | {"M": 3, "K": 5, "N": 7}
        a, b = inputs.operands(small)
        a, b = a.T if task["case"][0] == "T" else a, b.T if task["case"][1] == "T" else b
        assert (a @ b).shape == (3, 7)


def test_attention_stays_bounded():
    """Catches a shape with unbounded quadratic work, or with fewer heads than threads."""
    for task in jobs.attentions():
        assert task["B"] * task["H"] >= jobs.FEWEST_HEADS
        assert task["flops"] < 1e11
    assert {(task["T"], task["D"]) for task in jobs.attentions()} >= {(64, 32), (4096, 128)}


def test_environment_is_the_same_for_all():
    """Catches a variable that slows one library, and a library with more threads than the others."""
    base = {"PATH": "p", "OPENBLAS_CORETYPE": "x", "OPENBLAS_L2_SIZE": "1", "TINYGPT_KERNELS": "naive"}
    found = contest.environment(3, base | {"OMP_NUM_THREADS": "7"})
    assert found["PATH"] == "p"
    assert not {"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "TINYGPT_KERNELS"} & found.keys()
    assert {found[name] for name in contest.THREADS} == {"3"}


class Played:
    """A contender that records its turns."""

    def __init__(self, name, log):
        self.name, self.log = name, log

    def run(self):
        self.log.append(self.name)
        return float(len(self.log))


def test_contenders_take_turns():
    """Catches all repetitions of one in a row, one that is always first, and times assigned to the wrong one."""
    log = []
    found = contest.alternate({name: Played(name, log) for name in "abc"}, 4, pause=0)
    assert "".join(log) == "abc" + "bca" + "cab" + "abc"
    assert found == {name: [i + 1.0 for i, one in enumerate(log) if one == name] for name in "abc"}
    assert contest.alternate({}, 2, pause=0) == {}


def test_summary_is_median_and_quartiles():
    """Catches a mean, a lost order, and a failure on a single repetition."""
    found = contest.summary([5.0, 1.0, 2.0, 3.0, 100.0])
    assert found == {"median": 3.0, "low": 2.0, "high": 5.0, "seconds": [5.0, 1.0, 2.0, 3.0, 100.0]}
    assert contest.summary([2.0]) == {"median": 2.0, "low": 2.0, "high": 2.0, "seconds": [2.0]}


def test_ratio_is_taken_within_a_round():
    """Catches a ratio of medians from different rounds, and an inverted ratio."""
    assert contest.median_ratio([2.0, 20.0, 200.0], [1.0, 10.0, 100.0]) == 2.0
    assert contest.median_ratio([3.0, 1.0, 8.0], [1.0, 1.0, 2.0]) == 3.0
    with pytest.raises(ValueError, match="zip"):
        contest.median_ratio([1.0], [1.0, 2.0])


def test_geometric_mean():
    """Catches the arithmetic mean, and the logarithm of zero."""
    assert contest.geometric_mean([0.5, 2.0]) == pytest.approx(1.0)
    assert contest.geometric_mean([1.0, 10.0, 100.0]) == pytest.approx(10.0)
    for wrong in ([], [1.0, 0.0]):
        with pytest.raises(ValueError, match="geometric mean"):
            contest.geometric_mean(wrong)


@pytest.mark.parametrize(
    "got",
    [[1.0, 2.02], [0.998, 2.0], [math.nan, 2.0], [1.0, math.inf], [1.0]],
    ids=["second", "first", "nan", "inf", "few"],
)
def test_a_contender_with_other_results_is_named(got):
    """Catches a contender that is timed although its loss differs, is NaN or is missing."""
    tolerance = {"a": [1e-3, 1e-2], "b": [1e-3, 1e-2]}
    contest.agree({"a": [1.0, 2.0], "b": [1.0009, 1.991]}, tolerance)
    with pytest.raises(contest.ContenderError, match=r"^b "):
        contest.agree({"a": [1.0, 2.0], "b": got}, tolerance)


def test_nan_of_the_first_is_an_error():
    """Catches contenders that agree on NaN."""
    with pytest.raises(contest.ContenderError, match="nan"):
        contest.agree({"a": [math.nan]}, {"a": [1.0]})


def test_calls_fill_the_time():
    """Catches a repetition too short to measure, an endless one, and a division by zero."""
    assert worker.calls_for(0.1, 0.03) == 4
    assert worker.calls_for(0.1, 5.0) == 1
    assert worker.calls_for(0.1, 0.0) == worker.MOST_CALLS


def test_repetition_times_calls_alone(monkeypatch):
    """Catches a timed warm-up call, timed preparation, and a sum in place of a mean.

    The clock is simulated.
    """
    now = [0.0]
    monkeypatch.setattr(worker.time, "perf_counter", lambda: now[0])
    log = []

    def spend(name, seconds):
        log.append(name)
        now[0] += seconds

    built = worker.Built(lambda: spend("call", 2.0), [])
    assert worker.repetition(built, 3) == 2.0
    assert log == ["call"] * 4  # including one to warm up
    log.clear()
    prepared = worker.Built(lambda: spend("call", 2.0), [], lambda: spend("prepare", 50.0))
    assert worker.repetition(prepared, 2) == 2.0
    assert log == ["prepare", "call"] * 3
    log.clear()
    assert worker.repetition(built, 1) == 2.0
    assert log == ["call"]


FAKE = """
import json, sys
first, *answers = json.loads(sys.argv[1])
print(json.dumps(first), flush=True)
for line, answer in zip(sys.stdin, answers):
    print(json.dumps(answer), flush=True)
"""


def fake(tmp_path, *answers):
    """A worker that gives the answers one after the other, and then ends."""
    file = tmp_path / "fake.py"
    file.write_text(FAKE)
    return contest.Worker(json.dumps(answers), 1, file)


def test_a_worker_answers(tmp_path):
    """Catches a lost answer, an error reported as a time, and a process left running."""
    one = fake(tmp_path, {"ready": True}, {"seconds": 0.5}, {"error": "ValueError: no"})
    assert one.run() == 0.5
    with pytest.raises(contest.ContenderError, match="ValueError: no"):
        one.run()
    one.close()
    assert one.process.poll() == 0


def test_a_worker_that_ends_is_an_error(tmp_path):
    """Catches an endless wait for a process that was killed."""
    one = fake(tmp_path, {"ready": True})
    with pytest.raises(contest.ContenderError, match="ended with status 0"):
        one.run()
    one.close()


def test_a_missing_library_is_reported(tmp_path, monkeypatch):
    """Catches a contender left out silently, and our own broken import reported as a missing library."""
    with pytest.raises(contest.MissingError, match="nothing is not installed"):
        fake(tmp_path, {"missing": "nothing is not installed"})
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name, library in (("lacks_peer", "torch"), ("lacks_own", "no_such_module")):
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('x', name='{library}')\n")
        monkeypatch.setitem(worker.MODULES, name, name)
    with pytest.raises(ImportError, match="torch is not installed"):
        worker.load("lacks_peer")
    with pytest.raises(ModuleNotFoundError, match="x"):
        worker.load("lacks_own")


def test_a_contest_of_rungs():
    """Catches a job that does not run, an empty check, and memory that includes the imports only."""
    compare = program("compare")
    race = jobs.Job("tiny", "train", TINY, ("tinygpt", "tinygpt numpy"))
    found = compare.run(race, 1, 2, 0.001)
    assert [one["name"] for one in found["contenders"]] == ["tinygpt", "tinygpt numpy"]
    for one in found["contenders"]:
        first, second = one["check"]
        assert abs(first - math.log(11)) < 0.2
        assert second < first
        assert one["median"] > 0
        assert len(one["seconds"]) == 2
    assert found["contenders"][0]["ratio"] == 1.0


@pytest.mark.parametrize("kind", ["decode", "prefill"])
def test_a_contest_of_generation(kind):
    """Catches logits that are not compared, and a prompt without room for new tokens."""
    compare = program("compare")
    model = jobs.Model(**asdict(TINY) | {"length": 5})
    found = compare.run(jobs.Job("tiny", kind, model, ("tinygpt", "tinygpt numpy"), 6), 1, 1, 0.001)
    assert all(len(one["check"]) == inputs.SAMPLES for one in found["contenders"])


def test_shapes_are_measured():
    """Catches a grid whose contenders compute different matmuls, and a row-wise op without its bytes."""
    products = program("products")
    workers, _ = contest.open_workers(("tinygpt", "numpy"), 1)
    try:
        for case in ("NT", "NN", "TN"):
            task = jobs.product(case, 5, 6, 7, "layer", 5) | {"seconds": 1e-4}
            row = products.measure(workers, task, 2)
            assert set(row["seconds"]) == {"tinygpt", "numpy"}
            assert set(row["ratio"]) == {"numpy"}
        ours = {"tinygpt": workers["tinygpt"]}
        row = products.measure(ours, {"kind": "rowwise", "op": "add", "R": 4, "C": 8, "seconds": 1e-4}, 1)
        assert row["bytes"] == 3 * 4 * 8 * 4
    finally:
        contest.close_workers(workers)


def test_the_higher_peak_counts():
    """Catches shares above 100 % because a peak was measured while another program ran."""
    roof = {"peak_flops": 2.0, "read_bandwidth": 5.0, "copy_bandwidth": 1.0}
    facts = {"ceilings": {"1": dict(roof)}}
    contest.raise_ceilings(facts, {"ceilings": {"1": roof | {"peak_flops": 3.0, "read_bandwidth": 4.0}}})
    assert facts["ceilings"]["1"] == {"peak_flops": 3.0, "read_bandwidth": 5.0, "copy_bandwidth": 1.0}


def test_a_result_file_is_whole(tmp_path):
    """Catches a partial file after an interruption, and a temporary file left behind."""
    file = tmp_path / "out.json"
    contest.save({"a": 1}, file)
    contest.save({"a": [2.5]}, file)
    assert json.loads(file.read_text()) == {"a": [2.5]}
    assert list(tmp_path.iterdir()) == [file]
