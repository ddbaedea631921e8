"""benchmarks/summary.py: from results of compare.py and products.py to tables, on hand-made results."""

import importlib.util
import json
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parent.parent / "benchmarks" / "summary.py"


@pytest.fixture(scope="module")
def summary():
    """The program benchmarks/summary.py as a module; it is not part of the package."""
    specification = importlib.util.spec_from_file_location("benchmarks_summary", FILE)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


MACHINE = {
    "processor": "A processor", "cores": 2, "isa": "avx2", "cache_bytes": 1000, "date": "2026-01-02",
    "versions": {"torch": "2", "numpy": "1"},
    "ceilings": {"2": {"peak_flops": 100e9, "read_bandwidth": 20e9, "copy_bandwidth": 10e9}},
}  # fmt: skip
SIZES = {"layers": 1, "width": 2, "heads": 1, "vocab": 3, "batch": 4, "length": 5, "parameters": 1000}


def job(kind="train", name="train-x", **changes):
    ours = {"name": "tinygpt", "median": 2.0, "low": 1.5, "high": 2.5, "ratio": 1.0, "high_water": 2**20}
    peer = {"name": "torch", "median": 5.0, "low": 4.0, "high": 6.0, "ratio": 2.4, "high_water": 3 * 2**20}
    extra = {"seconds": [1.23456789], "check": [1.0], "calls": 3}
    found = {"job": name, "kind": kind, "threads": 2, "sizes": SIZES, "tokens": 20, "flops": 100e9, "bytes": 5e9}
    return found | {"contenders": [ours | extra, peer | extra], "missing": {"jax": "jax is not installed"}} | changes


def row(ratios, **changes):
    base = {"case": "NT", "M": 1, "K": 2, "N": 3, "layer": "tiny qkv", "rows": 1, "flops": 4e9}
    seconds = {"tinygpt": 1.0, "tinygpt bfloat16": 0.5, **ratios}
    return base | {"seconds": seconds, "ratio": ratios} | changes


COMPARE = {"kind": "compare", "machine": MACHINE, "jobs": [job(), job("decode", "decode-x")]}
THREE = [row({"numpy": 0.5}), row({"numpy": 2.0}), row({"numpy": 4.0}, case="TN")]
ADD = {"op": "add", "bytes": 5e9, "seconds": {"tinygpt": 1.0}, "ratio": {}}
PRODUCTS = {
    "kind": "products",
    "machine": MACHINE,
    "grids": [
        {"grid": "products", "threads": 2, "rows": THREE},
        {"grid": "rowwise", "threads": 2, "rows": [ADD]},
    ],
}


def test_a_compact_file_has_medians_to_four_digits(summary):
    """Catches raw times in the docs, a lost contender, and integers that were rounded."""
    found = summary.compact(COMPARE)
    assert [list(one) for one in found["jobs"][0]["contenders"]] == [
        ["name", "median", "low", "high", "ratio", "high_water"]
    ] * 2
    assert found["jobs"][0]["contenders"][1]["high_water"] == 3 * 2**20
    assert summary.rounded({"a": [1.23456789, 123456]}) == {"a": [1.235, 123456]}


@pytest.mark.parametrize("data", [COMPARE, PRODUCTS], ids=["compare", "products"])
def test_a_written_file_reads_back(summary, data):
    """Catches rows in the wrong place, and invalid JSON."""
    assert json.loads(summary.dump(summary.compact(data))) == summary.compact(data)


def test_the_bound_follows_from_the_peaks(summary):
    """Catches a bound without AdamW, memory traffic for data that fits the cache, and the wrong bandwidth."""
    assert summary.bound(COMPARE, job()) == pytest.approx(1.0 + 0.5)
    assert summary.bound(COMPARE, job("decode")) == pytest.approx(1.0)
    assert summary.bound(COMPARE, job("decode", flops=1.0)) == pytest.approx(0.25)
    small = job(sizes=SIZES | {"parameters": 10})
    assert summary.bound(COMPARE, small) == pytest.approx(1.0)


def test_a_contest_names_every_contender(summary):
    """Catches a contender left out, a missing library not mentioned, and an inverted share or rate."""
    heads, lines, align = summary.race(COMPARE, "train", 2)
    assert all(len(line) == len(heads) for line in lines)
    assert len(align) == len(heads)
    assert [line[1] for line in lines] == ["*bound*", "tinygpt", "torch", "jax"]
    assert lines[1][2:] == ("2 s", "1.5 s to 2.5 s", "10", "75 %", "1.00")
    assert lines[2][-1] == "2.40"
    assert "not installed" in lines[3][2]
    assert summary.race(COMPARE, "train", 1)[1] == []
    assert summary.race(COMPARE, "train", 2, "length-")[1] == []


def test_memory_is_relative_to_tinygpt(summary):
    """Catches megabytes off by a factor of a thousand, and a share relative to the peer."""
    _, lines, _ = summary.memory(COMPARE, 2)
    assert [line[1:] for line in lines] == [("tinygpt", "1 MB", "1.00"), ("torch", "3 MB", "3.00")]


def test_small_weights_are_relative_to_the_bandwidth(summary):
    """Catches tokens counted as steps, bytes of the wrong type, and a missing contender not mentioned."""
    ours = {"name": "tinygpt", "median": 2.0, "ratio": 1.0}
    theirs = {"name": "llama.cpp", "median": 4.0, "ratio": 2.0}
    job = {"weights": "int8", "threads": 2, "tokens": 10, "bytes": 1e9, "missing": {"other": "why"}}
    data = {"kind": "decode", "machine": MACHINE, "jobs": [job | {"contenders": [ours, theirs]}]}
    share = 100 * 5.0 * 1e9 / MACHINE["ceilings"]["2"]["read_bandwidth"]
    assert summary.small_weights(data, 2)[1] == [
        ("int8", "tinygpt", "5.0", f"{share:.0f} %", "1.00"),
        ("", "llama.cpp", "2.5", f"{share / 2:.0f} %", "2.00"),
        ("", "other", "why", "", ""),
    ]
    assert "llama.cpp" in summary.text(data)


def test_product_means_are_geometric_and_by_case(summary):
    """Catches an arithmetic mean, mixed cases, and the best shape reported as the worst."""
    heads, lines, _ = summary.product_means(PRODUCTS, 2)
    assert heads[1:] == ("NT", "TN", "all", "least")
    assert lines == [("numpy", "1.00", "4.00", "1.59", "0.50")]


def test_the_worst_shape_comes_first(summary):
    """Catches the best shapes shown as the worst, and GFLOP/s in the wrong column."""
    _, lines, _ = summary.worst_products(PRODUCTS, 2, "numpy", count=2)
    assert [line[3:] for line in lines] == [("4.0", "8.0", "0.50"), ("4.0", "2.0", "2.00")]


def test_rowwise_is_relative_to_both_bandwidths(summary):
    """Catches shares of the wrong bandwidth."""
    assert summary.rowwise(PRODUCTS, 2)[1] == [("`add`", "1 s", "5.0", "25 %", "50 %")]


def test_a_grid_that_was_not_measured_is_an_error(summary):
    """Catches an empty table on a page."""
    with pytest.raises(ValueError, match="no grid squares on 2 threads"):
        summary.squares(PRODUCTS, 2)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(2.0, "2 s"), (0.5, "500 ms"), (1e-3, "1 ms"), (3.46e-5, "34.6 µs"), (4e-7, "0.4 µs"), (0.9999, "1000 ms")],
)
def test_times_have_a_unit(summary, seconds, shown):
    """Catches a unit that is off by a factor of a thousand."""
    assert summary.duration(seconds) == shown


def test_all_tables_are_plain_text(summary):
    """Catches a missing table, and columns that are not aligned."""
    found = summary.text(COMPARE)
    assert "train-x" in found
    assert "decode-x" in found
    lines = summary.plain((("a", "long"), [("xx", "1"), ("y", "22")], " r")).splitlines()
    assert lines == ["a   long", "xx     1", "y     22"]
    assert "add" in summary.text(PRODUCTS)
