"""The benchmark jobs in PyTorch: a GPT-2-style model, matrix products, attention."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from inputs import attention_inputs, batch, operands, sample, weights
from jobs import Model
from torch.nn import functional as F  # noqa: N812 - the name that everybody knows
from worker import Built

if TYPE_CHECKING:
    from tinygpt import GPT


class TorchGPT:
    """A GPT-2-style model with biases and a tied head, eager, with PyTorch's fused AdamW.

    Parameters
    ----------
    parameters : iterable of (name, array)
        The names of tinygpt; values are copied.
    heads : int
    eps : float
        Of the layer norms.
    lr, betas, weight_decay
        Of AdamW; matrices and embeddings decay, vectors do not.
    precision : str
        With ``bfloat16`` forward runs under autocast.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, np.ndarray]],
        heads: int,
        eps: float = 1e-5,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.1,
        precision: str = "float32",
    ):
        self.heads, self.eps, self.precision = heads, eps, precision
        self.params = {name: torch.tensor(values, requires_grad=True) for name, values in parameters}
        self.layers = sum(name.endswith("attn.qkv.weight") for name in self.params)
        groups = [
            {"params": [p for p in self.params.values() if p.ndim == 2], "weight_decay": weight_decay},
            {"params": [p for p in self.params.values() if p.ndim == 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)

    @classmethod
    def of(cls, gpt: GPT, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.95), weight_decay: float = 0.1):
        """Build a model with tinygpt's weights on a number of threads."""
        import tinygpt

        torch.set_num_threads(tinygpt.get_num_threads())
        parameters = ((name, p.data) for name, p in gpt.named_parameters())
        return cls(parameters, gpt.config.n_head, gpt.config.norm_eps, lr, betas, weight_decay)

    def _norm(self, h: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = self.params[f"{name}.weight"], self.params[f"{name}.bias"]
        return F.layer_norm(h, weight.shape, weight, bias, self.eps)

    def _linear(self, h: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(h, self.params[f"{name}.weight"], self.params[f"{name}.bias"])

    def loss(self, tokens: np.ndarray, targets: np.ndarray) -> torch.Tensor:
        """Compute the mean cross-entropy; targets of -1 are ignored."""
        with torch.autocast("cpu", torch.bfloat16) if self.precision == "bfloat16" else nullcontext():
            return self._loss(torch.from_numpy(tokens).long(), torch.from_numpy(targets).long())

    def _loss(self, x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        (B, T), H, C = x.shape, self.heads, self.params["wte.weight"].shape[1]
        h = self.params["wte.weight"][x] + self.params["wpe.weight"][:T]
        for i in range(self.layers):
            b = f"blocks.{i}"
            qkv = self._linear(self._norm(h, f"{b}.norm1"), f"{b}.attn.qkv").view(B, T, 3, H, C // H)
            mixed = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4), is_causal=True)
            h = h + self._linear(mixed.transpose(1, 2).reshape(B, T, C), f"{b}.attn.out")
            wide = F.gelu(self._linear(self._norm(h, f"{b}.norm2"), f"{b}.mlp.up"), approximate="tanh")
            h = h + self._linear(wide, f"{b}.mlp.down")
        logits = F.linear(self._norm(h, "norm"), self.params["wte.weight"])
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)

    def step(self, tokens: np.ndarray, targets: np.ndarray, lr: float | None = None) -> float:
        """Do one training step with the gradient clipped at 1; returns the loss before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr"] if lr is None else lr
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.params.values(), 1.0)
        self.optimizer.step()
        return loss.item()


def facts(threads: int) -> dict[str, Any]:
    """Return versions, and the instruction set that PyTorch chose."""
    torch.set_num_threads(threads)
    return {"versions": {"torch": torch.__version__}, "capability": torch.backends.cpu.get_cpu_capability()}


def build(contender: str, task: dict[str, Any], threads: int) -> Built:
    """Build a job in PyTorch; the contender names the precision, or the library behind a product."""
    torch.set_num_threads(threads)
    return BUILDERS[task["kind"]](contender, task)


def train(contender: str, task: dict[str, Any]) -> Built:
    """Build a training step in eager mode: forward, backward, clipping, AdamW."""
    sizes = Model(**task["model"])
    precision = "bfloat16" if "bfloat16" in contender else "float32"
    model, (x, y) = TorchGPT(weights(sizes), sizes.heads, precision=precision), batch(sizes)
    return Built(lambda: model.step(x, y), [model.step(x, y), model.step(x, y)])


def _rounded_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Compute a product as autocast does in a training step: operands are rounded each time."""
    return torch.mm(a.bfloat16(), b.bfloat16())


def product(contender: str, task: dict[str, Any]) -> Built:
    """Build a matrix product op(a) op(b), through torch.mm or through oneDNN's linear layer in float32."""
    a, b = map(torch.from_numpy, operands(task))
    a, b = (x.t() if letter == "T" else x for x, letter in zip((a, b), task["case"], strict=True))
    if contender == "torch":
        out = torch.empty(task["M"], task["N"])
        call = partial(torch.mm, a, b, out=out)
    elif contender == "torch onednn":
        call = partial(torch.ops.mkldnn._linear_pointwise, a, b.t(), None, "none", [], "")
    elif contender == "torch bfloat16":
        left, right = a.bfloat16(), b.bfloat16()
        out = torch.empty(task["M"], task["N"], dtype=torch.bfloat16)
        call = partial(torch.mm, left, right, out=out)
    else:
        call = partial(_rounded_product, a, b)
    with torch.inference_mode():
        result = call().float().numpy()
    return Built(torch.inference_mode()(call), sample(result))


def attention(contender: str, task: dict[str, Any]) -> Built:
    """Build forward and backward of scaled_dot_product_attention, whose second axis is the heads."""
    q, k, v, dout = (torch.from_numpy(x).transpose(1, 2) for x in attention_inputs(task))
    for x in (q, k, v):
        x.requires_grad_()

    def call() -> tuple[torch.Tensor, ...]:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return out, *torch.autograd.grad(out, (q, k, v), dout)

    got = [sample(x.detach().transpose(1, 2).contiguous().numpy()) for x in call()]
    return Built(call, [one for part in got for one in part])


BUILDERS = {"train": train, "product": product, "attention": attention}
