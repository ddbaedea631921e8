"""The page of a forward pass: every step on the way from tokens to the next-token distribution, one after the other."""

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
from tinygpt.viz.attention import check_length
from tinygpt.viz.labels import label
from tinygpt.viz.page import Page

MAX_TOKENS = 32  # of a prompt, unless more are asked for
MOST_BYTES = 6_000_000  # of values in a page; base64 makes them a third larger
MOST_OF_VOCABULARY = 64  # tokens in a map
BEST = 10  # tokens shown of each prediction
# Bytes of a number and columns of a map, the first that fits. Numbers of two bytes have three digits.
SIZES = ((4, 4096), (4, 256), (2, 256), (2, 128), (2, 64), (2, 32), (2, 16))


@dataclass(frozen=True, eq=False)
class TracePage(Page):
    """The steps of one prompt; a notebook shows them as the page.

    Attributes
    ----------
    name : str
        Of the model.
    ids : int array, shape (T,)
        The tokens.
    labels : list of str
        The tokens as the page shows them.
    steps : Trace
        Of one sequence.
    label : callable
        Token to label.
    dropped : int
        Tokens of the prompt that were left out at its end.
    first : str or None
        The step that the page opens with; None begins at the tokens.
    head : int
        The head that it opens with.
    """

    template_name = "trace"
    parts = ("trace_map", "trace_walk")

    name: str
    ids: np.ndarray
    labels: list[str]
    steps: Trace
    label: Callable[[int], str]
    dropped: int = 0
    first: str | None = None
    head: int = 0

    def predictions(self) -> list[dict[str, Any]]:
        """For each token the most likely next ones: ``best``, pairs of label and probability; ``p`` of the true one.

        Nothing where the model computes no numbers.
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
    """Run a prompt through a model under a trace.

    Parameters
    ----------
    model : GPT
    tokenizer : Tokenizer
    prompt : str
    max_tokens : int
        Of a longer prompt the first ones are used.
    backward : bool
        Also the gradients of the mean loss of the prompt's own next tokens; gradients of the model are left stale.
    first : str, optional
        The step that the page opens with.
    head : int
        The head that it opens with.
    name : str
        Of the model, for the page.
    limit : int
        Bytes of arrays, see `tinygpt.trace`.

    Returns
    -------
    TracePage

    Raises
    ------
    TypeError, ValueError
        As `Tokenizer.prompt`. ValueError also for an empty prompt, for more tokens than the context or a page can hold,
        and for a single token with `backward`, as nothing follows it.
    KeyError, IndexError
        There is no such step or head.
    """
    ids = tokenizer.prompt(prompt) if prompt else np.empty(0, np.int32)
    shown = ids[: check_length(model, len(ids), max_tokens, ("[trace] ", "'prompt'", "'max_tokens'"))]
    if not 0 <= head < model.config.n_head:
        raise IndexError(f"[trace] 'head' must be in 0..{model.config.n_head - 1}, got {head}")
    steps = run(model, shown, backward, limit)
    if first is not None:
        _ = steps[first]
    if not steps["probabilities"].kept:
        raise ValueError(f"[trace] 'limit' must hold all steps of the prompt, got {limit}")
    named = partial(label, tokenizer)
    return TracePage(name, shown, [*map(named, shown.tolist())], steps, named, len(ids) - len(shown), first, head)


def run(model: GPT, ids: np.ndarray, backward: bool = False, limit: int = LIMIT) -> Trace:
    """The steps of one sequence; with `backward` also the gradients of its mean loss.

    Parameters
    ----------
    model : GPT
    ids : int array, shape (T,)
    backward : bool
    limit : int

    Returns
    -------
    Trace

    Raises
    ------
    ValueError
        `backward` and a single token, which nothing follows.
    """
    if not backward:
        with no_grad(), trace(limit=limit) as steps:
            model(ids[None])
        return steps
    if len(ids) < 2:
        raise ValueError("[trace] 'backward' must have at least two tokens: the loss is that of the next ones")
    model.zero_grad()
    with trace(backward=True, limit=limit) as steps:
        model.loss(ids[None], np.append(ids[1:], -1)[None]).backward()
    model.zero_grad()
    return steps


def as_maps(step: Step, array: np.ndarray) -> np.ndarray:
    """An array of a step, of the first sequence, as (heads, tokens, columns); one head where the step has none."""
    if array.ndim == 4:
        return array[0] if step.axes.split()[1] == "H" else array[0].transpose(1, 0, 2)
    if array.ndim == 3:
        return array[:1]
    return array[:1, :, None] if array.ndim == 2 else array.reshape(1, 1, -1)


def _columns(step: Step, most: int, shown: list[int]) -> np.ndarray:
    """Which columns of a step a page shows: all tokens, the likeliest of a vocabulary, every so many of a width."""
    n = step.shape[-1] if len(step.shape) > 2 else 1
    if step.axes.endswith("V"):
        return np.array(shown)
    if step.axes.endswith("S"):
        return np.arange(n)
    return np.arange(0, n, -(-n // most))


def _size(steps: list[Step]) -> tuple[int, int]:
    """Bytes of a number, and the most columns of a map, such that everything fits a page."""
    tokens = max(as_maps(step, step.array).shape[1] for step in steps)
    for width, most in SIZES:
        if _bytes(steps, width, most, tokens) <= MOST_BYTES:
            return width, most
    fits = next((t for t in range(tokens, 0, -1) if _bytes(steps, *SIZES[-1], t) <= MOST_BYTES), 0)
    raise ValueError(f"[trace] {len(steps)} steps of {tokens} tokens do not fit a page; of {fits} tokens they would")


def _bytes(steps: list[Step], width: int, most: int, tokens: int) -> int:
    """What the values of all steps take in a page, were there so many tokens."""
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
    """Numbers for the page, and the power of two that they were divided by: half precision has a short range."""
    if width == 4:
        return maps.astype("<f4").tobytes(), 0
    finite = np.abs(maps[np.isfinite(maps)])
    largest = float(finite.max()) if finite.size else 0.0
    exponent = math.frexp(largest)[1] if largest > 0 else 0
    return np.ldexp(maps.astype(np.float64), -exponent).astype("<f2").tobytes(), exponent


def _station(step: Step, columns: np.ndarray) -> dict[str, Any]:
    """What the page tells of a step."""
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
