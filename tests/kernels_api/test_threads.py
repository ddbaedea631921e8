"""The number of threads of a kernel, and forked children that do not hang."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import tinygpt
from tinygpt import kernels
from tinygpt.core import cpu
from tinygpt.kernels import threads


@pytest.fixture(autouse=True)
def _restore():
    before = threads.get_num_threads()
    yield
    threads.set_num_threads(before)


def run(code, **environment):
    """Run a program; return its exit status, its output and the last line of its errors."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("TINYGPT_", "OMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=plain | environment
    )
    return done.returncode, done.stdout.strip(), done.stderr.strip().rpartition("\n")[2]


def test_set_and_get():
    """Catches a number that is not stored, or stored twice under two names."""
    for n in (1, 2, 5, 1024, np.int64(3), np.uint8(2)):
        tinygpt.set_num_threads(n)
        assert tinygpt.get_num_threads() == threads.get_num_threads() == n
        assert type(tinygpt.get_num_threads()) is int


@pytest.mark.parametrize(
    ("n", "kind", "text"),
    [
        (0, ValueError, "'n' must be at least 1, got 0"),
        (-2, ValueError, "'n' must be at least 1, got -2"),
        (1025, ValueError, "'n' must be at most 1024, got 1025"),
        (2.0, TypeError, "'n' must be an int or 'auto', got float"),
        (True, TypeError, "'n' must be an int or 'auto', got bool"),
        ("2", TypeError, "'n' must be an int or 'auto', got str"),
        (None, TypeError, "'n' must be an int or 'auto', got NoneType"),
    ],
)
def test_invalid_numbers(n, kind, text):
    """Catches a number that OpenMP would interpret differently."""
    before = threads.get_num_threads()
    with pytest.raises(kind) as error:
        threads.set_num_threads(n)
    assert str(error.value) == f"[set_num_threads] {text}"
    assert threads.get_num_threads() == before


def test_small_work_stays_on_one_thread():
    """Catches a threshold that is off by one, or applied to large work."""
    threads.set_num_threads(3)
    assert [threads.for_work(n) for n in (0, threads.SMALL_WORK - 1, threads.SMALL_WORK, 10**12)] == [1, 1, 3, 3]


def test_default_is_the_lowest_limit(monkeypatch):
    """Catches an ignored limit."""
    monkeypatch.delenv("TINYGPT_NUM_THREADS", raising=False)
    sources = {"OpenMP": (cpu, "max_threads"), "physical cores": (threads, "_physical_cores")}
    sources["affinity"] = (threads, "affinity")
    for small in sources:
        with monkeypatch.context() as patch:
            for name, (module, function) in sources.items():
                value = 3 if name == small else 7
                if module is cpu:
                    patch.setattr(threads, "cpu", type("Cpu", (), {function: staticmethod(lambda value=value: value)}))
                else:
                    patch.setattr(module, function, lambda value=value: value)
            patch.setattr(threads, "_cgroup_quota", lambda: math.inf)
            assert threads.limits() == {name: 3 if name == small else 7 for name in sources}
            assert threads.default_num_threads() == 3
            patch.setattr(threads, "_cgroup_quota", lambda: 2.9)
            assert threads.limits()["cgroup quota"] == 2
            assert threads.default_num_threads() == 2
            patch.setattr(threads, "_cgroup_quota", lambda: 0.5)
            assert threads.default_num_threads() == 1


def test_limits_of_this_machine():
    """Catches a limit that is not a positive integer on this machine."""
    found = threads.limits()
    assert {"OpenMP", "physical cores", "affinity"} <= set(found)
    assert all(isinstance(n, int) and n >= 1 for n in found.values())
    if hasattr(os, "sched_getaffinity"):
        assert found["affinity"] == len(os.sched_getaffinity(0))


FILES = {
    "v2 limit": ({"/sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2.5),
    "v2 no limit": ({"/sys/fs/cgroup/cpu.max": "max 100000\n"}, math.inf),
    "v1 limit": (
        {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
        0.5,
    ),
    "v1 no limit": (
        {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
        math.inf,
    ),
    "unreadable": ({"/sys/fs/cgroup/cpu.max": "\n"}, math.inf),
    "none": ({}, math.inf),
}


@pytest.mark.parametrize("name", FILES)
def test_cgroup_quota(monkeypatch, name):
    """Catches a misread container quota: of either version, without a limit, or missing."""
    files, want = FILES[name]

    def read_text(path):
        if str(path) not in files:
            raise FileNotFoundError(path)
        return files[str(path)]

    monkeypatch.setattr(Path, "read_text", read_text)
    assert threads._cgroup_quota() == want


def test_environment():
    """Catches a variable that is ignored, also one above the limits."""
    code = "import tinygpt; print(tinygpt.get_num_threads())"
    assert run(code, TINYGPT_NUM_THREADS="1") == (0, "1", "")
    assert run(code, TINYGPT_NUM_THREADS="11") == (0, "11", "")
    assert run(code, OMP_NUM_THREADS="1") == (0, "1", "")
    code = "from tinygpt.kernels import threads; print(threads.get_num_threads() == min(threads.limits().values()))"
    assert run(code) == (0, "True", "")


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", " "])
def test_environment_with_an_error(text):
    """Catches a misspelt number that silently means the default."""
    status, output, error = run("import tinygpt; tinygpt.get_num_threads()", TINYGPT_NUM_THREADS=text)
    assert (status, output) == (1, "")
    assert error == f"ValueError: [threads] TINYGPT_NUM_THREADS must be a positive number, got '{text}'"


def test_environment_with_too_many():
    """Catches a number for which a kernel could not allocate its scratch memory."""
    status, output, error = run("import tinygpt; tinygpt.get_num_threads()", TINYGPT_NUM_THREADS="1025")
    assert (status, output) == (1, "")
    assert error == "ValueError: [threads] TINYGPT_NUM_THREADS must be at most 1024, got '1025'"


@pytest.mark.parametrize("before", [1, 2])
def test_blas_keeps_its_own_threads(before):
    """Catches a numpy rung that leaves BLAS at the kernels' number of threads, also after an error."""
    x = np.ones((64, 64), np.float32)

    def of_blas():
        return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

    with threadpool_limits(limits=before, user_api="blas"), kernels.use("numpy"):
        want = of_blas()
        for n in (1, 2):
            threads.set_num_threads(n)
            kernels.matmul(x, x)
            assert of_blas() == want
            kernels.attention(*3 * (x.reshape(1, 64, 4, 16),))
            assert of_blas() == want
        with pytest.raises(ValueError, match="matmul"):
            kernels.active.matmul(x, x[:3], x, False, False, False, None, None, 0, None, 3 - before)
        assert of_blas() == want


FORK = """
import os, sys, warnings
import numpy as np
import tinygpt
from tinygpt import kernels

tinygpt.set_num_threads(2)
a = np.random.default_rng(0).standard_normal((200, 200)).astype(np.float32)
results = {}
for rung in ("blocked", "numpy"):
    with kernels.use(rung):
        results[rung] = kernels.matmul(a, a)  # from here on the threads of OpenMP and BLAS exist
warnings.simplefilter("ignore")
child = os.fork()
if child == 0:
    status = 1
    try:
        assert tinygpt.get_num_threads() == 1
        for rung, result in results.items():
            with kernels.use(rung):
                np.testing.assert_allclose(kernels.matmul(a, a), result, atol=1e-3)
        try:
            tinygpt.set_num_threads(2)
        except RuntimeError as error:
            assert str(error).startswith("[set_num_threads] 'n' must be 1 in a forked process"), error
            tinygpt.set_num_threads(1)
            status = 0
    finally:
        os._exit(status)
assert tinygpt.get_num_threads() == 2
with kernels.use("blocked"):
    assert (kernels.matmul(a, a) == results["blocked"]).all()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_runs_on_one_thread():
    """Catches a child that waits for its parent's threads for ever, and a parent that loses its own."""
    assert run(FORK) == (0, "", "")
