"""Page of a forward pass: every step from the tokens to the next-token distribution, in order."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tinygpt.model import GPT
from tinygpt.tensor import no_grad
from tinygpt.tokenizers.base import Tokenizer
from tinygpt.tracing import LIMIT, Step, Trace, trace
from tinygpt.tracing.formulas import LETTERS
from tinygpt.viz.attention import cut_note, shown_tokens
from tinygpt.viz.labels import label
from tinygpt.viz.page import Page

MAX_TOKENS = 32  # default number of tokens of a page
MOST_BYTES = 6_000_000  # limit of the values in a page; base64 makes them a third larger
MOST_OF_VOCABULARY = 64  # tokens of the vocabulary in a map
BEST = 10  # most likely tokens shown for each prediction
# Bytes per number and largest number of columns in a map: the first pair that fits is used. Two bytes: three digits.
SIZES = ((4, 4096), (4, 256), (2, 256), (2, 128), (2, 64), (2, 32), (2, 16))


@dataclass(frozen=True, eq=False, repr=False)
class TracePage(Page):
    """Page of the steps of one prompt; a notebook shows it below the cell.

    Attributes
    ----------
    name : str
        Name of the model.
    ids : int array, shape (T,)
        Tokens of the prompt.
    labels : list of str
        Labels of the tokens.
    steps : Trace
        Trace of one sequence.
    label : callable
        Maps a token to its label.
    context : int
        Context length of the model.
    dropped : int
        Number of tokens cut off at the end of the prompt.
    first : str or None
        Step that the page shows first; None: the tokens.
    head : int
        Head that the page shows first.
    """

    template_name = "trace"
    parts = ("trace_map", "trace_walk")

    name: str
    ids: np.ndarray
    labels: list[str]
    steps: Trace
    label: Callable[[int], str]
    context: int
    dropped: int = 0
    first: str | None = None
    head: int = 0

    def predictions(self) -> list[dict[str, Any]]:
        """List for each token ``best``, the most likely next tokens, and ``p``, the probability of the true next one.

        For NaN and infinity, ``best`` is empty and ``p`` is None.
        """
        found: list[dict[str, Any]] = []
        for t, p in enumerate(self.steps["probabilities"].array[0]):
            sound, follows = bool(np.isfinite(p).all()), t + 1 < len(self.ids)
            best = np.argsort(-p, kind="stable")[:BEST].tolist() if sound else []
            true = float(p[self.ids[t + 1]]) if sound and follows else None
            found.append({"best": [[self.label(token), float(p[token])] for token in best], "p": true})
        return found

    def _heading(self) -> str:
        return f"Trace: {self.name}"

    def _data(self) -> dict[str, Any]:
        kept = [step for step in self.steps.values() if step.kept]
        last = self.steps["probabilities"].array[0, -1]
        width, most = _size(kept)
        shown = np.argsort(-last, kind="stable")[:MOST_OF_VOCABULARY].tolist()
        chunks: list[bytes] = []
        stations, at = [], 0
        for step in kept:
            columns = _columns(step, most, shown)
            station = _station(step, columns)
            for key, array in (("values", step.array), ("gradient", step.gradient)):
                if array is None:
                    continue
                packed, exponent = _packed(as_maps(step, array)[..., columns], width)
                station[key] = [at, exponent]
                chunks.append(packed)
                at += len(packed) // width
            stations.append(station)
        return {
            "name": self.name,
            "tokens": self.labels,
            "ids": self.ids.tolist(),
            "dropped": self.dropped,
            "cut": cut_note(len(self.ids) + self.dropped, len(self.ids), self.context),
            "letters": LETTERS,
            "width": width,
            "most": most,
            "vocabulary": [self.label(token) for token in shown],
            "stations": stations,
            "numbers": base64.b64encode(b"".join(chunks)).decode(),
            "predictions": self.predictions(),
            "first": self.first,
            "head": self.head,
        }


def trace_page(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: str,
    max_tokens: int = MAX_TOKENS,
    backward: bool = False,
    first: str | None = None,
    head: int = 0,
    name: str = "model",
    limit: int = LIMIT,
) -> TracePage:
    """Make the page of a prompt: run it through a model and record every step.

    Parameters
    ----------
    model : GPT
    tokenizer : Tokenizer
    prompt : str
    max_tokens : int
        Largest number of tokens; a longer prompt is cut at its end, as is one longer than the context of the model.
    backward : bool
        Record the gradients of the mean loss of the prompt too. The gradients of the model are set to zero.
    first : str, optional
        Step that the page shows first.
    head : int
        Head that the page shows first.
    name : str
        Name of the model, for the page.
    limit : int
        Largest total size of the recorded arrays in bytes; see `tinygpt.trace`.

    Returns
    -------
    TracePage

    Raises
    ------
    TypeError, ValueError
        See `Tokenizer.prompt`. ValueError also for an empty prompt, for more tokens than a page can hold, and for a
        single token with `backward`, because no token follows it.
    KeyError, IndexError
        The trace has no such step, or the model no such head.
    """
    ids = tokenizer.prompt(prompt) if prompt else np.empty(0, np.int32)
    shown = ids[: shown_tokens(model, len(ids), max_tokens, "trace")]
    if not 0 <= head < model.config.n_head:
        raise IndexError(f"[trace] 'head' must be in 0..{model.config.n_head - 1}, got {head}")
    steps = run(model, shown, backward, limit)
    if first is not None:
        _ = steps[first]
    if not steps["probabilities"].kept:
        raise ValueError(f"[trace] 'limit' must hold all steps of the prompt, got {limit}")
    named = partial(label, tokenizer)
    labels, context, dropped = [*map(named, shown.tolist())], model.config.block_size, len(ids) - len(shown)
    return TracePage(name, shown, labels, steps, named, context, dropped, first, head)


def run(model: GPT, ids: np.ndarray, backward: bool = False, limit: int = LIMIT) -> Trace:
    """Record one sequence, and with `backward` the gradients of its mean loss.

    Parameters
    ----------
    model : GPT
    ids : int array, shape (T,)
        Tokens of the sequence.
    backward : bool
        Record gradients too.
    limit : int
        Largest total size of the recorded arrays in bytes.

    Returns
    -------
    Trace

    Raises
    ------
    ValueError
        `backward` is given with a single token, so that there is no next token to predict.
    """
    if not backward:
        with no_grad(), trace(limit=limit) as steps:
            model(ids[None])
        return steps
    if len(ids) < 2:
        raise ValueError("[trace] 'backward' needs at least 2 tokens, because the loss predicts each next token")
    model.zero_grad()
    with trace(backward=True, limit=limit) as steps:
        model.loss(ids[None], np.append(ids[1:], -1)[None]).backward()
    model.zero_grad()
    return steps


def as_maps(step: Step, array: np.ndarray) -> np.ndarray:
    """View the first sequence of a step's array as (heads, tokens, columns); a step without heads has one."""
    if array.ndim == 4:
        return array[0] if step.axes.split()[1] == "H" else array[0].transpose(1, 0, 2)
    if array.ndim == 3:
        return array[:1]
    return array[:1, :, None] if array.ndim == 2 else array.reshape(1, 1, -1)


def _columns(step: Step, most: int, shown: list[int]) -> np.ndarray:
    """Choose the columns of a map: all keys, the most likely tokens, or every n-th column of a width."""
    n = step.shape[-1] if len(step.shape) > 2 else 1
    if step.axes.endswith("V"):
        return np.array(shown)
    if step.axes.endswith("S"):
        return np.arange(n)
    return np.arange(0, n, -(-n // most))


def _size(steps: list[Step]) -> tuple[int, int]:
    """Choose bytes per number and largest number of columns, so that all maps fit a page."""
    tokens = max(as_maps(step, step.array).shape[1] for step in steps)
    for width, most in SIZES:
        if _bytes(steps, width, most, tokens) <= MOST_BYTES:
            return width, most
    fits = next((t for t in range(tokens, 0, -1) if _bytes(steps, *SIZES[-1], t) <= MOST_BYTES), 0)
    raise ValueError(f"[trace] {len(steps)} steps of {tokens} tokens do not fit a page; {fits} tokens would fit")


def _bytes(steps: list[Step], width: int, most: int, tokens: int) -> int:
    """Compute the size of all steps in a page in bytes, for the given number of tokens."""
    total = 0
    for step in steps:
        heads, rows, columns = as_maps(step, step.array).shape
        if step.axes.endswith("V"):
            columns = min(columns, MOST_OF_VOCABULARY)
        elif step.axes.endswith("S"):
            columns = min(columns, tokens)
        else:
            columns = len(range(0, columns, -(-columns // most)))
        total += (1 + (step.gradient is not None)) * width * heads * min(rows, tokens) * columns
    return total


def _packed(maps: np.ndarray, width: int) -> tuple[bytes, int]:
    """Encode numbers for the page. Half precision has a small range, so they are first scaled by a power of two."""
    if width == 4:
        return maps.astype("<f4").tobytes(), 0
    finite = np.abs(maps[np.isfinite(maps)])
    largest = float(finite.max()) if finite.size else 0.0
    exponent = math.frexp(largest)[1] if largest > 0 else 0
    return np.ldexp(maps.astype(np.float64), -exponent).astype("<f2").tobytes(), exponent


def _station(step: Step, columns: np.ndarray) -> dict[str, Any]:
    """Convert a step to the data that the script of the page reads."""
    heads, tokens, _ = as_maps(step, step.array).shape
    return {
        "name": step.name,
        "block": step.block,
        "formula": step.formula,
        "words": step.text.words,
        "axes": step.axes,
        "shape": list(step.shape),
        "dtype": step.dtype,
        "source": step.source,
        "caller": step.caller,
        "stats": {key: value if math.isfinite(value) else None for key, value in step.stats._asdict().items()},
        "heads": heads,
        "rows": tokens,
        "columns": len(columns),
        "every": int(columns[1] - columns[0]) if len(columns) > 1 and not step.axes.endswith("V") else 1,
    }
