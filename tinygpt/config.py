"""GPTConfig: the checked options of a model."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class GPTConfig:
    """Size and architecture of a model; the names are those of GPT-2 and nanoGPT.

    Parameters
    ----------
    vocab_size : int
        Number of tokens in the vocabulary.
    block_size : int
        Context length: maximum number of positions in a forward pass.
    n_layer : int
        Number of transformer blocks.
    n_head : int
        Number of query heads.
    n_embd : int
        Width of the residual stream; a multiple of `n_head`.
    n_kv_head : int, optional
        Number of key/value heads; fewer than `n_head` means grouped-query attention. Default: `n_head`.
    ffn_dim : int, optional
        Hidden width of the MLP. Default: 4 n_embd with gelu; 8/3 n_embd, rounded up to a multiple of 64, with swiglu.
    position : str
        Position encoding: ``learned`` or ``rope``.
    norm : str
        Normalisation: ``layernorm`` or ``rmsnorm``.
    activation : str
        Activation of the MLP: ``gelu`` or ``swiglu``.
    bias : bool
        Whether linear layers and layer norms have a bias.
    tie_embeddings : bool
        Whether the head shares the weight of the token embedding.
    dropout : float
        Probability of dropping an element of the embeddings and of the output of each branch, in training.
    rope_theta : float
        Base of the rotary frequencies.
    norm_eps : float
        Epsilon of the norms; positive in float32.

    Raises
    ------
    ValueError
        A value is out of range, or values contradict each other.
    """

    vocab_size: int
    block_size: int = 64
    n_layer: int = 2
    n_head: int = 2
    n_embd: int = 64
    n_kv_head: int | None = None
    ffn_dim: int | None = None
    position: str = "learned"
    norm: str = "layernorm"
    activation: str = "gelu"
    bias: bool = True
    tie_embeddings: bool = True
    dropout: float = 0.0
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        choices = {
            "position": ("learned", "rope"),
            "norm": ("layernorm", "rmsnorm"),
            "activation": ("gelu", "swiglu"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"[GPTConfig] '{name}' must be {' or '.join(allowed)}, got {getattr(self, name)!r}")
        for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd", "n_kv_head", "ffn_dim"):
            value = getattr(self, name)
            if value is None and name in ("n_kv_head", "ffn_dim"):
                continue
            object.__setattr__(self, name, _positive(name, value))
        for name in ("bias", "tie_embeddings"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"[GPTConfig] '{name}' must be True or False, got {getattr(self, name)!r}")
        for name in ("dropout", "rope_theta", "norm_eps"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"[GPTConfig] '{name}' must be a number, got {value!r}")
        self._check_heads()
        if not 0 <= self.dropout < 1:
            raise ValueError(f"[GPTConfig] 'dropout' must be at least 0 and less than 1, got {self.dropout}")
        if not (math.isfinite(self.rope_theta) and self.rope_theta > 0):
            raise ValueError(f"[GPTConfig] 'rope_theta' must be positive, got {self.rope_theta}")
        if not 2.0**-149 <= self.norm_eps < 2.0**128:  # the range of float32, which the kernels take
            raise ValueError(f"[GPTConfig] 'norm_eps' must be positive and finite in float32, got {self.norm_eps}")

    def _check_heads(self) -> None:
        if self.n_embd % self.n_head:
            raise ValueError(f"[GPTConfig] 'n_embd' {self.n_embd} must be a multiple of 'n_head' {self.n_head}")
        if self.n_head % self.kv_heads:
            raise ValueError(f"[GPTConfig] 'n_head' {self.n_head} must be a multiple of 'n_kv_head' {self.n_kv_head}")
        if self.position == "rope" and self.head_dim % 2:
            raise ValueError(f"[GPTConfig] 'n_embd' / 'n_head' must be even with rope, got {self.head_dim}")

    @property
    def kv_heads(self) -> int:
        """Number of key/value heads."""
        return self.n_kv_head or self.n_head

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.n_embd // self.n_head

    @property
    def ffn_width(self) -> int:
        """Hidden width of the MLP."""
        if self.ffn_dim:
            return self.ffn_dim
        return 4 * self.n_embd if self.activation == "gelu" else -(-(8 * self.n_embd) // (3 * 64)) * 64

    def flops_per_token(self, backward: bool = True) -> int:
        """Count the floating-point operations of all matmuls for one token of a full context.

        Forward: two per weight of a matmul, plus the causal half of the two attention matmuls. Backward: twice as many
        (Kaplan et al. 2020, section 2.1).
        """
        C, D = self.n_embd, self.head_dim
        attention = (self.n_head + 2 * self.kv_heads) * D * C + C * C
        mlp = (2 if self.activation == "gelu" else 3) * C * self.ffn_width
        weights = self.n_layer * (attention + mlp) + self.vocab_size * C
        scores = self.n_layer * 2 * self.n_head * D * (self.block_size + 1) / 2
        return int((2 * weights + 2 * scores) * (3 if backward else 1))


def _positive(name: str, value: Any) -> int:
    """Convert an integer of any type, also of NumPy, to int, because configs are written as JSON."""
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"[GPTConfig] '{name}' must be a positive integer, got {value!r}")
    return number
