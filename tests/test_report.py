"""benchmarks/report.py: from pytest-benchmark results to the tables of the docs, on hand-made results."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parent.parent / "benchmarks" / "report.py"


@pytest.fixture(scope="module")
def report():
    """The program benchmarks/report.py as a module; it is not part of the package."""
    specification = importlib.util.spec_from_file_location("benchmarks_report", FILE)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def benchmark(group, median, **extra):
    stats = {"median": median, "mean": 1e9, "min": 1e-9}
    return {"group": group, "stats": stats, "extra_info": extra, "name": "x", "params": None}


# 2 GFLOP in 0.5 s are 4 GFLOP/s: 4 % of a peak of 100 GFLOP/s.
RESULTS = {
    "machine_info": {
        "processor": "x86_64",
        "python_version": "3.11.7",
        "cpu": {"brand_raw": "A processor", "count": 64},
        "tinygpt": {"threads": 2, "peak_gflops": 100.0},
    },
    "datetime": "2026-01-02T03:04:05+00:00",
    "benchmarks": [
        benchmark("matmul: M 8", 0.5, kind="kernel", op="matmul", rung="naive", size="M 8  K 8", flops=2e9),
        benchmark("matmul: M 8", 0.25, kind="kernel", op="matmul", rung="parallel", size="M 8  K 8", flops=2e9),
        benchmark("matmul: M 9", 2e-3, kind="kernel", op="matmul", rung="naive", size="M 9  K 9", flops=1e6),
        benchmark("decode", 2.0, kind="decode", op="decode", rung="naive", size="60 tokens", tokens=60),
        benchmark("decode", 0.5, kind="decode", op="decode", rung="numpy", size="60 tokens", tokens=60),
        benchmark("start of a process", 3.5e-5, kind="start", op="import numpy"),
    ],
}


def cells(table):
    """The rows of a Markdown table, checked to have as many cells as its header."""
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table.splitlines()]
    assert all(line.startswith("|") and line.endswith("|") for line in table.splitlines())
    assert {len(row) for row in rows} == {6}
    return rows[2:]


def test_a_compact_file_keeps_the_median_and_the_facts(report):
    """Catches a mean for the median, a lost row, and facts that identify a machine."""
    compact = report.compact(RESULTS)
    assert compact["machine"] == {
        "processor": "A processor", "python": "3.11.7", "date": "2026-01-02", "threads": 2, "peak_gflops": 100.0
    }  # fmt: skip
    assert [row["seconds"] for row in compact["rows"]] == [0.5, 0.25, 2e-3, 2.0, 0.5, 3.5e-5]
    assert compact["rows"][0] == {
        "group": "matmul: M 8", "seconds": 0.5, "kind": "kernel", "op": "matmul", "rung": "naive",
        "size": "M 8  K 8", "flops": 2e9,
    }  # fmt: skip


def test_a_processor_without_a_brand_name(report):
    """Catches a failure on machines that report fewer facts."""
    plain = RESULTS | {"machine_info": RESULTS["machine_info"] | {"cpu": {"count": 4}}}
    assert report.compact(plain)["machine"]["processor"] == "x86_64"


def test_a_ladder_has_rate_share_and_ratio(report):
    """Catches an inverted rate or ratio, one across groups, and a share of the wrong peak."""
    rows = cells(report.ladder(report.compact(RESULTS), "matmul"))
    assert rows == [
        ["M 8, K 8", "naive", "500.00 ms", "4.0", "4.0 %", ""],
        ["", "parallel", "250.00 ms", "8.0", "8.0 %", "2.0 x"],
        ["M 9, K 9", "naive", "2.00 ms", "0.5", "0.5 %", ""],
    ]


def test_a_ladder_without_operations_leaves_its_cells_empty(report):
    """Catches columns that shift where a figure is missing."""
    assert cells(report.ladder(report.compact(RESULTS), "decode")) == [
        ["60 tokens", "naive", "2.00 s", "", "", ""],
        ["", "numpy", "500.00 ms", "", "", "4.0 x"],
    ]


def test_one_size_can_be_selected(report):
    """Catches rows of other sizes, and an empty table for a size that was not measured."""
    compact = report.compact(RESULTS)
    assert [row[0] for row in cells(report.ladder(compact, "matmul", "M 9  K 9"))] == ["M 9, K 9"]
    for op, size in (("matmul", "M 10"), ("softmax", None)):
        with pytest.raises(ValueError, match=f"no result for {op}"):
            report.ladder(compact, op, size)


@pytest.mark.parametrize(
    ("seconds", "shown"), [(2.0, "2.00 s"), (0.5, "500.00 ms"), (1e-3, "1.00 ms"), (3.5e-5, "35.0 µs"), (0, "0.0 µs")]
)
def test_times_have_a_unit(report, seconds, shown):
    """Catches a unit that is off by a factor of a thousand."""
    assert report._time(seconds) == shown


def test_the_program_makes_and_prints_a_file(report, tmp_path, monkeypatch, capsys):
    """Catches a file that the docs cannot read, a table of jobs without rungs, and ignored arguments."""
    (tmp_path / "raw.json").write_text(json.dumps(RESULTS))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["report.py", "raw.json", "out.json"])
    report.main()
    assert report.load("out.json") == report.compact(RESULTS)
    monkeypatch.setattr(sys, "argv", ["report.py", "out.json"])
    report.main()
    out = capsys.readouterr().out
    assert out.startswith("A processor, 2 threads, measured float32 peak 100 GFLOP/s, 2026-01-02\n")
    assert [line for line in out.splitlines() if line in ("matmul", "decode", "import numpy")] == ["matmul", "decode"]
    monkeypatch.setattr(sys, "argv", ["report.py"])
    with pytest.raises(SystemExit, match="usage"):
        report.main()
