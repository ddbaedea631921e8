"""The default kind of model in PyTorch, from the parameters of ours: what we are compared with."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 - the name that everybody knows

import tinygpt
from tinygpt import GPT


class TorchGPT:
    """A GPT-2-style model with biases and a tied head, eager, with PyTorch's fused AdamW.

    Parameters
    ----------
    gpt : GPT
        Whose weights are copied.
    lr, betas, weight_decay
        Of AdamW; matrices and embeddings decay, vectors do not.
    """

    def __init__(self, gpt: GPT, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.95), weight_decay: float = 0.1):
        torch.set_num_threads(tinygpt.get_num_threads())
        self.config = gpt.config
        self.params = {name: torch.tensor(p.data, requires_grad=True) for name, p in gpt.named_parameters()}
        groups = [
            {"params": [p for p in self.params.values() if p.ndim == 2], "weight_decay": weight_decay},
            {"params": [p for p in self.params.values() if p.ndim == 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)

    def _norm(self, h: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = self.params[f"{name}.weight"], self.params[f"{name}.bias"]
        return F.layer_norm(h, (self.config.n_embd,), weight, bias, self.config.norm_eps)

    def _linear(self, h: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(h, self.params[f"{name}.weight"], self.params[f"{name}.bias"])

    def loss(self, tokens: np.ndarray, targets: np.ndarray) -> torch.Tensor:
        """Mean cross-entropy; targets of -1 are ignored."""
        x, H, C = torch.from_numpy(tokens).long(), self.config.n_head, self.config.n_embd
        B, T = x.shape
        h = self.params["wte.weight"][x] + self.params["wpe.weight"][:T]
        for i in range(self.config.n_layer):
            b = f"blocks.{i}"
            qkv = self._linear(self._norm(h, f"{b}.norm1"), f"{b}.attn.qkv").view(B, T, 3, H, C // H)
            mixed = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4), is_causal=True)
            h = h + self._linear(mixed.transpose(1, 2).reshape(B, T, C), f"{b}.attn.out")
            wide = F.gelu(self._linear(self._norm(h, f"{b}.norm2"), f"{b}.mlp.up"), approximate="tanh")
            h = h + self._linear(wide, f"{b}.mlp.down")
        logits = F.linear(self._norm(h, "norm"), self.params["wte.weight"])
        return F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets).long().flatten(), ignore_index=-1)

    def step(self, tokens: np.ndarray, targets: np.ndarray, lr: float | None = None) -> float:
        """One training step with the gradient clipped at 1; returns the loss before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr"] if lr is None else lr
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.params.values(), 1.0)
        self.optimizer.step()
        return loss.item()
