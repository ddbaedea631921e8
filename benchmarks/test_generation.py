"""Speed of decoding one token at a time with the KV cache, at every rung."""

import numpy as np
import pytest

import tinygpt
from tinygpt import GPT, GPTConfig, kernels

TOKENS = 60


@pytest.mark.parametrize("rung", kernels.registry.rungs("matmul"))
def test_decode(benchmark, rung):
    model = GPT(GPTConfig(384, 64, 2, 2, 64), seed=0)
    benchmark.group = "decode: default model, batch 1"
    benchmark.extra_info.update(
        kind="decode",
        op="decode default",
        rung=rung,
        size="60 tokens",
        threads=tinygpt.get_num_threads(),
        tokens=TOKENS,
    )
    with kernels.use(rung):
        out = benchmark(model.generate, np.array([1, 2, 3]), TOKENS, 0.8, 40, None, 0)
    assert out.shape == (3 + TOKENS,)
