"""Measure the limits of this machine, the ceilings of the roofline: peak FLOP/s and memory bandwidth."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import numpy as np

from tinygpt.core import cpu
from tinygpt.kernels import isa
from tinygpt.kernels.load import Measured, undisturbed

CALIBRATION = 20_000  # steps of the first run, on one thread, from which the length of the others follows
RUN_SECONDS = 0.002  # short, so that some runs happen while no other process has the processor
RUNS = 50  # the best one is reported
BANDWIDTH_BYTES = 256 * 2**20  # several times the last-level cache of most machines


def _rate(run: Callable[[], int]) -> float:
    start = time.perf_counter()
    done = run()
    return done / max(1e-9, time.perf_counter() - start)


def peak_flops(n_threads: int) -> Measured:
    """Measure the peak rate of float32 multiply-adds with the instruction set in use, once for each process.

    Parameters
    ----------
    n_threads : int

    Returns
    -------
    Measured
        FLOP/s; two for each multiply-add.
    """
    return _measured(isa.get(), n_threads)


@cache
def _measured(name: str, n_threads: int) -> Measured:
    """Return the best rate of RUNS runs. `name`, the instruction set in use, is a key of the cache only."""
    one = max(_rate(lambda: cpu.multiply_add(CALIBRATION, 1)) for _ in range(3))
    steps = max(CALIBRATION, int(RUN_SECONDS * one / cpu.multiply_add(1, 1)))
    return undisturbed(lambda: max(_rate(lambda: cpu.multiply_add(steps, n_threads)) for _ in range(RUNS)))


@cache
def read_bandwidth(n_threads: int, n_bytes: int = BANDWIDTH_BYTES) -> Measured:
    """Measure the bytes per second that can be read from memory beyond the caches, the best of three runs."""
    words = np.ones(n_bytes // 8, np.uint64)
    return undisturbed(lambda: max(_rate(lambda: cpu.read(words, n_threads)) for _ in range(3)))


@cache
def copy_bandwidth(n_threads: int, n_bytes: int = BANDWIDTH_BYTES) -> Measured:
    """Measure the bytes per second of a copy beyond the caches, reads and writes counted, the best of three runs."""
    words = np.ones(n_bytes // 16, np.uint64)
    out = np.zeros_like(words)
    return undisturbed(lambda: max(_rate(lambda: cpu.copy(words, out, n_threads)) for _ in range(3)))
