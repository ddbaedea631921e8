"""The numbers that all contenders start from; weights come one at a time, so that no second copy stays in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from jobs import Model

SAMPLES = 16


def weights(sizes: Model, seed: int = 0) -> Iterator[tuple[str, np.ndarray]]:
    """Name and values of every parameter: N(0, 0.02^2), weights of norms around 1."""
    for i, (name, shape) in enumerate(sizes.shapes()):
        values = np.random.default_rng([seed, i]).standard_normal(shape, np.float32)
        values *= np.float32(0.02)
        if "norm" in name and name.endswith("weight"):
            values += 1
        yield name, values


def batch(sizes: Model, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and targets, int32 (B, T)."""
    shape = (sizes.batch, sizes.length + 1)
    text = np.random.default_rng(seed).integers(0, sizes.vocab, shape, dtype=np.int32)
    return text[:, :-1].copy(), text[:, 1:].copy()


def prompt(sizes: Model) -> np.ndarray:
    """Tokens to continue, int32 (B, T)."""
    return batch(sizes)[0]


def operands(task: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The operands of a product as they are stored; numbers of [-0.5, 0.5)."""
    draw, (M, K, N), case = np.random.default_rng(2), (task["M"], task["K"], task["N"]), task["case"]
    a = draw.random((K, M) if case[0] == "T" else (M, K), np.float32)
    b = draw.random((N, K) if case[1] == "T" else (K, N), np.float32)
    a -= np.float32(0.5)
    b -= np.float32(0.5)
    return a, b


def attention_inputs(task: dict[str, Any]) -> tuple[np.ndarray, ...]:
    """Queries, keys, values and the gradient of the output, (B, T, H, D)."""
    draw, shape = np.random.default_rng(3), (task["B"], task["T"], task["H"], task["D"])
    return tuple(draw.standard_normal(shape, np.float32) for _ in range(4))


def sample(x: np.ndarray) -> list[float]:
    """Some elements from the first to the last, to compare what contenders got."""
    flat = x.reshape(-1)
    places = np.linspace(0, flat.size - 1, SAMPLES).astype(int)
    return [float(flat[place]) for place in places]
