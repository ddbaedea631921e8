"""Page of a file: the surprisal of each token, and the prediction of every layer.

The prediction of a layer is computed by the logit lens (nostalgebraist 2020, "interpreting GPT: the logit lens"): the
residual stream after a block goes straight through the final norm and the head, skipping the remaining blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tinygpt.data.discover import Document
from tinygpt.data.windows import StridedWindows
from tinygpt.evaluate import (
    Score,
    TokenText,
    chunks,
    head_logits,
    model_windows,
    row_losses,
    usual_window,
    window_size,
)
from tinygpt.model import GPT
from tinygpt.tensor import Tensor, no_grad
from tinygpt.tokenizers.base import Tokenizer
from tinygpt.viz.labels import label, lines
from tinygpt.viz.page import Page, pack

MAX_TOKENS = 2000  # default number of tokens of a page
MOST_TOKENS = 10_000  # limit up to which a browser draws the page without delay
MOST_BYTES = 32_000_000  # limit of the predictions of all layers in a page
LENS_LAYERS = 13  # default number of layers; each costs as much time as the head
BEST = 5  # most likely tokens shown for each prediction
BATCH_TOKENS = 2048  # tokens in a batch; the residual stream of all layers is kept for one batch

Progress = Callable[[int, int], None]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Lens:
    """Logit-lens predictions of K layers for M tokens.

    Attributes
    ----------
    layers : list of int
        Number of blocks before each prediction: 0 is the embeddings, n_layer the whole model.
    losses : array, shape (K, M), float32
        Loss of the true token, in nats.
    ranks : array, shape (K, M), int32
        Rank of the true token, from 1.
    top : array, shape (K, M), int32
        The most likely token.
    p : array, shape (K, M), float32
        Probability of `top`.
    """

    layers: list[int]
    losses: Floats
    ranks: Ints
    top: Ints
    p: Floats

    @classmethod
    def empty(cls, layers: list[int], M: int) -> Lens:
        """Allocate arrays for M tokens, filled with zeros."""
        shape = len(layers), M
        floats, ints = [np.zeros(shape, np.float32) for _ in range(2)], [np.zeros(shape, np.int32) for _ in range(2)]
        return cls(layers, floats[0], ints[0], ints[1], floats[1])


@dataclass(frozen=True, eq=False, repr=False)
class ReadPage(Page):
    """Page of a text with a model's predictions for each token; a notebook shows it below the cell.

    The text has N tokens. All except the first are predicted: M = N - 1 predictions.

    Attributes
    ----------
    name, file : str
        Names of the model and of the text.
    ids : int array, shape (N,)
        The tokens.
    losses : array, shape (M,), float32
        Losses of ids[1:], in nats, as `tinygpt.evaluate.score_tokens` returns them.
    ranks : array, shape (M,), int32
        Ranks of ids[1:], from 1.
    context : array, shape (M,), int32
        Number of tokens in the context of each prediction.
    best, p : arrays, shape (M, 5), int32 and float32
        The most likely tokens in place of ids[1:], and their probabilities.
    lens : Lens
        Predictions of the layers.
    tokenizer : Tokenizer
        Tokenizer of the model.
    vocab_size : int
        Size of the model's vocabulary.
    window, stride : int
        Longest context of a prediction, and tokens from one window to the next.
    dropped : int
        Number of tokens cut off at the end of the text.
    lead : int
        Number of tokens at the beginning that do not belong to the text.
    depth : int
        Number of layers of the model.
    """

    template_name = "read"
    parts = ("read_token", "read_tables")

    name: str
    file: str
    ids: Ints
    losses: Floats
    ranks: Ints
    context: Ints
    best: Ints
    p: Floats
    lens: Lens
    tokenizer: Tokenizer
    vocab_size: int
    window: int
    stride: int
    dropped: int
    lead: int
    depth: int

    @property
    def bits(self) -> npt.NDArray[np.float64]:
        """Surprisal of ids[1:] in bits, shape (M,)."""
        return self.losses.astype(np.float64) / math.log(2)

    @cached_property
    def score(self) -> Score:
        """Score of the text that is shown, as `tinygpt eval` computes it."""
        n_bytes = sum(len(self.tokenizer.token_bytes(token)) for token in self.ids.tolist())
        each = n_bytes / (len(self.ids) - self.lead)
        return Score(float(self.losses.mean(dtype=np.float64)), len(self.losses), each)

    @cached_property
    def places(self) -> tuple[Ints, Ints]:
        """Line and column at which each token begins, both from 1 and of shape (N,); columns are characters."""
        line, column = np.ones(len(self.ids), np.int32), np.ones(len(self.ids), np.int32)
        row, at = 1, 1
        for i, token in enumerate(self.ids.tolist()):
            line[i], column[i] = row, at
            before, newline, after = self.tokenizer.token_bytes(token).rpartition(b"\n")
            row += before.count(b"\n") + len(newline)
            # In UTF-8, the second and later bytes of a character begin with the bits 10.
            at = (1 if newline else at) + len([byte for byte in after if byte & 0xC0 != 0x80])
        return line, column

    def _heading(self) -> str:
        return f"{self.file}, read by {self.name}"

    def _data(self) -> dict[str, Any]:
        known = np.unique(np.concatenate([self.ids, self.best.ravel(), self.lens.top.ravel()]))
        shown = set(self.ids.tolist())
        line, column = self.places
        score = self.score
        return {
            "name": self.name,
            "file": self.file,
            "vocab": self.vocab_size,
            "depth": self.depth,
            "window": self.window,
            "stride": self.stride,
            "dropped": self.dropped,
            "loss": score.loss,
            "perplexity": score.perplexity,
            "bitsPerByte": score.bits_per_byte,
            "labels": [label(self.tokenizer, token) for token in known.tolist()],
            "pieces": [lines(self.tokenizer, token) if token in shown else None for token in known.tolist()],
            "tokens": _packed(np.searchsorted(known, self.ids)),
            "line": _packed(line),
            "column": _packed(column),
            "losses": _packed(self.losses),
            "ranks": _packed(self.ranks),
            "context": _packed(self.context),
            "best": _packed(np.searchsorted(known, self.best)),
            "p": _packed(self.p),
            "lens": {
                "layers": self.lens.layers,
                "losses": _packed(self.lens.losses),
                "ranks": _packed(self.lens.ranks),
                "top": _packed(np.searchsorted(known, self.lens.top)),
                "p": _packed(self.lens.p),
            },
        }


def read(
    model: GPT,
    tokenizer: Tokenizer,
    text: str,
    max_tokens: int = MAX_TOKENS,
    window: int | None = None,
    stride: int | None = None,
    lens_layers: int = LENS_LAYERS,
    name: str = "model",
    file: str = "text",
    progress: Progress | None = None,
) -> ReadPage:
    """Make the page of a text: predict every token and keep the predictions.

    Parameters
    ----------
    model : GPT
    tokenizer : Tokenizer
    text : str
    max_tokens : int
        Largest number of tokens; a longer text is cut at its end.
    window, stride : int, optional
        See `tinygpt.evaluate.evaluate`, and `reading_windows` for the defaults.
    lens_layers : int
        Number of layers for the logit lens, spread evenly from the embeddings to the last layer; 0: none.
    name, file : str
        Names of the model and of the text, for the page.
    progress : callable, optional
        Called with (steps done, steps in total).

    Returns
    -------
    ReadPage

    Raises
    ------
    TypeError, ValueError
        See `Tokenizer.encode`. Also for fewer than two tokens, a number out of range, or a model that computes NaN.
    """
    whole = TokenText.encode([Document(file, text)], tokenizer)
    ids = whole.tokens[: max(0, max_tokens)]
    layers = choose_layers(model.config.n_layer, max(0, lens_layers))
    _check(max_tokens, lens_layers, len(ids), len(layers))
    windows = model_windows(model, ids, *reading_windows(model, window, stride))
    found = _Reading(model, ids, layers)
    found.run(windows, progress)
    return ReadPage(
        name=name,
        file=file,
        ids=ids,
        tokenizer=tokenizer,
        vocab_size=model.config.vocab_size,
        window=windows.width,
        stride=min(windows.stride, windows.width),
        dropped=len(whole.tokens) - len(ids),
        lead=whole.lead,
        depth=model.config.n_layer,
        **found.fields(),
    )


def reading_windows(model: GPT, window: int | None = None, stride: int | None = None) -> tuple[int, int]:
    """Return window and stride of a page. Defaults: the window of `tinygpt eval`, and half of it.

    With a whole window as stride, the first tokens of each window would be surprising only because they have almost no
    context.

    Raises
    ------
    ValueError
        Window or stride is out of range.
    """
    length, _ = window_size(model, usual_window(model) if window is None else window)
    return window_size(model, length, max(1, length // 2) if stride is None else stride)


def check_sizes(max_tokens: int, lens_layers: int) -> None:
    """Raise ValueError if the number of tokens or layers is out of range for any page."""
    if not 2 <= max_tokens <= MOST_TOKENS:
        raise ValueError(f"[read] 'max_tokens' must be in 2..{MOST_TOKENS}, got {max_tokens}")
    if lens_layers < 0:
        raise ValueError(f"[read] 'lens_layers' must be at least 0, got {lens_layers}")


def _check(max_tokens: int, lens_layers: int, n: int, layers: int) -> None:
    """Raise ValueError if a number is out of range, or the page would be empty or too large."""
    check_sizes(max_tokens, lens_layers)
    if n < 2:
        raise ValueError(f"[read] 'text' must have at least two tokens, got {n}")
    if 16 * layers * n > MOST_BYTES:
        most = MOST_BYTES // (16 * n)
        raise ValueError(f"[read] 'lens_layers' must be at most {most} for {n} tokens, got {lens_layers}")


def choose_layers(depth: int, count: int) -> list[int]:
    """Choose `count` of the layers 0..depth, spread evenly, the last one included."""
    if count == 0:
        return []
    if count == 1:
        return [depth]
    return sorted({round(i * depth / (min(count, depth + 1) - 1)) for i in range(min(count, depth + 1))})


class _Reading:
    """Computation of the arrays of a `ReadPage`, batch by batch."""

    def __init__(self, model: GPT, ids: Ints, layers: list[int]):
        M = len(ids) - 1
        self.model, self.vocab_size = model, model.config.vocab_size
        best = min(BEST, self.vocab_size)
        self.losses, self.ranks, self.context = np.zeros(M, np.float32), np.zeros(M, np.int32), np.zeros(M, np.int32)
        self.best, self.p = np.zeros((M, best), np.int32), np.zeros((M, best), np.float32)
        self.lens = Lens.empty(layers, M)

    def run(self, windows: StridedWindows, progress: Progress | None) -> None:
        """Predict all windows; ValueError if the model computes NaN or infinity."""
        batch = max(1, BATCH_TOKENS // windows.width)
        starts = range(0, windows.n_windows, batch)
        steps = len(starts) * (1 + len(self.lens.layers))
        done = 0
        for start in starts:
            numbers = np.arange(start, min(start + batch, windows.n_windows))
            for _ in self._window(*windows.batch(numbers)):
                done += 1
                if progress is not None:
                    progress(done, steps)

    def fields(self) -> dict[str, Any]:
        """Return the arrays by their names in `ReadPage`."""
        return {name: getattr(self, name) for name in ("losses", "ranks", "context", "best", "p", "lens")}

    def _window(self, inputs: Ints, targets: Ints, at: npt.NDArray[np.int64]):
        """Predict a batch of windows with the whole model, then with each layer; yields after each for progress."""
        counted = targets >= 0
        wanted, place = targets[counted], at[counted] - 1
        self.context[place] = np.broadcast_to(np.arange(1, targets.shape[1] + 1), targets.shape)[counted]
        stream: list[Tensor] = []
        with no_grad():
            hidden = self.model.hidden(inputs, stream=stream).data[counted]
        for part in chunks(len(hidden), self.vocab_size):
            self._predict(head_logits(self.model, hidden[part]), wanted[part], place[part])
        yield
        for k, layer in enumerate(self.lens.layers):
            if layer == self.model.config.n_layer:
                for mine, known in ((self.lens.losses, self.losses), (self.lens.ranks, self.ranks)):
                    mine[k, place] = known[place]
                self.lens.top[k, place], self.lens.p[k, place] = self.best[place, 0], self.p[place, 0]
            else:
                self._read_layer(k, stream[layer].data[counted], wanted, place)
            yield

    def _predict(self, logits: np.ndarray, wanted: Ints, place: npt.NDArray[np.int64]) -> None:
        """Store losses, ranks and most likely tokens of some rows."""
        losses = _finite(row_losses(logits, wanted))
        self.losses[place], self.ranks[place] = losses, _ranks(logits, wanted)
        lse = losses.astype(np.float64) + logits[np.arange(len(wanted)), wanted]
        for row, sum_of_all, i in zip(logits, lse, place.tolist(), strict=True):
            top = _best(row, self.best.shape[1])
            self.best[i] = top
            self.p[i] = np.exp(row[top] - sum_of_all)

    def _read_layer(self, k: int, rows: np.ndarray, wanted: Ints, place: npt.NDArray[np.int64]) -> None:
        """Store the predictions of layer k: its residual stream through the final norm and the head."""
        for part in chunks(len(rows), self.vocab_size):
            with no_grad():
                normed = self.model.norm(Tensor(np.ascontiguousarray(rows[part]))).data
            logits, true, i = head_logits(self.model, normed), wanted[part], place[part]
            losses, row = _finite(row_losses(logits, true)), np.arange(len(true))
            top = logits.argmax(1)
            self.lens.losses[k, i], self.lens.ranks[k, i], self.lens.top[k, i] = losses, _ranks(logits, true), top
            lse = losses.astype(np.float64) + logits[row, true]
            self.lens.p[k, i] = np.exp(logits[row, top] - lse)


def _finite(losses: Floats) -> Floats:
    if not np.isfinite(losses).all():
        raise ValueError("[read] 'model' must compute finite numbers; its weights are damaged")
    return losses


def _ranks(logits: np.ndarray, wanted: Ints) -> Ints:
    """Return the rank of the true token in each row, from 1; of equal logits, the lower id ranks first."""
    found = np.empty(len(wanted), np.int32)
    for r, (row, token) in enumerate(zip(logits, wanted.tolist(), strict=True)):
        value = row[token]
        found[r] = 1 + np.count_nonzero(row[:token] >= value) + np.count_nonzero(row[token + 1 :] > value)
    return found


def _best(row: np.ndarray, count: int) -> npt.NDArray[np.int64]:
    """Return the indices of the `count` largest entries, largest first; of equal ones, the lower index first."""
    bound = np.partition(row, len(row) - count)[len(row) - count]
    candidates = np.flatnonzero(row >= bound)
    return candidates[np.argsort(-row[candidates], kind="stable")][:count]


def _packed(values: npt.ArrayLike) -> str:
    """Encode numbers as base64: little-endian, int32 or float32."""
    array = np.asarray(values)
    return pack(array, "<f4" if array.dtype.kind == "f" else "<i4")
