"""Loss and gradients against PyTorch: the same weights, batches and optimizer, for both families, at odd sizes.

The PyTorch models are written from the papers' formulas and take tinygpt's weights by name.
"""

import math
import os

import numpy as np
import pytest

import tinygpt
from tinygpt import GPT, GPTConfig, kernels, optim
from tinygpt.kernels import registry

from .conftest import require

os.environ["HF_HUB_OFFLINE"] = "1"  # before the import of transformers: no test needs the network
torch = require("torch")
F = torch.nn.functional

pytestmark = pytest.mark.filterwarnings("default")  # so that a deprecation within torch is not an error

VOCAB, T, WIDTH, HEADS, BATCH, STEPS = 131, 37, 60, 3, 3, 20
ODD = {"vocab_size": VOCAB, "block_size": T, "n_layer": 2, "n_head": HEADS, "n_embd": WIDTH}
LLAMA = {"position": "rope", "norm": "rmsnorm", "activation": "swiglu", "bias": False}
FAMILIES = {
    "gpt2": ODD,
    "llama": ODD | LLAMA | {"n_kv_head": 1, "tie_embeddings": False, "ffn_dim": 53, "rope_theta": 500.0},
}
PEAK, FINAL, WARMUP = 3e-3, 3e-4, 4


class Peer(torch.nn.Module):
    """A GPT of either family in PyTorch; its parameters have tinygpt's names with underscores for dots."""

    def __init__(self, model):
        super().__init__()
        self.config = model.config
        for name, parameter in model.named_parameters():
            value = torch.from_numpy(parameter.data.copy())
            self.register_parameter(name.replace(".", "_"), torch.nn.Parameter(value))

    def part(self, name):
        return getattr(self, name, None)

    def linear(self, name, x):
        return F.linear(x, self.part(f"{name}_weight"), self.part(f"{name}_bias"))

    def norm(self, name, x):
        weight, eps = self.part(f"{name}_weight"), self.config.norm_eps
        if self.config.norm == "layernorm":
            return F.layer_norm(x, weight.shape, weight, self.part(f"{name}_bias"), eps)
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight

    def rotate(self, x):
        """Rotate the pairs (j, j + D/2) of x (B, H, T, D) at position t by the angle t theta^(-2j/D)."""
        length, D = x.shape[-2:]
        frequency = self.config.rope_theta ** (-torch.arange(0, D, 2, dtype=torch.float64) / D)
        angle = torch.outer(torch.arange(length, dtype=torch.float64), frequency)
        cos, sin = (torch.cat([f(angle), f(angle)], -1).float() for f in (torch.cos, torch.sin))
        half = torch.cat([-x[..., D // 2 :], x[..., : D // 2]], -1)
        return x * cos + half * sin

    def attention(self, name, x):
        B, length, C = x.shape
        H, G = self.config.n_head, self.config.n_kv_head or self.config.n_head
        D = C // H
        q, k, v = self.linear(f"{name}_qkv", x).split([H * D, G * D, G * D], -1)
        q, k, v = (part.view(B, length, -1, D).transpose(1, 2) for part in (q, k, v))
        if self.config.position == "rope":
            q, k = self.rotate(q), self.rotate(k)
        k, v = (part.repeat_interleave(H // G, 1) for part in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.linear(f"{name}_out", mixed.transpose(1, 2).reshape(B, length, C))

    def mlp(self, name, x):
        inner = self.linear(f"{name}_up", x)
        if self.config.activation == "swiglu":
            gate, up = inner.chunk(2, -1)
            inner = F.silu(gate) * up
        else:
            inner = F.gelu(inner, approximate="tanh")
        return self.linear(f"{name}_down", inner)

    def forward(self, tokens):
        x = F.embedding(tokens, self.wte_weight)
        if self.config.position == "learned":
            x = x + self.wpe_weight[: tokens.shape[1]]
        for i in range(self.config.n_layer):
            x = x + self.attention(f"blocks_{i}_attn", self.norm(f"blocks_{i}_norm1", x))
            x = x + self.mlp(f"blocks_{i}_mlp", self.norm(f"blocks_{i}_norm2", x))
        head = self.wte_weight if self.config.tie_embeddings else self.head_weight
        return F.linear(self.norm("norm", x), head)

    def loss(self, tokens, targets):
        return F.cross_entropy(self(tokens).flatten(0, 1), targets.flatten(), ignore_index=-1)


def batch(step):
    """Tokens with a regular pattern that can be learned; about a tenth of the targets are ignored."""
    rng = np.random.default_rng(step)
    text = (rng.integers(0, VOCAB, (BATCH, 1)) + 7 * np.arange(T + 1)) % VOCAB
    tokens, targets = text[:, :-1], text[:, 1:].copy()
    targets[rng.random(targets.shape) < 0.1] = -1
    return tokens, targets


def pair(family):
    """A model with weights large enough that every part matters, and a peer with the same weights."""
    model = GPT(GPTConfig(**FAMILIES[family]), seed=4)
    for parameter in model.parameters():
        parameter.data = parameter.data + 0.05 * np.random.default_rng(parameter.start).standard_normal(parameter.shape)
    return model, Peer(model)


def ours(model):
    """The gradients of tinygpt under the names of the peer."""
    return {name.replace(".", "_"): parameter.grad for name, parameter in model.named_parameters()}


@pytest.fixture(params=[registry.default_rung(), "numpy"])
def _rung(request):
    """Run on the default rung and on numpy. torch gets one thread, because its idle threads would slow tinygpt's."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with kernels.use(request.param):
        yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_rung")
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_gradients(family):
    """Catches any difference from PyTorch's logits, loss or parameter gradients.

    Both sides round in float32, in different orders. Sums of up to 131 terms through two blocks, forward and backward,
    make about a hundred roundings of 2^-24 relative to the largest value.
    """
    model, peer = pair(family)
    tokens, targets = batch(0)
    want = peer(torch.from_numpy(tokens)).detach().numpy()
    np.testing.assert_allclose(model(tokens).data, want, rtol=0, atol=1e-5 * abs(want).max())
    loss, peers_loss = model.loss(tokens, targets), peer.loss(*map(torch.from_numpy, (tokens, targets)))
    assert loss.item() == pytest.approx(peers_loss.item(), abs=1e-5)
    loss.backward()
    peers_loss.backward()
    grads = ours(model)
    assert set(grads) == {name for name, _ in peer.named_parameters()}
    for name, parameter in peer.named_parameters():
        grad = parameter.grad.numpy()
        assert abs(grad).max() > 1e-5, name
        np.testing.assert_allclose(grads[name], grad, rtol=0, atol=2e-5 * abs(grad).max(), err_msg=name)


def peers_optimizer(peer):
    decayed = [p for p in peer.parameters() if p.ndim >= 2]
    rest = [p for p in peer.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.95), eps=1e-8)


def peers_rate(step):
    """Warm-up, then half a cosine down to FINAL at the last step."""
    if step < WARMUP:
        return PEAK * (step + 1) / (WARMUP + 1)
    progress = (step - WARMUP) / (STEPS - 1 - WARMUP)
    return FINAL + (PEAK - FINAL) * 0.5 * (1 + math.cos(math.pi * progress))


def twenty_steps(model, peer, peers_loss, parameters=None):
    """Train both models on the same batches; return losses and gradient norms of tinygpt, then of the peer."""
    schedule = optim.cosine(PEAK, STEPS, WARMUP, FINAL)
    parameters = model.parameters() if parameters is None else parameters
    optimizer, peers = optim.AdamW(parameters, PEAK, (0.9, 0.95), 1e-8, 0.1), peers_optimizer(peer)
    losses, norms, others, others_norms = [], [], [], []
    for step in range(STEPS):
        tokens, targets = batch(step)
        optimizer.lr = schedule(step)
        optimizer.zero_grad()
        loss = model.loss(tokens, targets)
        loss.backward()
        norms.append(optim.grad_norm(model.parameters()))
        optimizer.step(optim.clip_scale(norms[-1], 1.0))
        losses.append(loss.item())

        for group in peers.param_groups:
            group["lr"] = peers_rate(step)
        peers.zero_grad()
        value = peers_loss(*map(torch.from_numpy, (tokens, targets)))
        value.backward()
        others_norms.append(float(torch.nn.utils.clip_grad_norm_(peer.parameters(), 1.0)))
        peers.step()
        others.append(value.item())
    return losses, norms, others, others_norms


def assert_alike(losses, norms, others, others_norms):
    np.testing.assert_allclose(losses, others, rtol=0, atol=1e-4)
    np.testing.assert_allclose(norms, others_norms, rtol=1e-3)
    assert max(norms) > 1.5 * min(norms) > 1.5  # every step is clipped, by different factors
    assert losses[-1] < losses[0] - 0.5  # the loss falls, so the updates are large enough to compare


@pytest.mark.usefixtures("_rung")
@pytest.mark.parametrize("family", FAMILIES)
def test_twenty_steps(family):
    """Catches a difference in gradients, clipping, decay groups, bias correction or the schedule."""
    model, peer = pair(family)
    assert_alike(*twenty_steps(model, peer, peer.loss))


@pytest.mark.usefixtures("_rung")
@pytest.mark.parametrize("family", FAMILIES)
def test_twenty_steps_from_a_model_directory(tmp_path, family):
    """Catches a saved directory that transformers' own implementation trains differently."""
    transformers = require("transformers")
    transformers.utils.logging.disable_progress_bar()
    model, _ = pair(family)
    tinygpt.save(tmp_path, model)
    kind = transformers.GPT2LMHeadModel if family == "gpt2" else transformers.LlamaForCausalLM
    # Switch off dropout, which is on by default in GPT-2 and would make the runs differ. Llama has none.
    rates = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0) if family == "gpt2" else {}
    peer = kind.from_pretrained(tmp_path, **rates).train()

    def loss(tokens, targets):
        return F.cross_entropy(peer(tokens).logits.flatten(0, 1), targets.flatten(), ignore_index=-1)

    assert_alike(*twenty_steps(model, peer, loss))
