"""GPT: blocks, and the one forward that training, evaluation and generation share.

    x = token embedding (+ position embedding)
    for every block:  x = x + attention(norm1(x));  x = x + mlp(norm2(x))
    logits = norm(x) W_head^T

The options cover two families: GPT-2 (learned positions, layer norm, GELU; Radford et al. 2019) and Llama (rotary
positions, RMS norm, SwiGLU, no bias; Touvron et al. 2023), and everything between them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from tinygpt import ops
from tinygpt.cache import KVCache, LayerCache
from tinygpt.config import GPTConfig
from tinygpt.nn import Embedding, LayerNorm, Linear, Module, RMSNorm
from tinygpt.ops.attention import Rotation, rotation_tables
from tinygpt.ops.elementwise import DropoutKey
from tinygpt.ops.embedding import inside
from tinygpt.tensor import Tensor, is_recording, is_traced, no_grad, recording

INIT_STD = 0.02


def _norm(config: GPTConfig) -> LayerNorm | RMSNorm:
    if config.norm == "rmsnorm":
        return RMSNorm(config.n_embd, config.norm_eps)
    return LayerNorm(config.n_embd, config.bias, config.norm_eps)


class Attention(Module):
    """Causal attention: one product for queries, keys and values, one for the output."""

    def __init__(self, config: GPTConfig):
        width = (config.n_head + 2 * config.kv_heads) * config.head_dim
        self.qkv = Linear(config.n_embd, width, config.bias, INIT_STD)
        # What is added to the residual stream starts smaller, by the number of times it is added (GPT-2, section 2.3).
        self.out = Linear(config.n_embd, config.n_embd, config.bias, INIT_STD / math.sqrt(2 * config.n_layer))
        self.config = config

    def mix(self, x: Tensor, rotation: Rotation | None, cache: LayerCache | None, weights=None) -> Tensor:
        """What the heads make of x, before the output product: (B, T, C) to (B, T, C)."""
        return ops.attention(self.qkv(x), self.config.n_head, self.config.kv_heads, rotation, cache, weights)


class MLP(Module):
    """Two products with an activation between them. For swiglu, `up` gives gate and up side by side."""

    def __init__(self, config: GPTConfig):
        wide = config.ffn_width
        self.up = Linear(config.n_embd, wide if config.activation == "gelu" else 2 * wide, config.bias, INIT_STD)
        self.down = Linear(wide, config.n_embd, config.bias, INIT_STD / math.sqrt(2 * config.n_layer))
        self.swiglu = config.activation == "swiglu"

    def widen(self, x: Tensor) -> Tensor:
        """The activations inside: (B, T, C) to (B, T, F)."""
        return ops.swiglu(self.up(x)) if self.swiglu else self.up(x, activation="gelu")


class Block(Module):
    """x + attention(norm1(x)), then x + mlp(norm2(x))."""

    def __init__(self, config: GPTConfig, index: int):
        self.norm1 = _norm(config)
        self.attn = Attention(config)
        self.norm2 = _norm(config)
        self.mlp = MLP(config)
        self.index, self.dropout = index, config.dropout

    def __call__(
        self,
        x: Tensor,
        rotation: Rotation | None,
        cache: LayerCache | None = None,
        key: DropoutKey | None = None,
        weights: np.ndarray | None = None,
    ) -> Tensor:
        """One block: (B, T, C) to (B, T, C)."""
        mixed = self.attn.mix(self.norm1(x), rotation, cache, weights)
        x = self._add(self.attn.out, mixed, x, key, 2 * self.index + 1)
        return self._add(self.mlp.down, self.mlp.widen(self.norm2(x)), x, key, 2 * self.index + 2)

    def recomputed(self, x: Tensor, rotation: Rotation | None, key: DropoutKey | None = None) -> Tensor:
        """The same value and the same gradients, keeping x alone: backward does the block again (Chen et al. 2016).

        Dropout masks are functions of `key`, so that the second time the same elements are dropped.
        """
        with no_grad():
            out = self(x, rotation, key=key).data

        def backward(dy: np.ndarray) -> None:
            # A graph of its own: it ends at the parameters themselves and at a stand-in for x, whose graph is not
            # walked here.
            inside = Tensor(x.data, requires_grad=x.requires_grad)
            with recording():
                again = self(inside, rotation, key=key)
            again.backward(dy)
            if inside.grad is not None:
                x.receive(inside.grad)

        # The parameters are parents although `backward` hands them nothing: they make the result want a gradient where
        # x does not, and lose theirs when a walk fails.
        return Tensor.from_op(out, (x, *self.parameters()), backward)

    def _add(self, project: Linear, branch: Tensor, x: Tensor, key: DropoutKey | None, site: int) -> Tensor:
        """X + dropout(project(branch)); without dropout the product itself adds x."""
        if key is None or self.dropout == 0:
            return project(branch, residual=x)
        return ops.dropout(project(branch), self.dropout, key, site, residual=x)


class GPT(Module):
    """A GPT-style language model.

    Parameters
    ----------
    config : GPTConfig
    seed : int or None
        Of the initial weights: N(0, 0.02^2), what is added to the residual divided by sqrt(2 n_layer), norms 1 and
        biases 0. None leaves them all 0, for a reader of files: memory that nobody has written costs nothing.

    Attributes
    ----------
    recompute : bool
        While gradients are recorded, keep only the input of every block and compute the block again in backward:
        memory for the activations of one block instead of all, for the time of one more forward pass. Values and
        gradients are the same to the bit. It belongs to training: no file of a model has it.
    """

    recompute = False

    def __init__(self, config: GPTConfig, seed: int | None = 0):
        self.config = config
        self.wte = Embedding(config.vocab_size, config.n_embd, INIT_STD)
        self.wpe = Embedding(config.block_size, config.n_embd, INIT_STD) if config.position == "learned" else None
        self.blocks = [Block(config, i) for i in range(config.n_layer)]
        self.norm = _norm(config)
        self.head = self.wte if config.tie_embeddings else Linear(config.n_embd, config.vocab_size, bias=False)
        self._tables = None
        if config.position == "rope":
            self._tables = rotation_tables(config.block_size, config.head_dim, config.rope_theta)
        self.initialise(seed)

    def __call__(self, tokens: np.ndarray, cache: KVCache | None = None, last: bool = False) -> Tensor:
        """Logits of the token after each position; never drops anything.

        Parameters
        ----------
        tokens : int array, shape (B, T)
            T plus what is in the cache is at most `block_size`.
        cache : KVCache, optional
            Earlier positions; is extended.
        last : bool
            Only of the last position, T = 1 in the result.

        Returns
        -------
        Tensor, shape (B, T, V)
        """
        x = self.hidden(tokens, cache)
        if last:
            if x.requires_grad:
                raise RuntimeError("[GPT] 'last' must be used under no_grad(): it leaves the tape")
            x = Tensor(x.data[:, -1:])
        return ops.linear(x, self.head.weight)

    def hidden(
        self,
        tokens: np.ndarray,
        cache: KVCache | None = None,
        dropout_key: DropoutKey | None = None,
        weights: Sequence[np.ndarray] | None = None,
        stream: list[Tensor] | None = None,
    ) -> Tensor:
        """What the head sees: the normalised output of the last block.

        Parameters
        ----------
        tokens : int array, shape (B, T)
        cache : KVCache, optional
        dropout_key : DropoutKey, optional
            Without one nothing is dropped.
        weights : sequence of arrays, one (B, H, T, S) per layer, optional
            Are filled with the attention probabilities.
        stream : list, optional
            Is given the embeddings, then the output of every block: n_layer + 1 tensors (B, T, C), the last of which
            is returned normalised.

        Returns
        -------
        Tensor, shape (B, T, C)

        Raises
        ------
        TypeError
            Tokens are not integers.
        ValueError
            Not two axes, no position, or more positions than the context has.
        IndexError
            A token is not in the vocabulary.
        """
        start = cache.length if cache is not None else 0
        tokens = self._check_tokens(tokens, start)
        if cache is not None and cache.k.shape[1] != len(tokens):
            raise ValueError(f"[GPT] 'tokens' must have {cache.k.shape[1]} rows, as the cache, got {len(tokens)}")
        T = tokens.shape[1]
        x = ops.embedding(tokens, self.wte.weight, None if self.wpe is None else self.wpe.weight, start)
        if dropout_key is not None and self.config.dropout:
            x = ops.dropout(x, self.config.dropout, dropout_key, 0)
        rotation = self._rotation(start, T)
        again = self.recompute and is_recording() and cache is None and weights is None and not is_traced()
        if stream is not None:
            stream.append(x)
        for i, block in enumerate(self.blocks):
            if again:
                x = block.recomputed(x, rotation, dropout_key)
            else:
                layer = cache.layer(i) if cache is not None else None
                x = block(x, rotation, layer, dropout_key, None if weights is None else weights[i])
            if stream is not None:
                stream.append(x)
        out = self.norm(x)
        if cache is not None:  # after the last thing that can fail: a call that raised may be made again
            cache.length += T
        return out

    def loss(self, tokens: np.ndarray, targets: np.ndarray, dropout_key: DropoutKey | tuple | None = None) -> Tensor:
        """Mean cross-entropy of the next tokens.

        Parameters
        ----------
        tokens : int array, shape (B, T)
        targets : int array, shape (B, T)
            Token that follows each position; negative ones are ignored.
        dropout_key : DropoutKey or tuple (seed, step, first sequence), optional
            What dropout masks are drawn from; without one nothing is dropped.

        Returns
        -------
        Tensor, shape ()
            In nats per token.
        """
        key = None if dropout_key is None else DropoutKey(*dropout_key)
        targets = np.asarray(targets)
        if targets.shape != np.shape(tokens):
            raise ValueError(f"[GPT] 'targets' must have the shape of tokens {np.shape(tokens)}, got {targets.shape}")
        return ops.head_loss(self.hidden(tokens, dropout_key=key), self.head.weight, targets)

    def generate(
        self,
        tokens: np.ndarray,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        *,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
    ) -> np.ndarray:
        """Continue token sequences.

        Parameters
        ----------
        tokens : int array, shape (B, T) or (T,)
            At least one token; of more than the context the last ones are used.
        max_new_tokens : int
            Tokens to add.
        temperature : float
            0 always takes the most likely token.
        top_k : int, optional
            Sample among the k most likely only.
        top_p : float, optional
            Sample among the most likely that together have this probability.
        seed : int, optional
            Row i draws from a generator of its own, by (seed, i). None: from the system's entropy.
        min_p : float, optional
            Sample among those that have this share of the probability of the most likely one.
        repetition_penalty : float
            Logits of tokens in the context are divided by it where positive and multiplied where negative. 1: off.
        presence_penalty, frequency_penalty : float
            Are subtracted from the logits of tokens in the context: once, and once for each time. 0: off.

        Returns
        -------
        int array, shape (B, T + max_new_tokens), or (T + max_new_tokens,)
        """
        from tinygpt.decoding import stream
        from tinygpt.sampling import Sampler

        given = np.asarray(tokens)
        rows = np.atleast_2d(given)
        penalties = (repetition_penalty, presence_penalty, frequency_penalty)
        sampler = Sampler(temperature, top_k, top_p, seed, len(rows), min_p, *penalties)
        new = list(stream(self, rows, max_new_tokens, sampler))
        dtype = rows.dtype if rows.dtype.itemsize >= 4 else np.dtype(np.int32)  # new tokens may not fit bytes
        out = np.concatenate([rows.astype(dtype), np.array(new, dtype).reshape(len(new), len(rows)).T], axis=1)
        return out[0] if given.ndim == 1 else out

    def pack(self, kind: str, keep: Iterable[Module | None] = (), values: bool = True) -> None:
        """As `Module.pack`; learned positions stay float32, as their rows are added and multiply nothing."""
        super().pack(kind, (*keep, self.wpe), values)

    def new_cache(self, batch: int = 1) -> KVCache:
        """An empty cache for `batch` sequences."""
        return KVCache(self.config, batch)

    def _rotation(self, start: int, count: int) -> Rotation | None:
        """Cosines and sines of `count` positions."""
        if self._tables is None:
            return None
        cos, sin = self._tables
        return cos[start : start + count], sin[start : start + count]

    def _check_tokens(self, tokens: np.ndarray, start: int) -> np.ndarray:
        """`tokens` as int32 (B, T), held against vocabulary and context."""
        tokens = np.asarray(tokens)
        if tokens.dtype.kind not in "iu":
            raise TypeError(f"[GPT] 'tokens' must be integers, got {tokens.dtype}")
        if tokens.ndim != 2 or tokens.shape[1] < 1:
            raise ValueError(f"[GPT] 'tokens' must have shape (B, T) with T at least 1, got {tokens.shape}")
        if start + tokens.shape[1] > self.config.block_size:
            held = f"{start} cached and " if start else ""
            raise ValueError(
                f"[GPT] 'tokens' must fit the context of {self.config.block_size}, got {held}{tokens.shape[1]}"
            )
        if tokens.size and not inside(tokens, self.config.vocab_size):
            wrong = int(tokens.min()) if int(tokens.min()) < 0 else int(tokens.max())
            raise IndexError(f"[GPT] 'tokens' must be in 0..{self.config.vocab_size - 1}, got {wrong}")
        return np.ascontiguousarray(tokens, np.int32)
