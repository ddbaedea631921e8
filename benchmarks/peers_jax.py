"""A training step in JAX: one compiled function for forward, backward, clipping and AdamW."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from inputs import batch, weights
from jobs import Model
from worker import Built

BETAS, EPS, DECAY = (0.9, 0.95), 1e-8, 0.1


def facts(threads: int) -> dict[str, Any]:
    """Return the versions of the libraries."""
    return {"versions": {"jax": jax.__version__}}


def _norm(p: dict[str, Any], name: str, h: Any) -> Any:
    mean = h.mean(-1, keepdims=True)
    variance = ((h - mean) ** 2).mean(-1, keepdims=True)
    return (h - mean) * jax.lax.rsqrt(variance + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]


def _linear(p: dict[str, Any], name: str, h: Any) -> Any:
    return h @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def loss_of(p: dict[str, Any], x: Any, y: Any, layers: int, heads: int) -> Any:
    """Compute the mean cross-entropy of a GPT-2-style model."""
    B, T = x.shape
    h = p["wte.weight"][x] + p["wpe.weight"][:T]
    for i in range(layers):
        b = f"blocks.{i}"
        qkv = _linear(p, f"{b}.attn.qkv", _norm(p, f"{b}.norm1", h)).reshape(B, T, 3, heads, -1)
        mixed = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], is_causal=True)
        h = h + _linear(p, f"{b}.attn.out", mixed.reshape(B, T, -1))
        wide = jax.nn.gelu(_linear(p, f"{b}.mlp.up", _norm(p, f"{b}.norm2", h)), approximate=True)
        h = h + _linear(p, f"{b}.mlp.down", wide)
    logits = _norm(p, "norm", h) @ p["wte.weight"].T
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[..., None], -1).mean()


def build(contender: str, task: dict[str, Any], threads: int) -> Built:
    """Build a training step; XLA takes its number of threads from the processors that the process may run on."""
    if task["kind"] != "train":
        raise ValueError(f"there is no job {task['kind']} for {contender}")
    sizes = Model(**task["model"])
    x, y = (jnp.asarray(part) for part in batch(sizes))

    def step(state: dict[str, Any], count: Any) -> tuple[dict[str, Any], Any]:
        loss, grads = jax.value_and_grad(loss_of)(state["p"], x, y, sizes.layers, sizes.heads)
        total = jnp.sqrt(sum((g * g).sum() for g in grads.values()))
        scale = jnp.minimum(1.0, 1.0 / (total + 1e-6))
        new: dict[str, Any] = {"p": {}, "m": {}, "v": {}}
        for name, p in state["p"].items():
            g = grads[name] * scale
            m = BETAS[0] * state["m"][name] + (1 - BETAS[0]) * g
            v = BETAS[1] * state["v"][name] + (1 - BETAS[1]) * g * g
            root = jnp.sqrt(v / (1 - BETAS[1] ** count)) + EPS
            kept = p * (1 - 1e-3 * DECAY) if p.ndim == 2 else p
            new["p"][name], new["m"][name], new["v"][name] = kept - 1e-3 * m / (1 - BETAS[0] ** count) / root, m, v
        return new, loss

    compiled = jax.jit(step, donate_argnums=0)
    p = {name: jnp.array(values) for name, values in weights(sizes)}
    held = {"state": {"p": p, "m": jax.tree.map(jnp.zeros_like, p), "v": jax.tree.map(jnp.zeros_like, p)}, "count": 0}
    del p

    def call() -> float:
        held["count"] += 1
        held["state"], loss = compiled(held["state"], jnp.float32(held["count"]))
        return float(jax.block_until_ready((held["state"], loss))[1])

    return Built(call, [call(), call()])
