"""The page of a model's embeddings: tokens and positions as points, and who is near whom.

Design
- Who is near whom is found here, in all dimensions, and written into the page as short lists: 50 thousand vectors
  would be too much for a page, 50 thousand lists of 10 are not. Rejected: the vectors as float16, which rounds equal
  cosines apart.
- Tokens are text that nobody vouches for. They enter the page in one JSON block, pure ASCII and without <, > and &;
  the script puts them into the document as text, never as HTML.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from tinygpt.model import GPT
from tinygpt.nn import Embedding
from tinygpt.tokenizers.base import Tokenizer
from tinygpt.viz import projection
from tinygpt.viz.labels import label
from tinygpt.viz.page import Page, pack
from tinygpt.viz.token_classes import CLASSES, classify

METHODS = ("pca", "tsne")
WHAT = ("all", "tokens", "positions")
NEIGHBOURS = 10
MOST_TSNE_TOKENS = 5000
SHARES_SHOWN = 10  # components in the list of explained variance
NO_POSITIONS = "the model has rotary positions (rope): they turn queries and keys, there is no table of vectors to show"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class View:
    """The points of one table of vectors.

    Attributes
    ----------
    what : str
        ``tokens`` or ``positions``.
    labels : list of str
        What a point stands for, without anything invisible.
    classes : list of int or None
        Places in CLASSES; positions have none.
    points : float32 array, shape (n, 2 or 3)
    shares : float64 array
        Of the variance, by component; empty with t-SNE.
    ids, cosines : arrays, shape (n, k)
        The nearest in all dimensions, the nearest first.
    width, total : int
        Dimensions of a vector; vectors of the whole table, of which the first n are shown.
    notes : list of str
    """

    what: str
    labels: list[str]
    classes: list[int] | None
    points: npt.NDArray[np.float32]
    shares: npt.NDArray[np.float64]
    ids: npt.NDArray[np.int32]
    cosines: npt.NDArray[np.float32]
    width: int
    total: int
    notes: list[str] = field(default_factory=list)

    def describe(self) -> str:
        """How many points of which width, and how much of them a picture can show."""
        n = len(self.labels)
        text = f"{n:,} of {self.total:,}" if n < self.total else f"{n:,}"
        text += f", {self.width} wide"
        if self.shares.size:
            first = self.shares[:3]
            each = ", ".join(f"{100 * share:.1f}" for share in first)
            text += f"; {first.size} components explain {each} % of the variance"
        return text


@dataclass(frozen=True, eq=False)
class EmbeddingsPage(Page):
    """What `embeddings` gives: in a notebook it shows itself.

    Attributes
    ----------
    views : list of View
    method, title : str
    notes : list of str
        What is not shown, and why.
    """

    template_name = "embeddings"
    charts = True
    height = 760

    views: list[View]
    method: str
    title: str = ""
    notes: list[str] = field(default_factory=list)

    def _data(self) -> dict[str, Any]:
        names = {"pca": "PCA", "tsne": "t-SNE"}
        views = [
            {
                "what": view.what,
                "labels": view.labels,
                "classes": None if view.classes is None else pack(view.classes, "u1"),
                "dims": view.points.shape[1],
                "points": pack(view.points, "<f4"),
                "shares": [float(share) for share in view.shares[:SHARES_SHOWN]],
                "k": view.ids.shape[1],
                "ids": pack(view.ids, "<i4"),
                "cosines": pack(view.cosines, "<f4"),
                "width": view.width,
                "total": view.total,
                "notes": [*view.notes, *self.notes],
            }
            for view in self.views
        ]
        return {"title": self.title, "method": names[self.method], "classNames": CLASSES, "views": views}

    def _heading(self) -> str:
        return f"Embeddings: {self.title}"

    def __repr__(self) -> str:
        views = ", ".join(f"{len(view.labels)} {view.what}" for view in self.views)
        return f"<EmbeddingsPage: {views}, {self.method}>"


def table_sizes(model: GPT, tokenizer: Tokenizer, method: str, what: str, max_tokens: int | None) -> dict[str, int]:
    """How many points each view will have: what `embeddings` checks a perplexity against.

    Parameters
    ----------
    model, tokenizer, method, what, max_tokens
        As in `embeddings`.

    Returns
    -------
    dict of str to int

    Raises
    ------
    ValueError
        Positions are asked for, and the model has none.
    """
    sizes = {}
    if what != "positions":
        count = min(tokenizer.vocab_size, model.config.vocab_size)
        limit = max_tokens if max_tokens is not None else MOST_TSNE_TOKENS if method == "tsne" else count
        sizes["tokens"] = min(count, limit)
    if what == "positions" or (what == "all" and model.wpe is not None):
        sizes["positions"] = _positions(model).weight.shape[0]
    return sizes


def embeddings(
    model: GPT,
    tokenizer: Tokenizer,
    method: str = "pca",
    what: str = "all",
    perplexity: float | None = None,
    seed: int = 0,
    max_tokens: int | None = None,
    title: str = "",
    progress: Progress | None = None,
) -> EmbeddingsPage:
    """Project a model's embeddings and find the neighbours of each.

    Parameters
    ----------
    model : GPT
    tokenizer : Tokenizer
        Of the model.
    method : str
        ``pca``: principal components; ``tsne``: t-SNE in two dimensions.
    what : str
        ``tokens``, ``positions``, or ``all``: tokens, and positions if the model has any.
    perplexity : float, optional
        Of t-SNE: about how many neighbours count; less than the number of points. None: 30, or a third of the points.
    seed : int
        Of t-SNE.
    max_tokens : int, optional
        Tokens to show: the first by id. None: all with pca, MOST_TSNE_TOKENS with tsne.
    title : str
        Of the model.
    progress : function (name of the view, done, n), optional
        Is called while neighbours are looked for.

    Returns
    -------
    EmbeddingsPage

    Raises
    ------
    ValueError
        A value is out of range, the model has no positions that are asked for, or an embedding is not finite.
    ImportError
        scikit-learn is missing, which t-SNE needs.
    """
    _check(method, what, perplexity, seed, max_tokens)
    sizes = table_sizes(model, tokenizer, method, what, max_tokens)
    for name, n in sizes.items() if method == "tsne" else ():
        check_perplexity("[embeddings] 'perplexity'", perplexity, name, n)
    views = []
    for name, n in sizes.items():
        words = tokenizer if name == "tokens" else None
        table = (_positions(model) if words is None else model.wte).weight.data
        total = len(table) if words is None else min(tokenizer.vocab_size, len(table))
        vectors = _finite(table[:n], name)
        points, shares, told = _project(vectors, method, perplexity, seed)
        told = [*_cut(name, n, total), *told]
        near = projection.neighbours(vectors, NEIGHBOURS, None if progress is None else partial(progress, name))
        views.append(View(name, *_named(words, n), points, shares, *near, table.shape[1], total, told))
    return EmbeddingsPage(views, method, title, _left_out(model, what))


def _cut(name: str, n: int, total: int) -> list[str]:
    text = f"The first {n:,} of {total:,} {name} by id are shown; neighbours are looked for among them."
    return [text] if n < total else []


def _left_out(model: GPT, what: str) -> list[str]:
    return [f"Positions are not shown: {NO_POSITIONS}."] if model.wpe is None and what == "all" else []


def _finite(vectors: npt.NDArray[np.float32], name: str) -> npt.NDArray[np.float32]:
    if not np.isfinite(vectors).all():
        raise ValueError(f"[embeddings] 'model' must have finite embeddings, got NaN or infinity among its {name}")
    return vectors


def _named(tokenizer: Tokenizer | None, n: int) -> tuple[list[str], list[int] | None]:
    """Labels of the first n tokens, and places of their classes in CLASSES; of positions without a tokenizer."""
    if tokenizer is None:
        return [str(i) for i in range(n)], None
    return [label(tokenizer, i) for i in range(n)], [CLASSES.index(classify(tokenizer, i)) for i in range(n)]


def _positions(model: GPT) -> Embedding:
    if model.wpe is None:
        raise ValueError(f"no position embeddings: {NO_POSITIONS}")
    return model.wpe


def check_perplexity(called: str, perplexity: float | None, what: str, n: int) -> None:
    """Raise ValueError where t-SNE cannot place n points; `called` is what the message calls the perplexity."""
    if n < projection.FEWEST_FOR_TSNE:
        raise ValueError(f"t-SNE needs at least {projection.FEWEST_FOR_TSNE} {what}, got {n}")
    if perplexity is not None and not perplexity < n:
        raise ValueError(f"{called} must be less than the number of {what}, {n}, got {perplexity:g}")


def _check(method: str, what: str, perplexity: float | None, seed: int, max_tokens: int | None) -> None:
    for name, value, allowed in (("method", method, METHODS), ("what", what, WHAT)):
        if value not in allowed:
            raise ValueError(f"[embeddings] '{name}' must be one of {', '.join(allowed)}, got {value!r}")
    if perplexity is not None and not (math.isfinite(perplexity) and perplexity > 0):
        raise ValueError(f"[embeddings] 'perplexity' must be more than 0 and finite, got {perplexity}")
    if not 0 <= seed < 2**32:  # what NumPy's generator inside scikit-learn takes
        raise ValueError(f"[embeddings] 'seed' must be in 0 ... 2^32 - 1, got {seed}")
    if max_tokens is not None and max_tokens < 1:
        raise ValueError(f"[embeddings] 'max_tokens' must be at least 1, got {max_tokens}")


def _project(
    vectors: npt.NDArray[np.float32], method: str, perplexity: float | None, seed: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64], list[str]]:
    """Points, shares of the variance, and what a reader must know about both."""
    if method == "pca":
        points, shares = projection.pca(vectors)
        return points, shares, []
    chosen = projection.usual_perplexity(len(vectors)) if perplexity is None else perplexity
    points, divergence = projection.tsne(vectors, chosen, seed)
    note = (
        f"t-SNE with perplexity {chosen:g} and seed {seed}; divergence {divergence:.2f}. It keeps neighbours together: "
    )
    note += "axes, sizes of groups and distances between groups mean nothing."
    return points, np.empty(0), [note]
