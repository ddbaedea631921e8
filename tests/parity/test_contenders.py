"""The contenders of benchmarks/, in their real processes: they must compute the same results as tinygpt."""

import importlib
import sys
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def programs():
    """The modules jobs, contest, compare and products of benchmarks/."""
    sys.path.insert(0, str(PROGRAMS))
    yield {name: importlib.import_module(name) for name in ("jobs", "contest", "compare", "products")}
    sys.path.remove(str(PROGRAMS))


def raced(found, *names):
    assert [one["name"] for one in found["contenders"]] == list(names)
    assert found["missing"] == {}


def test_training_agrees_with_pytorch(programs, require):
    """Catches a contender with a different loss or update, in float32 or under autocast."""
    require("torch")
    model = programs["jobs"].Model(65, 24, 2, 2, 16, 3, 24)
    names = ("tinygpt", "torch", "torch bfloat16")
    race = programs["jobs"].Job("tiny", "train", model, names)
    raced(programs["compare"].run(race, 1, 1, 1e-3), *names)


@pytest.mark.parametrize("kind", ["decode", "prefill"])
def test_generation_agrees_with_transformers(programs, require, kind):
    """Catches a misplaced weight, and a KV cache that loses the prompt."""
    require("transformers")
    model = programs["jobs"].Model(65, 24, 2, 2, 16, 2, 9)
    race = programs["jobs"].Job("tiny", kind, model, ("tinygpt", "transformers"), 4)
    raced(programs["compare"].run(race, 1, 1, 1e-3), "tinygpt", "transformers")


def test_products_and_attention_agree_with_pytorch(programs, require):
    """Catches a wrong transpose, heads and positions exchanged, and the wrong gradient."""
    require("torch")
    jobs, contest, products = (programs[name] for name in ("jobs", "contest", "products"))
    workers, missing = contest.open_workers(jobs.PRODUCT_CONTENDERS, 1)
    try:
        assert missing == {}
        for case in ("NT", "NN", "TN"):
            row = products.measure(workers, jobs.product(case, 9, 17, 33, "layer", 9) | {"seconds": 1e-4}, 1)
            assert row["seconds"].keys() == set(jobs.PRODUCT_CONTENDERS)
        pair = {name: workers[name] for name in jobs.ATTENTION_CONTENDERS}
        task = {"kind": "attention", "B": 2, "T": 19, "H": 3, "D": 8, "flops": 1, "seconds": 1e-4}
        assert products.measure(pair, task, 1)["ratio"].keys() == {"torch"}
    finally:
        contest.close_workers(workers)
