"""Low-rank adapters (LoRA): the model's weights are frozen, and thin matrices beside them learn the difference.

A linear layer y = x W^T becomes y = x W^T + (alpha / r) (x A^T) B^T with A (r, K) and B (N, r) (Hu et al. 2021). B
starts at zero, so that training starts from the given model. The learned difference can be merged into W afterwards,
which gives an ordinary model. `tinygpt.files.adapters` reads and writes adapters.

Design
- Adapters have an arena of their own. Gradients and optimizer state have the size of an arena, so they are as small as
  the adapters, and the weights of the model are neither moved nor copied. Rejected: one arena for both, because every
  frozen weight would then have room for a gradient.
- A fused layer has one adapter: queries, keys and values share their A, and so do gate and up.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from tinygpt import ops
from tinygpt.deprecated import forward
from tinygpt.model import GPT
from tinygpt.nn import Linear, Module, Parameter
from tinygpt.ops.product import product
from tinygpt.tensor import Tensor

TARGETS = ("qkv", "out", "up", "down")
MOST_ALPHA = 2.0**128  # the factor alpha / rank must fit float32
# Target -> the layer's name within a block.
PLACES = {"qkv": "attn.qkv", "out": "attn.out", "up": "mlp.up", "down": "mlp.down"}


@dataclasses.dataclass(frozen=True)
class Adapters:
    """Settings shared by all adapters of a model.

    Attributes
    ----------
    rank : int
        Number of columns of the thin matrices.
    alpha : float
        The product of the two matrices is multiplied by alpha / rank.
    targets : tuple of str
        Layers that have an adapter in some block, in the order of `TARGETS`; in every block unless `add` was given
        names of layers.
    base : str
        Path of the base model; information for people and for peft.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]
    base: str = ""


class LoraLinear(Linear):
    """A linear layer with an adapter; it shares weight and bias with the layer it replaces."""

    def __init__(self, layer: Linear, adapters: Adapters):
        n_out, n_in = layer.weight.shape
        self.weight, self.bias, self.adapters = layer.weight, layer.bias, adapters
        self._covered = (layer,)  # in a tuple, because a module here would be named a second time
        # The variance of the authors' uniform initialisation, so that published learning rates apply.
        self.lora_A = Parameter((adapters.rank, n_in), std=1 / math.sqrt(3 * n_in))
        self.lora_B = Parameter((n_out, adapters.rank))

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.adapters.alpha / self.adapters.rank

    def __call__(self, x: Tensor, residual: Tensor | None = None, activation: str = "none") -> Tensor:
        """activation(x (W + scale B A)^T + b) + residual, (..., n_in) to (..., n_out)."""
        if activation == "none":
            return ops.low_rank(x, self.weight, self.lora_A, self.lora_B, self.scale, self.bias, residual)
        out = ops.gelu(ops.low_rank(x, self.weight, self.lora_A, self.lora_B, self.scale, self.bias))
        return out if residual is None else out + residual


class _Pairs(Module):
    """All matrices of the adapters, which share one arena."""

    def __init__(self, layers: Sequence[LoraLinear]):
        self.pairs: list[Module] = []
        for layer in layers:
            pair = Module()
            pair.lora_A, pair.lora_B = layer.lora_A, layer.lora_B  # type: ignore[attr-defined]
            self.pairs.append(pair)


def add(
    model: GPT,
    rank: int,
    alpha: float | None = None,
    targets: Sequence[str] | None = None,
    seed: int = 0,
    base: str = "",
    layers: Collection[str] | None = None,
) -> list[Parameter]:
    """Freeze a model and give it adapters.

    Parameters
    ----------
    model : GPT
        Must have no adapters.
    rank : int
        Number of columns of the thin matrices.
    alpha : float, optional
        The product of the two matrices is multiplied by alpha / rank. Default: 2 rank.
    targets : sequence of str, optional
        Layers of every block: ``qkv``, ``out``, ``up``, ``down``. Default: all.
    seed : int
        Seed of the random matrix A; B is zero.
    base : str
        Path of the base model.
    layers : collection of str, optional
        Names of the layers that get an adapter, such as ``blocks.0.attn.qkv``, instead of `targets` in every block.

    Returns
    -------
    list of Parameter
        The parameters of the adapters, for an optimizer.

    Raises
    ------
    ValueError
        The model already has adapters, or a value is out of range.
    """
    if of(model) is not None:
        raise ValueError("[lora] 'model' must have no adapters yet: merge them first")
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"[lora] 'rank' must be a positive integer, got {rank!r}")
    alpha = 2.0 * rank if alpha is None else float(alpha)
    if not 0 < alpha < MOST_ALPHA:
        raise ValueError(f"[lora] 'alpha' must be positive and finite in float32, got {alpha}")
    if seed < 0:
        raise ValueError(f"[lora] 'seed' must be 0 or more, got {seed}")
    chosen = _chosen(model, targets, layers)
    adapters = Adapters(rank, alpha, tuple(name for name in TARGETS if name in chosen.values()), base)
    for parameter in model.parameters():
        parameter.requires_grad = False
    made: list[LoraLinear] = []
    for place, owner, name, layer in _linears(model):
        if place in chosen:
            setattr(owner, name, LoraLinear(layer, adapters))
            made.append(getattr(owner, name))
    _Pairs(made).initialise(seed)
    return parameters(model)


def _chosen(model: GPT, targets: Sequence[str] | None, layers: Collection[str] | None) -> dict[str, str]:
    """Return the layers that `add` gives an adapter: name to target."""
    wanted = TARGETS if targets is None else tuple(targets)
    unknown = [name for name in wanted if name not in TARGETS]
    if unknown or not wanted:
        raise ValueError(
            f"[lora] 'targets' must be among {', '.join(TARGETS)}, got {unknown[0] if unknown else 'none'}"
        )
    every = {place: name for place, _, name, _ in _linears(model)}
    if layers is None:
        return {place: name for place, name in every.items() if name in wanted}
    if not layers or not every.keys() >= set(layers):
        raise ValueError("[lora] 'layers' must be names of layers, such as blocks.0.attn.qkv")
    return {place: name for place, name in every.items() if place in layers}


def _linears(model: GPT) -> Iterator[tuple[str, Module, str, Linear]]:
    """Yield every linear layer of the blocks: its name, the module that holds it, the attribute, the layer."""
    for i, block in enumerate(model.blocks):
        for name in TARGETS:
            owner = getattr(block, PLACES[name].partition(".")[0])
            yield f"blocks.{i}.{PLACES[name]}", owner, name, getattr(owner, name)


def layers(model: GPT) -> list[tuple[str, LoraLinear]]:
    """List the layers of a model that have an adapter, with their names."""
    return [(name, layer) for name, _, _, layer in _linears(model) if isinstance(layer, LoraLinear)]


def of(model: GPT) -> Adapters | None:
    """Return the settings of a model's adapters; None if it has none."""
    found = layers(model)
    return found[0][1].adapters if found else None


def parameters(model: GPT) -> list[Parameter]:
    """List the parameters of the adapters."""
    return [parameter for _, layer in layers(model) for parameter in (layer.lora_A, layer.lora_B)]


def _add_to_weight(layer: LoraLinear) -> None:
    """Add scale B A to W, in place."""
    b = layer.lora_B.data * np.float32(layer.scale)
    W, a = layer.weight.data, layer.lora_A.data
    product(b, a, out=W, accumulate=True)


def merge(model: GPT) -> None:
    """Merge the adapters into the weights, which gives an ordinary model whose parameters all train.

    Parameters
    ----------
    model : GPT
        A model without adapters is left unchanged.
    """
    if of(model) is None:
        return
    for _, layer in layers(model):
        _add_to_weight(layer)
    remove(model)
    for parameter in model.parameters():
        parameter.requires_grad = True


def remove(model: GPT) -> None:
    """Remove the adapters without merging them: the replaced layers come back."""
    for _, owner, name, layer in _linears(model):
        if isinstance(layer, LoraLinear):
            setattr(owner, name, layer._covered[0])


@contextmanager
def merged_weights(model: GPT) -> Iterator[None]:
    """Merge the adapters into the weights inside a `with` block, so that the weights can be written to a file.

    The previous weights are kept and restored afterwards, so memory holds the adapted layers twice. A forward pass
    inside the block would count the adapters twice.
    """
    before: list[tuple[LoraLinear, np.ndarray]] = []
    try:
        for _, layer in layers(model):
            before.append((layer, layer.weight.data.copy()))
            _add_to_weight(layer)
        yield
    finally:
        for layer, values in before:
            layer.weight.data = values


__getattr__ = forward(__name__, {"load": "tinygpt.files.adapters.load", "save": "tinygpt.files.adapters.save"})
