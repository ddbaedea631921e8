"""The page of a prompt: what every head of every layer attends to, and what the model expects next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygpt import ops
from tinygpt.model import GPT
from tinygpt.tensor import no_grad
from tinygpt.tokenizers.base import Tokenizer
from tinygpt.viz.heads import SUMMARIES, even, summaries
from tinygpt.viz.labels import label
from tinygpt.viz.page import Page, pack

MAX_TOKENS = 128  # of a prompt, unless more are asked for
MOST_TOKENS = 1024  # that a browser shows without trouble
MOST_BYTES = 32_000_000  # of weights in a page
BEST = 5  # tokens shown of each prediction


@dataclass(frozen=True, eq=False)
class AttentionPage(Page):
    """Attention and predictions of one prompt; a notebook shows it as the page.

    Attributes
    ----------
    name : str
        Of the model.
    ids : int array, shape (T,)
        The tokens.
    labels : list of str
        The tokens as the page shows them.
    weights : array, shape (L, H, T, T), float32
        Row t of a map holds what token t attends to: its sum is 1, and what comes after t is 0.
    predictions : list of dict
        For each token ``best``, pairs of label and probability of the most likely next tokens; ``rank`` and ``p`` of
        the one that does come next, None for the last token.
    dropped : int
        Tokens of the prompt that were left out at its end.
    layer, head : int
        What the page shows first, from 0.
    """

    template_name = "attention"
    parts = ("attention_map", "attention_text", "attention_tables")

    name: str
    ids: np.ndarray
    labels: list[str]
    weights: np.ndarray
    predictions: list[dict[str, Any]]
    dropped: int = 0
    layer: int = 0
    head: int = 0

    def summaries(self) -> dict[str, np.ndarray]:
        """Entropy and the like of every head; see `tinygpt.viz.heads.summaries`. Arrays of shape (L, H)."""
        return summaries(self.weights, self.ids)

    def _heading(self) -> str:
        return f"Attention: {self.name}"

    def _data(self) -> dict[str, Any]:
        L, H, T, _ = self.weights.shape
        # The lower triangles, row by row, as little-endian float32: half of the file, and every bit of the weights.
        triangles = self.weights[..., *np.tril_indices(T)]
        found, reference = self.summaries(), summaries(even(T), self.ids)
        return {
            "name": self.name,
            "tokens": self.labels,
            "breaks": [text.endswith("↵") for text in self.labels],
            "layers": L,
            "heads": H,
            "layer": self.layer,
            "head": self.head,
            "dropped": self.dropped,
            "weights": pack(triangles, "<f4"),
            "predictions": self.predictions,
            "about": SUMMARIES,
            "summaries": {name: _plain(values.reshape(-1)) for name, values in found.items()},
            "even": {name: _plain(values.reshape(1))[0] for name, values in reference.items()},
        }


def visualize(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: str,
    max_tokens: int = MAX_TOKENS,
    layer: int = 0,
    head: int = 0,
    name: str = "model",
) -> AttentionPage:
    """Run a prompt through a model and keep what its heads attend to.

    The weights are those of the kernel that generates, written down by the same forward pass that gives the
    predictions.

    Parameters
    ----------
    model : GPT
    tokenizer : Tokenizer
    prompt : str
    max_tokens : int
        Of a longer prompt the first ones are shown.
    layer, head : int
        What the page shows first, from 0.
    name : str
        Of the model, for the page.

    Returns
    -------
    AttentionPage

    Raises
    ------
    TypeError, ValueError
        As `Tokenizer.encode`. ValueError also for an empty prompt, for more tokens than the context or a page can
        hold, and for a model that computes no finite number.
    IndexError
        There is no such layer or head.
    """
    ids = tokenizer.encode(prompt)
    shown = ids[: check_length(model, len(ids), max_tokens)]
    for what, value, count in (("layer", layer, model.config.n_layer), ("head", head, model.config.n_head)):
        if not 0 <= value < count:
            raise IndexError(f"[visualize] '{what}' must be in 0..{count - 1}, got {value}")
    weights, logits = forward(model, shown)
    labels = [label(tokenizer, token) for token in shown.tolist()]
    predictions = _predictions(logits, shown, tokenizer)
    return AttentionPage(name, shown, labels, weights, predictions, len(ids) - len(shown), layer, head)


def check_length(
    model: GPT, n: int, max_tokens: int, words: tuple[str, str, str] = ("[visualize] ", "'prompt'", "'max_tokens'")
) -> int:
    """How many of `n` tokens a page shows.

    Parameters
    ----------
    model : GPT
    n, max_tokens : int
    words : three str
        For errors: how they begin, and the names of the two.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        There is no token, or more than the context of the model or a page can hold.
    """
    start, prompt, limit = words
    L, H = model.config.n_layer, model.config.n_head
    if not 1 <= max_tokens <= MOST_TOKENS:
        raise ValueError(f"{start}{limit} must be in 1..{MOST_TOKENS}, got {max_tokens}")
    if n < 1:
        raise ValueError(f"{start}{prompt} must have at least one token, got none")
    kept = min(n, max_tokens)
    context = model.config.block_size
    if kept > context:
        raise ValueError(
            f"{start}{prompt} must fit the model's context of {context} tokens, got {n}; "
            f"with {limit} {context} the first ones are shown"
        )
    most = next(t for t in range(kept, 0, -1) if t == 1 or 2 * L * H * t * (t + 1) <= MOST_BYTES)
    if kept > most:
        raise ValueError(f"{start}{limit} must be at most {most} for {L} x {H} heads, got {kept} tokens")
    return kept


def forward(model: GPT, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One forward pass that writes its attention down.

    Parameters
    ----------
    model : GPT
    ids : int array, shape (T,)

    Returns
    -------
    weights : array, shape (L, H, T, T), float32
    logits : array, shape (T, V), float32

    Raises
    ------
    ValueError
        Not all of them are finite.
    """
    c, T = model.config, len(ids)
    weights = np.zeros((c.n_layer, 1, c.n_head, T, T), np.float32)
    with no_grad():
        hidden = model.hidden(ids[None], weights=list(weights))
        logits = np.array(ops.linear(hidden, model.head.weight).data[0])
    if not (np.isfinite(logits).all() and np.isfinite(weights).all()):
        raise ValueError("[visualize] 'model' must compute finite numbers: its weights are broken")
    return weights[:, 0], logits


def _predictions(logits: np.ndarray, ids: np.ndarray, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """For each row of logits the most likely tokens, and how likely the true one is. Ties go to the lower id."""
    found = []
    for t, row in enumerate(logits.astype(np.float64)):
        p = np.exp(row - row.max())
        p /= p.sum()
        order = np.argsort(-row, kind="stable")
        true = int(ids[t + 1]) if t + 1 < len(ids) else None
        found.append(
            {
                "best": [(label(tokenizer, token), float(p[token])) for token in order[:BEST].tolist()],
                "rank": None if true is None else int(np.flatnonzero(order == true)[0]) + 1,
                "p": None if true is None else float(p[true]),
            }
        )
    return found


def _plain(values: np.ndarray) -> list[float | None]:
    """Numbers for JSON, which has no NaN."""
    return [None if np.isnan(value) else float(value) for value in values]
