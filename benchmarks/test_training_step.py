"""Speed of one training step at every rung, and in PyTorch if installed, with the same model and threads."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

import tinygpt
from tinygpt import GPT, GPTConfig, kernels, optim

# layers, width, heads, batch, context
MODELS = {"default": (2, 64, 2, 4, 64), "nanogpt-cpu": (4, 128, 4, 12, 64)}
VOCABULARY = 384


def batches(model: str):
    layers, width, heads, batch, context = MODELS[model]
    config = GPTConfig(VOCABULARY, context, layers, heads, width)
    text = np.random.default_rng(0).integers(0, VOCABULARY, (batch, context + 1), dtype=np.int32)
    return config, text[:, :-1].copy(), text[:, 1:].copy()


def describe(benchmark, model: str, rung: str, config: GPTConfig, tokens: int) -> None:
    benchmark.group = f"training step: {model}"
    benchmark.extra_info.update(
        kind="step",
        op=f"step {model}",
        rung=rung,
        size="layers {} width {} heads {} batch {} context {}".format(*MODELS[model]),
        threads=tinygpt.get_num_threads(),
        flops=tokens * config.flops_per_token(),
        tokens=tokens,
    )


# Left out: a naive step of the larger model, which takes seconds and shows nothing new.
RUNS = [(m, r) for m in MODELS for r in kernels.registry.rungs("matmul") if r != "naive" or m == "default"]


@pytest.mark.parametrize(("model", "rung"), RUNS)
def test_step(benchmark, model, rung):
    config, x, y = batches(model)
    with kernels.use(rung):
        gpt = GPT(config, seed=0)
        optimizer = optim.AdamW(gpt.parameters(), lr=1e-3)

        def step() -> float:
            optimizer.zero_grad()
            loss = gpt.loss(x, y)
            loss.backward()
            optimizer.step(optim.clip_scale(optim.grad_norm(optimizer.parameters), 1.0))
            return loss.item()

        first = step()
        describe(benchmark, model, rung, config, x.size)
        benchmark(step)
        assert step() < first


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
@pytest.mark.parametrize("model", MODELS)
def test_step_pytorch(benchmark, model):
    """Time the same operations in eager PyTorch, with its fused AdamW."""
    from peers import TorchGPT

    config, x, y = batches(model)
    gpt = GPT(config, seed=0)
    peer = TorchGPT.of(gpt)
    assert abs(peer.step(x, y) - gpt.loss(x, y).item()) < 1e-4, "the peer must compute what is compared"
    describe(benchmark, model, "PyTorch", config, x.size)
    benchmark(peer.step, x, y)
