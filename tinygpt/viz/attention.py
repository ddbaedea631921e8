"""Attention page of a prompt: the weights of every head, and the predicted next tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygpt import ops
from tinygpt.model import GPT
from tinygpt.tensor import no_grad
from tinygpt.tokenizers.base import Tokenizer
from tinygpt.viz.heads import SUMMARIES, summaries, uniform
from tinygpt.viz.labels import label
from tinygpt.viz.page import Page, pack

MAX_TOKENS = 128  # default number of tokens of a page
MOST_TOKENS = 1024  # limit up to which a browser draws the page without delay
MOST_BYTES = 32_000_000  # limit of the attention weights in a page
BEST = 5  # most likely tokens shown for each prediction


@dataclass(frozen=True, eq=False, repr=False)
class AttentionPage(Page):
    """Page of the attention weights and predictions of one prompt; a notebook shows it below the cell.

    Attributes
    ----------
    name : str
        Name of the model.
    ids : int array, shape (T,)
        Tokens of the prompt.
    labels : list of str
        Labels of the tokens.
    weights : array, shape (L, H, T, T), float32
        Row t of a map holds the weights of token t on tokens 0..t, which sum to 1; the rest of the row is 0.
    predictions : list of dict
        For each token: ``best``, the most likely next tokens as pairs of label and probability; ``rank`` and ``p``,
        rank and probability of the true next token, None for the last token.
    context : int
        Context length of the model.
    dropped : int
        Number of tokens cut off at the end of the prompt.
    layer, head : int
        Layer and head that the page shows first, from 0.
    """

    template_name = "attention"
    parts = ("attention_map", "attention_text", "attention_tables")

    name: str
    ids: np.ndarray
    labels: list[str]
    weights: np.ndarray
    predictions: list[dict[str, Any]]
    context: int
    dropped: int = 0
    layer: int = 0
    head: int = 0

    def summaries(self) -> dict[str, np.ndarray]:
        """Return the summaries of every head, as arrays of shape (L, H); see `tinygpt.viz.heads.summaries`."""
        return summaries(self.weights, self.ids)

    def _heading(self) -> str:
        return f"Attention: {self.name}"

    def _data(self) -> dict[str, Any]:
        L, H, T, _ = self.weights.shape
        # Only the lower triangles, row by row, because the rest is 0.
        triangles = self.weights[..., *np.tril_indices(T)]
        found, reference = self.summaries(), summaries(uniform(T), self.ids)
        return {
            "name": self.name,
            "tokens": self.labels,
            "breaks": [text.endswith("↵") for text in self.labels],
            "layers": L,
            "heads": H,
            "layer": self.layer,
            "head": self.head,
            "dropped": self.dropped,
            "cut": cut_note(T + self.dropped, T, self.context),
            "weights": pack(triangles, "<f4"),
            "predictions": self.predictions,
            "about": SUMMARIES,
            "summaries": {name: _plain(values.reshape(-1)) for name, values in found.items()},
            "uniform": {name: _plain(values.reshape(1))[0] for name, values in reference.items()},
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
    """Run a prompt through a model and keep the attention weights of its heads.

    The weights come from the same forward pass and the same kernel as the predictions.

    Parameters
    ----------
    model : GPT
    tokenizer : Tokenizer
    prompt : str
    max_tokens : int
        Largest number of tokens; a longer prompt is cut at its end, as is one longer than the context of the model.
    layer, head : int
        Layer and head that the page shows first, from 0.
    name : str
        Name of the model, for the page.

    Returns
    -------
    AttentionPage

    Raises
    ------
    TypeError, ValueError
        See `Tokenizer.encode`. ValueError also for an empty prompt, for more tokens than a page can hold, and for a
        model that computes NaN or infinity.
    IndexError
        The model has no such layer or head.
    """
    ids = tokenizer.encode(prompt)
    shown = ids[: shown_tokens(model, len(ids), max_tokens)]
    for what, value, count in (("layer", layer, model.config.n_layer), ("head", head, model.config.n_head)):
        if not 0 <= value < count:
            raise IndexError(f"[visualize] '{what}' must be in 0..{count - 1}, got {value}")
    weights, logits = forward(model, shown)
    labels = [label(tokenizer, token) for token in shown.tolist()]
    predictions = _predictions(logits, shown, tokenizer)
    context = model.config.block_size
    return AttentionPage(name, shown, labels, weights, predictions, context, len(ids) - len(shown), layer, head)


def shown_tokens(model: GPT, n: int, max_tokens: int, op: str = "visualize") -> int:
    """Return the number of tokens of a prompt to show: at most `max_tokens` and the context of the model.

    Parameters
    ----------
    model : GPT
    n : int
        Number of tokens of the prompt.
    max_tokens : int
        Largest number of tokens to show.
    op : str
        Name of the operation in error messages.

    Raises
    ------
    ValueError
        The prompt is empty, or `max_tokens` is more than a page can hold.
    """
    L, H = model.config.n_layer, model.config.n_head
    if not 1 <= max_tokens <= MOST_TOKENS:
        raise ValueError(f"[{op}] 'max_tokens' must be in 1..{MOST_TOKENS}, got {max_tokens}")
    if n < 1:
        raise ValueError(f"[{op}] 'prompt' must have at least one token, got none")
    kept = min(n, max_tokens, model.config.block_size)
    most = next(t for t in range(kept, 0, -1) if t == 1 or 2 * L * H * t * (t + 1) <= MOST_BYTES)
    if kept > most:
        raise ValueError(f"[{op}] 'max_tokens' must be at most {most} for {L} x {H} heads, got {kept} tokens")
    return kept


def cut_note(n: int, shown: int, context: int, argument: str = "max_tokens") -> str:
    """Make the remark that only the first tokens of a prompt are shown, because of the context or of an argument."""
    limit = "the context of the model" if shown == context else f"limited by {argument}"
    return f"the prompt has {n:,} tokens; the first {shown:,} are shown ({limit})"


def forward(model: GPT, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Run one forward pass that records its attention weights.

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
        A weight or a logit is NaN or infinite.
    """
    c, T = model.config, len(ids)
    weights = np.zeros((c.n_layer, 1, c.n_head, T, T), np.float32)
    with no_grad():
        hidden = model.hidden(ids[None], weights=list(weights))
        logits = np.array(ops.linear(hidden, model.head.weight).data[0])
    if not (np.isfinite(logits).all() and np.isfinite(weights).all()):
        raise ValueError("[visualize] 'model' must compute finite numbers; its weights are damaged")
    return weights[:, 0], logits


def _predictions(logits: np.ndarray, ids: np.ndarray, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """List the most likely tokens of each row of logits, and rank and probability of the true one."""
    found = []
    for t, row in enumerate(logits.astype(np.float64)):
        p = np.exp(row - row.max())
        p /= p.sum()
        order = np.argsort(-row, kind="stable")  # of equal logits, the lower id first
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
    """Convert to JSON numbers; NaN, which JSON lacks, becomes None."""
    return [None if np.isnan(value) else float(value) for value in values]
