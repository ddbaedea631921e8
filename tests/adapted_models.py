"""Small models with adapters, with values large enough that every part affects the logits."""

import numpy as np

from tinygpt import GPT, GPTConfig, lora
from tinygpt.tensor import no_grad

U = 2.0**-24
SMALL = {"vocab_size": 41, "block_size": 9, "n_layer": 2, "n_head": 4, "n_embd": 24}
LLAMA = {"position": "rope", "norm": "rmsnorm", "activation": "swiglu", "bias": False, "n_kv_head": 2, "ffn_dim": 20}
FAMILIES = {"gpt2": {}, "llama": LLAMA, "mixed": {"position": "rope", "activation": "swiglu"}}
TOKENS = np.random.default_rng(5).integers(0, 41, (3, 9))


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def base(seed=1, **options):
    """A model with values large enough that every part affects its logits."""
    model = GPT(GPTConfig(**SMALL | options), seed)
    for parameter in model.parameters():
        parameter.data = parameter.data + 0.1 * draw(*parameter.shape, seed=parameter.start)
    return model


def adapted(rank=3, targets=None, **options):
    """A model with adapters whose B is not zero."""
    model = base(**options)
    lora.add(model, rank, 5.0, targets, seed=2)
    for i, parameter in enumerate(lora.parameters(model)):
        parameter.data = 0.2 * draw(*parameter.shape, seed=i + 1)
    return model


def logits(model):
    with no_grad():
        return model(TOKENS).data


def step(model, optimizer):
    optimizer.zero_grad()
    loss = model.loss(TOKENS[:, :-1], TOKENS[:, 1:])
    loss.backward()
    optimizer.step()
    return loss.item()
