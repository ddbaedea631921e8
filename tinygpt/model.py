"""GPT: attention, MLP, block, and the one forward pass that training, evaluation and generation share.

    x = token embedding (+ position embedding)
    for every block:  x = x + attention(norm1(x));  x = x + mlp(norm2(x))
    logits = norm(x) W_head^T

The options cover two families: GPT-2 (learned positions, layer norm, GELU; Radford et al. 2019) and Llama (rotary
positions, RMS norm, SwiGLU, no bias; Touvron et al. 2023), and everything between them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from tinygpt import ops
from tinygpt.cache import KVCache, LayerCache, RaggedCache, RaggedLayer
from tinygpt.config import GPTConfig
from tinygpt.nn import Embedding, LayerNorm, Linear, Module, RMSNorm
from tinygpt.ops.attention import Rotation, rotation_tables
from tinygpt.ops.elementwise import DropoutKey
from tinygpt.ops.embedding import inside
from tinygpt.tensor import Tensor, is_recording, is_traced, no_grad, recording

INIT_STD = 0.02  # of initial weights (GPT-2)
FIRST_TABLE = 2048  # positions of the first rotary tables: 1 MB with heads of 128


class Dropout(NamedTuple):
    """Dropout of one training step.

    Attributes
    ----------
    rate : float
        Probability of dropping an element.
    key : DropoutKey
        Seed, step and sequence that the masks are drawn from.
    """

    rate: float
    key: DropoutKey


def _norm(config: GPTConfig) -> LayerNorm | RMSNorm:
    if config.norm == "rmsnorm":
        return RMSNorm(config.n_embd, config.norm_eps)
    return LayerNorm(config.n_embd, config.bias, config.norm_eps)


def _project(layer: Linear, branch: Tensor, residual: Tensor, dropout: Dropout | None, site: int) -> Tensor:
    """residual + dropout(layer(branch)); without dropout the matmul itself adds the residual.

    `site` numbers the places where a model drops elements, so that each draws a mask of its own.
    """
    if dropout is None:
        return layer(branch, residual=residual)
    return ops.dropout(layer(branch), dropout.rate, dropout.key, site, residual=residual)


class Attention(Module):
    """Causal self-attention of several heads: one matmul for queries, keys and values, one output projection."""

    def __init__(self, config: GPTConfig, site: int):
        width = (config.n_head + 2 * config.kv_heads) * config.head_dim
        self.qkv = Linear(config.n_embd, width, config.bias, INIT_STD)
        # Each block adds to the residual stream twice. Smaller initial weights keep the sum from growing with depth
        # (GPT-2, section 2.3).
        self.out = Linear(config.n_embd, config.n_embd, config.bias, INIT_STD / math.sqrt(2 * config.n_layer))
        self.n_head, self.kv_heads, self.site = config.n_head, config.kv_heads, site

    def __call__(
        self,
        x: Tensor,
        residual: Tensor,
        rotation: Rotation | None,
        cache: LayerCache | RaggedLayer | None = None,
        dropout: Dropout | None = None,
        weights: np.ndarray | None = None,
    ) -> Tensor:
        """Return residual + attention(x), both (B, T, C)."""
        heads = ops.attention(self.qkv(x), self.n_head, self.kv_heads, rotation, cache, weights)
        return _project(self.out, heads, residual, dropout, self.site)


class Hidden(NamedTuple):
    """Hidden activations of one MLP.

    Attributes
    ----------
    values : float32 array, shape (B, T, F)
        Output of the activation function.
    gate : float32 array, shape (B, T, F)
        Positive where a unit is on: with swiglu the gate before SiLU, with gelu the values.
    """

    values: np.ndarray
    gate: np.ndarray


class MLP(Module):
    """Two linear layers with an activation between them; for swiglu, `up` computes gate and up side by side."""

    def __init__(self, config: GPTConfig, site: int):
        wide = config.ffn_width
        self.up = Linear(config.n_embd, wide if config.activation == "gelu" else 2 * wide, config.bias, INIT_STD)
        self.down = Linear(wide, config.n_embd, config.bias, INIT_STD / math.sqrt(2 * config.n_layer))
        self.swiglu, self.site = config.activation == "swiglu", site

    def __call__(
        self, x: Tensor, residual: Tensor, dropout: Dropout | None = None, probe: list[Hidden] | None = None
    ) -> Tensor:
        """Return residual + mlp(x), both (B, T, C); `probe` receives the hidden activations."""
        if self.swiglu:
            gate_up = self.up(x)
            wide = ops.swiglu(gate_up)
        else:
            gate_up = wide = self.up(x, activation="gelu")
        if probe is not None:
            # GELU keeps the sign of its input, so its output tells as well as a gate whether a unit is on.
            probe.append(Hidden(wide.data, gate_up.data[..., : wide.shape[-1]]))
        return _project(self.down, wide, residual, dropout, self.site)


class Block(Module):
    """One transformer block: x = x + attention(norm1(x)), then x = x + mlp(norm2(x))."""

    def __init__(self, config: GPTConfig, index: int):
        self.norm1 = _norm(config)
        self.attn = Attention(config, site=2 * index + 1)
        self.norm2 = _norm(config)
        self.mlp = MLP(config, site=2 * index + 2)

    def __call__(
        self,
        x: Tensor,
        rotation: Rotation | None,
        cache: LayerCache | RaggedLayer | None = None,
        dropout: Dropout | None = None,
        weights: np.ndarray | None = None,
        probe: list[Hidden] | None = None,
    ) -> Tensor:
        """Compute the block: (B, T, C) to (B, T, C). The sublayers add x themselves, inside their last matmul."""
        x = self.attn(self.norm1(x), x, rotation, cache, dropout, weights)  # x + attention(norm1(x))
        return self.mlp(self.norm2(x), x, dropout, probe)  # x + mlp(norm2(x))

    def recomputed(self, x: Tensor, rotation: Rotation | None, dropout: Dropout | None = None) -> Tensor:
        """Compute the same value and gradients while keeping x alone: backward runs the block again.

        Dropout masks are functions of the key, so the second run drops the same elements.

        References
        ----------
        Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost.
        """
        with no_grad():
            out = self(x, rotation, dropout=dropout).data

        def backward(dy: np.ndarray) -> None:
            # A graph of its own. It starts from a stand-in for x, so that this walk stops there and the outer walk
            # continues with the gradient of x.
            inside = Tensor(x.data, requires_grad=x.requires_grad)
            with recording():
                again = self(inside, rotation, dropout=dropout)
            again.backward(dy)
            if inside.grad is not None:
                x.receive(inside.grad)

        # The parameters are listed as parents even though `backward` passes them nothing. Without them, the result
        # would not require a gradient when x does not, and an interrupted walk would not discard their gradients.
        return Tensor.from_op(out, (x, *self.parameters()), backward)


class GPT(Module):
    """A GPT-style language model.

    Parameters
    ----------
    config : GPTConfig
    seed : int or None
        Seed of the initial weights: N(0, 0.02^2), those of residual projections divided by sqrt(2 n_layer); norm
        weights 1, biases 0. None leaves all of them 0, for loading a file: untouched memory costs nothing.

    Attributes
    ----------
    recompute : bool
        Keep only the input of every block while gradients are recorded, and compute the block again in backward.
        This needs memory for the activations of one block instead of all, and the time of one more forward pass.
        Values and gradients have the same bits. Model files do not store it.
    """

    recompute = False

    def __init__(self, config: GPTConfig, seed: int | None = 0):
        self.config = config
        self.wte = Embedding(config.vocab_size, config.n_embd, INIT_STD)
        self.wpe = Embedding(config.block_size, config.n_embd, INIT_STD) if config.position == "learned" else None
        self.blocks = [Block(config, i) for i in range(config.n_layer)]
        self.norm = _norm(config)
        self.head = self.wte if config.tie_embeddings else Linear(config.n_embd, config.vocab_size, bias=False)
        self._tables: Rotation | None = None
        self.initialise(seed)

    def __call__(self, tokens: np.ndarray, cache: KVCache | RaggedCache | None = None, last: bool = False) -> Tensor:
        """Compute the logits of the token after each position, without dropout.

        Parameters
        ----------
        tokens : int array, shape (B, T)
            T plus the length of the cache must be at most `block_size`.
        cache : KVCache or RaggedCache, optional
            Keys and values of earlier positions; those of `tokens` are appended.
        last : bool
            Compute the logits of the last position only: T = 1 in the result. With a RaggedCache, of the last position
            of every sequence in it.

        Returns
        -------
        Tensor, shape (B, T, V)
        """
        x = self.hidden(tokens, cache)
        if last:
            if x.requires_grad:
                raise RuntimeError("[GPT] 'last' must be used under no_grad(): it leaves the tape")
            x = Tensor(x.data[:, -1:] if cache is None else cache.last(x.data))
        return ops.linear(x, self.head.weight)

    def hidden(
        self,
        tokens: np.ndarray,
        cache: KVCache | RaggedCache | None = None,
        dropout_key: DropoutKey | None = None,
        weights: Sequence[np.ndarray] | None = None,
        stream: list[Tensor] | None = None,
        probe: list[Hidden] | None = None,
    ) -> Tensor:
        """Compute the input of the head: the normalised output of the last block.

        Parameters
        ----------
        tokens : int array, shape (B, T)
        cache : KVCache or RaggedCache, optional
        dropout_key : DropoutKey, optional
            Key of the dropout masks; None means no dropout.
        weights : sequence of arrays, one (B, H, T, S) per layer, optional
            Output: attention probabilities.
        stream : list, optional
            Output: the embeddings, then the residual stream after every block, n_layer + 1 tensors (B, T, C).
        probe : list, optional
            Output: the hidden activations of every MLP.

        Returns
        -------
        Tensor, shape (B, T, C)

        Raises
        ------
        TypeError
            `tokens` are not integers.
        ValueError
            `tokens` do not have two axes, have no position, or have more positions than the context.
        IndexError
            A token is not in the vocabulary.
        """
        tokens, start = self._check_tokens(tokens, cache), 0 if cache is None else cache.length
        T = tokens.shape[1]
        dropout = Dropout(self.config.dropout, dropout_key) if dropout_key and self.config.dropout else None
        x = self._embed(tokens, start, dropout)
        rotation = self._rotation(start, T)
        plain = cache is None and weights is None and probe is None and not is_traced()
        if stream is not None:
            stream.append(x)
        for i, block in enumerate(self.blocks):
            if plain and self.recompute and is_recording():
                x = block.recomputed(x, rotation, dropout)
            else:
                layer = cache.layer(i) if cache is not None else None
                x = block(x, rotation, layer, dropout, None if weights is None else weights[i], probe)
            if stream is not None:
                stream.append(x)
        out = self.norm(x)
        if cache is not None:  # last, so that a call that raised can be repeated
            cache.advance(T)
        return out

    def loss(self, tokens: np.ndarray, targets: np.ndarray, dropout_key: DropoutKey | tuple | None = None) -> Tensor:
        """Compute the mean cross-entropy of the next tokens.

        Parameters
        ----------
        tokens : int array, shape (B, T)
        targets : int array, shape (B, T)
            Token that follows each position; negative targets are ignored.
        dropout_key : DropoutKey or tuple (seed, step, first sequence), optional
            Key of the dropout masks; None means no dropout.

        Returns
        -------
        Tensor, shape ()
            Loss in nats per token.
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
            At least one token. The model sees only the last ones that fit its context.
        max_new_tokens : int
            Number of tokens to add.
        temperature : float
            Divides the logits; 0 always takes the most likely token.
        top_k : int, optional
            Sample among the k most likely tokens.
        top_p : float, optional
            Sample among the fewest most likely tokens whose probabilities sum to at least this.
        seed : int, optional
            Row i draws from a generator of its own, seeded by (seed, i). None takes entropy from the system.
        min_p : float, optional
            Sample among tokens with at least this share of the highest probability.
        repetition_penalty : float
            Divides positive logits of tokens in the context and multiplies negative ones; 1 means off.
        presence_penalty, frequency_penalty : float
            Subtracted from the logits of tokens in the context, once or once per occurrence; 0 means off.

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
        """Pack the weights as `Module.pack` does; learned positions stay float32, because no matmul reads them."""
        super().pack(kind, (*keep, self.wpe), values)

    def new_cache(self, batch: int = 1) -> KVCache:
        """Make an empty KV cache for `batch` sequences."""
        return KVCache(self.config, batch)

    def _embed(self, tokens: np.ndarray, start: int | np.ndarray, dropout: Dropout | None) -> Tensor:
        """Return the start of the residual stream: token embeddings plus, where they are learned, positions."""
        positions: Tensor | None = None if self.wpe is None else self.wpe.weight
        if not isinstance(start, int):  # the position of every token
            positions, start = positions and Tensor.plain(positions.data[start]), 0
        x = ops.embedding(tokens, self.wte.weight, positions, start)
        return x if dropout is None else ops.dropout(x, dropout.rate, dropout.key, 0)

    def _rotation(self, start: int | np.ndarray, count: int) -> Rotation | None:
        """Return cosines and sines of `count` positions from `start`, or of the given ones; None without rotation.

        The tables grow to the next power of two, because no tensor in a file bounds the context that its config asks
        for: tables of a million positions would take 512 MB before the first token.
        """
        if self.config.position != "rope":
            return None
        positions = slice(start, start + count) if isinstance(start, int) else start
        end = start + count if isinstance(start, int) else int(start.max()) + 1
        if self._tables is None or len(self._tables[0]) < end:
            length = min(self.config.block_size, max(FIRST_TABLE, 1 << (end - 1).bit_length()))
            self._tables = rotation_tables(length, self.config.head_dim, self.config.rope_theta)
        cos, sin = self._tables
        return cos[positions], sin[positions]

    def _check_tokens(self, tokens: np.ndarray, cache: KVCache | RaggedCache | None) -> np.ndarray:
        """Return `tokens` as int32 (B, T) after checking them against vocabulary, context and cache."""
        tokens = np.asarray(tokens)
        if tokens.dtype.kind not in "iu":
            raise TypeError(f"[GPT] 'tokens' must be integers, got {tokens.dtype}")
        if tokens.ndim != 2 or tokens.shape[1] < 1:
            raise ValueError(f"[GPT] 'tokens' must have shape (B, T) with T at least 1, got {tokens.shape}")
        self._check_positions(tokens.shape[1], cache)
        if tokens.size and not inside(tokens, self.config.vocab_size):
            wrong = int(tokens.min()) if int(tokens.min()) < 0 else int(tokens.max())
            raise IndexError(f"[GPT] 'tokens' must be in 0..{self.config.vocab_size - 1}, got {wrong}")
        if cache is not None and cache.rows != len(tokens):
            raise ValueError(f"[GPT] 'tokens' must have {cache.rows} rows, as the cache, got {len(tokens)}")
        return np.ascontiguousarray(tokens, np.int32)

    def _check_positions(self, T: int, cache: KVCache | RaggedCache | None) -> None:
        """Check that T tokens per row fit the context behind those in the cache."""
        context = self.config.block_size
        if isinstance(cache, RaggedCache):
            if len(cache.length) != T:
                raise ValueError(f"[GPT] 'tokens' must have the {len(cache.length)} tokens of the cache, got {T}")
            if T and int(cache.length.max()) >= context:
                raise ValueError(f"[GPT] 'cache' must fit the context of {context}, got {int(cache.length.max()) + 1}")
            return
        start = 0 if cache is None else cache.length
        if start + T > context:
            held = f"{start} cached and " if start else ""
            raise ValueError(f"[GPT] 'tokens' must fit the context of {context}, got {held}{T}")
