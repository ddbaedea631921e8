"""The shape of a model, checked."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a model; names are those of GPT-2 and nanoGPT.

    Parameters
    ----------
    vocab_size : int
        Tokens.
    block_size : int
        Context: the most positions a forward pass sees.
    n_layer, n_head, n_embd : int
        Blocks, query heads, width.
    n_kv_head : int, optional
        Key/value heads; fewer than `n_head` means grouped-query attention. None: `n_head`.
    ffn_dim : int, optional
        Width inside the MLP. None: 4 n_embd with gelu; 8/3 n_embd, rounded up to a multiple of 64, with swiglu.
    position : str
        ``learned`` or ``rope``.
    norm : str
        ``layernorm`` or ``rmsnorm``.
    activation : str
        ``gelu`` or ``swiglu``.
    bias : bool
        In linear layers and layer norms.
    tie_embeddings : bool
        The head uses the token embedding.
    dropout : float
        Probability, on the embeddings and on what every branch adds to the residual.
    rope_theta : float
        Base of the rotary frequencies.
    norm_eps : float
        Positive in float32.

    Raises
    ------
    ValueError
        A value is out of range, or values do not fit together.
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
        """Key/value heads."""
        return self.n_kv_head or self.n_head

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.n_embd // self.n_head

    @property
    def ffn_width(self) -> int:
        """Width inside the MLP."""
        if self.ffn_dim:
            return self.ffn_dim
        return 4 * self.n_embd if self.activation == "gelu" else -(-(8 * self.n_embd) // (3 * 64)) * 64

    def flops_per_token(self, backward: bool = True) -> int:
        """Floating-point operations of the products for one token of a full context.

        Two for every weight that multiplies, plus the causal half of the two attention products; backward costs twice
        the forward (Kaplan et al. 2020, section 2.1).
        """
        C, D = self.n_embd, self.head_dim
        attention = (self.n_head + 2 * self.kv_heads) * D * C + C * C
        mlp = (2 if self.activation == "gelu" else 3) * C * self.ffn_width
        weights = self.n_layer * (attention + mlp) + self.vocab_size * C
        scores = self.n_layer * 2 * self.n_head * D * (self.block_size + 1) / 2
        return int((2 * weights + 2 * scores) * (3 if backward else 1))


def _positive(name: str, value: Any) -> int:
    """An integer of any type, NumPy's too, as int: they end up in JSON."""
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"[GPTConfig] '{name}' must be a positive integer, got {value!r}")
    return number
