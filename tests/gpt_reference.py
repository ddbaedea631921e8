"""The whole model as float64 formulas: reference logits and losses for tests of `tinygpt.GPT`."""

import numpy as np

from tinygpt import GPT, GPTConfig, reference

TOKENS = np.array([[1, 5, 5, 0, 12, 3, 7], [12, 2, 2, 2, 9, 11, 4]])
TARGETS = np.array([[5, 5, 0, 12, 3, 7, -1], [2, 2, -1, 9, 11, 4, 6]])
BASE = {"vocab_size": 13, "block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 12}
LLAMA = BASE | {"position": "rope", "norm": "rmsnorm", "activation": "swiglu", "bias": False, "ffn_dim": 10}
CONFIGS = {
    "gpt2": BASE,
    "gpt2 without bias": BASE | {"bias": False, "norm_eps": 0.1},
    "llama": LLAMA,
    "grouped": LLAMA | {"n_head": 3, "n_kv_head": 1, "tie_embeddings": False, "rope_theta": 50.0, "norm_eps": 0.1},
    "mixed": BASE | {"position": "rope", "activation": "swiglu", "n_head": 6, "n_kv_head": 3, "tie_embeddings": False},
    "mixed the other way": BASE | {"norm": "rmsnorm", "ffn_dim": 7, "n_layer": 1},
}


def spread(name, seed=1):
    """A model of CONFIGS[name] with all values of order 1, so that a fault in any part changes the logits."""
    model = GPT(GPTConfig(**CONFIGS[name]), seed)
    rng = np.random.default_rng(seed)
    for parameter in model.parameters():
        parameter.data = parameter.mean + 0.4 * rng.standard_normal(parameter.shape)
    return model


def weights(model):
    """All parameters by name, in float64."""
    return {name: parameter.data.astype(np.float64) for name, parameter in model.named_parameters()}


def _norm(config, p, name, x):
    weight, bias = p[f"{name}.weight"], p.get(f"{name}.bias", 0.0)
    if config.norm == "layernorm":
        x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + config.norm_eps) * weight + bias


def _linear(p, name, x):
    return x @ p[f"{name}.weight"].T + p.get(f"{name}.bias", 0.0)


def _attention(config, p, name, x):
    (B, T, _), H, G, D = x.shape, config.n_head, config.kv_heads, config.head_dim
    heads = _linear(p, f"{name}.qkv", x).reshape(B, T, H + 2 * G, D)
    q, k, v = heads[:, :, :H], heads[:, :, H : H + G], heads[:, :, H + G :]
    if config.position == "rope":
        angle = np.outer(np.arange(T), config.rope_theta ** (-np.arange(0, D, 2) / D))
        q, k = (reference.rope(part, np.cos(angle), np.sin(angle)) for part in (q, k))
    mixed = reference.attention(q, k, v, D**-0.5)[0]
    return _linear(p, f"{name}.out", mixed.reshape(B, T, H * D))


def _mlp(config, p, name, x):
    inner = _linear(p, f"{name}.up", x)
    if config.activation == "swiglu":
        gate, up = np.split(inner, 2, axis=-1)
        inner = gate / (1 + np.exp(-gate)) * up
    else:
        inner = reference.gelu(inner)
    return _linear(p, f"{name}.down", inner)


def logits(config, p, tokens):
    """Logits (B, T, V) of a model with the parameters `p`."""
    x = p["wte.weight"][tokens]
    if config.position == "learned":
        x = x + p["wpe.weight"][: tokens.shape[1]]
    for i in range(config.n_layer):
        block = f"blocks.{i}"
        x = x + _attention(config, p, f"{block}.attn", _norm(config, p, f"{block}.norm1", x))
        x = x + _mlp(config, p, f"{block}.mlp", _norm(config, p, f"{block}.norm2", x))
    head = p["wte.weight"] if config.tie_embeddings else p["head.weight"]
    return _norm(config, p, "norm", x) @ head.T


def loss(config, p, tokens, targets):
    """Mean cross-entropy over the targets that are not negative."""
    z = logits(config, p, tokens).reshape(targets.size, -1)
    flat = targets.reshape(-1)
    lse = z.max(-1) + np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1))
    return float((lse - z[np.arange(len(z)), np.maximum(flat, 0)])[flat >= 0].mean())
