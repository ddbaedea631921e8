"""Inputs and weights shared by all contenders, made one array at a time so that no second copy stays in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from jobs import Model

SAMPLES = 16


def weights(sizes: Model, seed: int = 0) -> Iterator[tuple[str, np.ndarray]]:
    """Yield name and values of every parameter: N(0, 0.02^2), and weights of norms around 1."""
    for i, (name, shape) in enumerate(sizes.shapes()):
        values = np.random.default_rng([seed, i]).standard_normal(shape, np.float32)
        values *= np.float32(0.02)
        if "norm" in name and name.endswith("weight"):
            values += 1
        yield name, values


def batch(sizes: Model, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens and targets, int32 (B, T)."""
    shape = (sizes.batch, sizes.length + 1)
    text = np.random.default_rng(seed).integers(0, sizes.vocab, shape, dtype=np.int32)
    return text[:, :-1].copy(), text[:, 1:].copy()


def prompt(sizes: Model) -> np.ndarray:
    """Return the tokens of prompts, int32 (B, T)."""
    return batch(sizes)[0]


def operands(task: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return the operands of a matrix product in their stored form, uniform in [-0.5, 0.5)."""
    draw, (M, K, N), case = np.random.default_rng(2), (task["M"], task["K"], task["N"]), task["case"]
    a = draw.random((K, M) if case[0] == "T" else (M, K), np.float32)
    b = draw.random((N, K) if case[1] == "T" else (K, N), np.float32)
    a -= np.float32(0.5)
    b -= np.float32(0.5)
    return a, b


def attention_inputs(task: dict[str, Any]) -> tuple[np.ndarray, ...]:
    """Return queries, keys, values and the gradient of the output, (B, T, H, D)."""
    draw, shape = np.random.default_rng(3), (task["B"], task["T"], task["H"], task["D"])
    return tuple(draw.standard_normal(shape, np.float32) for _ in range(4))


def sample(x: np.ndarray) -> list[float]:
    """Return evenly spaced elements of an array, to compare the contenders' results."""
    flat = x.reshape(-1)
    places = np.linspace(0, flat.size - 1, SAMPLES).astype(int)
    return [float(flat[place]) for place in places]
