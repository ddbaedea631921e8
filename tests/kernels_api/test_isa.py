"""The instruction set: the widest by default, a narrower one on request, never one that the machine lacks."""

import os
import subprocess
import sys

import pytest

from tinygpt.kernels import isa
from tinygpt.kernels.peak import peak_flops

PROGRAM = "from tinygpt.kernels import isa; print(isa.get())"


@pytest.fixture(autouse=True)
def _restore():
    before = isa.get()
    yield
    isa.use(before)


def started_with(value):
    environment = {**os.environ, "TINYGPT_ISA": value}
    return subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False)


def test_the_baseline_is_always_available():
    """Catches a list without `scalar`, which every machine has."""
    assert isa.available()[0] == "scalar"
    assert isa.get() in isa.available()


@pytest.mark.parametrize("name", isa.available())
def test_use_switches_the_modules(name):
    """Catches a switch that does not reach the modules: the probe's work per step grows with the width."""
    from tinygpt.core import cpu

    isa.use("scalar")
    narrow = cpu.multiply_add(1, 1)
    isa.use(name)
    assert isa.get() == name
    assert cpu.multiply_add(1, 1) == narrow * {"scalar": 4, "neon": 4, "avx2": 8, "avx512": 16}[name] // 4


def test_the_peak_is_measured_after_a_switch():
    """Catches a peak cached from another instruction set."""
    peaks = {}
    for name in isa.available():
        isa.use(name)
        peaks[name] = peak_flops(1)
    assert len(set(peaks.values())) == len(peaks)


def test_an_unknown_name_changes_nothing():
    """Catches a name that is accepted although it is not available."""
    before = isa.get()
    with pytest.raises(ValueError, match=r"\[isa\] 'name' must be one of scalar.*, got 'mmx'"):
        isa.use("mmx")
    assert isa.get() == before


def test_the_environment_selects_the_isa():
    """Catches a variable that is not read."""
    assert started_with("scalar").stdout.strip() == "scalar"


def test_the_environment_is_checked():
    """Catches a misspelt name that silently means the default."""
    done = started_with("avx3")
    assert done.returncode != 0
    assert "[isa] TINYGPT_ISA must be one of scalar" in done.stderr.splitlines()[-1]
