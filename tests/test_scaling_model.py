"""benchmarks/scaling_model.py: what follows from measurements, on hand-made ones."""

import importlib.util
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parent.parent / "benchmarks" / "scaling_model.py"


@pytest.fixture(scope="module")
def model():
    """The program benchmarks/scaling_model.py as a module; it is not part of the package."""
    specification = importlib.util.spec_from_file_location("benchmarks_scaling_model", FILE)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def row(way, seconds, waited):
    return {
        "way": way, "seconds": seconds, "waited": waited, "alone": 0.1, "bits_per_s": 1e9, "gradient": 10_000_000,
        "buckets": [1_000_000],
    }  # fmt: skip


# 10 MB at 1 Gbit/s are 80 ms: at 100 ms the share is 0.8. Hiding 40 of at most 66.7 ms is an efficiency of 0.6.
ROWS = {"small-1gbit": [row("synchronous", 0.16, 0.06), row("synchronous, after backward", 0.20, 0.10)]}


def test_constants_follow_from_two_hosts(model):
    """Catches a share of bits and bytes mixed up, and an efficiency against more than backward can hide."""
    share, efficiency = model.constants(ROWS)
    assert share == pytest.approx(0.8)
    assert efficiency == pytest.approx(0.04 / (0.1 * 2 / 3))


def test_messages_by_hand(model):
    """Catches a factor of 2 or 8, and rounds that do not grow with the logarithm of the machines."""
    assert model.messages(1e9, 1, 1e9) == 0
    assert model.messages(125e6, 2, 1e9) == pytest.approx(1.0 + 2 * 120 * model.LATENCY)
    assert model.messages(1, 1024, 1e12) == pytest.approx(20 * model.LATENCY, rel=1e-4)


def test_a_step_hides_what_it_can(model):
    """Catches messages that are hidden twice, the last bucket hidden, and outer steps that wait every time."""
    job = model.Job("x", compute=3.0, gradient=125_000_000, last=12_500_000)
    all_of_it, last = model.messages(job.gradient, 64, 1e9), model.messages(job.last, 64, 1e9)
    assert model.step(job, 1, 1e9, 1.0, 1.0) == 3.0
    assert model.step(job, 64, 1e9, 1.0, 1.0) == pytest.approx(3.0 + max(last, all_of_it - 2.0))
    assert model.step(job, 64, 1e9, 1.0, 0.0) == pytest.approx(3.0 + all_of_it)
    assert model.step(job, 64, 1e9, 1.0, 0.0, every=10) == pytest.approx(3.0 + all_of_it / 10)
    assert model.step(job, 64, 1e9, 1.0, 0.0, compress=True) < model.step(job, 64, 1e9, 1.0, 0.0)
    assert model.step(job, 64, 1e11, 1.0, 1.0) == pytest.approx(3.0 + model.messages(job.last, 64, 1e11))


def test_the_table_has_every_case(model):
    """Catches a case that is missing, and an efficiency of more than 1."""
    contenders = [{"name": "tinygpt", "median": 0.5}]
    sizes = {"parameters": 124_000_000, "vocab": 50257, "width": 768}
    compare = {"jobs": [{"job": "x"}, {"job": "train-gpt2", "tokens": 256, "sizes": sizes, "contenders": contenders}]}
    rows = model.table({"network": ROWS}, compare)
    assert len(rows) == len(model.CORES) * len(model.MACHINES) * len(model.BANDWIDTHS) * 3
    assert all(0 < one["efficiency"] <= 1 for one in rows)
    faster = {(r["machine"], r["machines"], r["way"]): r["step_s"] for r in rows if r["gbit_per_s"] == 100}
    slower = {(r["machine"], r["machines"], r["way"]): r["step_s"] for r in rows if r["gbit_per_s"] == 10}
    assert all(faster[case] <= slower[case] for case in slower)
