"""Fixtures of the kernel benchmarks: check a rung, time it, record op, sizes, threads and the machine's ceilings."""

from __future__ import annotations

import pytest

from tinygpt.kernels import registry, threads
from tinygpt.kernels.peak import copy_bandwidth, peak_flops, read_bandwidth
from tinygpt.testing import Case
from tinygpt.testing.timing import prepare


def pytest_benchmark_update_machine_info(config, machine_info):
    """Remove facts that identify a machine; add its threads, peak and bandwidth."""
    machine_info.pop("node", None)
    n = threads.get_num_threads()
    ceilings = {"peak_gflops": peak_flops(n), "read_gbytes": read_bandwidth(n), "copy_gbytes": copy_bandwidth(n)}
    machine_info["tinygpt"] = {"threads": n} | {name: round(rate / 1e9, 1) for name, rate in ceilings.items()}


@pytest.fixture
def ladder(benchmark):
    """Check a rung on a case, then time it; the rungs of one case form a group."""

    def measure(case: Case, rung: str) -> None:
        n = threads.get_num_threads()
        call = prepare(registry.function(case.op, rung), case, n)
        benchmark.group = f"{case.op}: {case.label}"
        benchmark.extra_info.update(
            kind="kernel", op=case.op, rung=rung, size=case.label, threads=n, flops=case.flops, bytes=case.bytes
        )
        benchmark(call)

    return measure


def each_rung(*ops: str):
    """Parametrise over (op, rung) for every rung that each op has."""
    pairs = [(op, rung) for op in ops for rung in registry.rungs(op)]
    return pytest.mark.parametrize(("op", "rung"), pairs, ids=["-".join(pair) for pair in pairs])
