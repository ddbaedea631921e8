"""Every intermediate value of a forward pass as a float64 formula: the reference for traces."""

import numpy as np

from tinygpt import reference


def norm_steps(config, p, name, x):
    """Every intermediate value of a norm, by name."""
    found = {}
    centred = x
    if config.norm == "layernorm":
        found[f"{name}.mean"] = x.mean(-1, keepdims=True)
        centred = x - found[f"{name}.mean"]
    rstd = found[f"{name}.rstd"] = 1 / np.sqrt((centred**2).mean(-1, keepdims=True) + config.norm_eps)
    y = found[f"{name}.normalised"] = centred * rstd
    y = y * p[f"{name}.weight"]
    if f"{name}.bias" in p:
        found[f"{name}.weighted"] = y
        y = y + p[f"{name}.bias"]
    return found | {name: y}


def linear_steps(p, name, x):
    """A linear layer's matmul, and the sum with its bias if there is one."""
    y = x @ p[f"{name}.weight"].T
    bias = p.get(f"{name}.bias")
    return {name: y} if bias is None else {f"{name}.product": y, name: y + bias}


def attention_steps(config, p, at, x):
    (B, T, _), H, G, D = x.shape, config.n_head, config.kv_heads, config.head_dim
    found = linear_steps(p, f"{at}.qkv", x)
    heads = found[f"{at}.qkv"].reshape(B, T, H + 2 * G, D)
    q, k, v = heads[:, :, :H], heads[:, :, H : H + G], heads[:, :, H + G :]
    found |= {f"{at}.q": q, f"{at}.k": k, f"{at}.v": v}
    if config.position == "rope":
        angle = np.outer(np.arange(T), config.rope_theta ** (-np.arange(0, D, 2) / D))
        q, k = (reference.rope(part, np.cos(angle), np.sin(angle)) for part in (q, k))
        found |= {f"{at}.q.rotated": q, f"{at}.k.rotated": k}
    k, v = (np.repeat(part, H // G, axis=2) for part in (k, v))
    scores = np.einsum("bthd,bshd->bhts", q, k) / np.sqrt(D)
    scores[..., np.triu_indices(T, 1)[0], np.triu_indices(T, 1)[1]] = -np.inf
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    mix = np.einsum("bhts,bshd->bthd", shares, v)
    found |= {f"{at}.scores": scores, f"{at}.softmax": shares, f"{at}.mix": mix}
    return found | linear_steps(p, f"{at}.out", mix.reshape(B, T, H * D))


def mlp_steps(config, p, at, x):
    found = linear_steps(p, f"{at}.up", x)
    inner = found[f"{at}.up"]
    if config.activation == "swiglu":
        gate, value = np.split(inner, 2, axis=-1)
        found |= {f"{at}.gate": gate, f"{at}.value": value, f"{at}.silu": gate / (1 + np.exp(-gate))}
        found[f"{at}.activation"] = found[f"{at}.silu"] * value
    else:
        found[f"{at}.activation"] = inner / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3)))
    return found | linear_steps(p, f"{at}.down", found[f"{at}.activation"])


def expected_steps(config, p, tokens):
    """Every step of a forward pass in float64, in order."""
    x = p["wte.weight"][tokens]
    found = {"embed.token": x}
    if config.position == "learned":
        found["embed.position"] = p["wpe.weight"][None, : tokens.shape[1]]
        x = found["embed.sum"] = x + found["embed.position"]
    for i in range(config.n_layer):
        at = f"blocks.{i}"
        found |= norm_steps(config, p, f"{at}.norm1", x)
        found |= attention_steps(config, p, f"{at}.attn", found[f"{at}.norm1"])
        x = found[f"{at}.residual1"] = x + found[f"{at}.attn.out"]
        found |= norm_steps(config, p, f"{at}.norm2", x)
        found |= mlp_steps(config, p, f"{at}.mlp", found[f"{at}.norm2"])
        x = found[f"{at}.residual2"] = x + found[f"{at}.mlp.down"]
    found |= norm_steps(config, p, "norm", x)
    found["logits"] = found["norm"] @ p["wte.weight" if config.tie_embeddings else "head.weight"].T
    shares = np.exp(found["logits"] - found["logits"].max(-1, keepdims=True))
    return found | {"probabilities": shares / shares.sum(-1, keepdims=True)}
