"""Page of a model's embeddings: tokens and positions as points, with their nearest neighbours.

Design
- Neighbours are computed here, in all dimensions, and stored in the page as short lists: 50 thousand lists of 10 ids
  fit a page, 50 thousand vectors do not. Rejected: vectors as float16, because rounding makes equal cosines differ.
- Tokens are untrusted text. They enter the page in one JSON block, pure ASCII and without <, > and &; the script
  puts them into the document as text, never as HTML.
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
UNTRAINED = "untrained"  # the class of tokens that do not occur in the training text
FEWEST_UNTRAINED = 8  # fewer such tokens do not distort a picture, so they are shown
INITIAL_DEVIATION = 0.02  # standard deviation of initial weights
SAMPLE = 512  # tokens from which the densest group is found
MOST_TSNE_TOKENS = 5000
SHARES_SHOWN = 10  # components in the list of explained variance
NO_POSITIONS = "the model has rotary positions (rope), which rotate queries and keys and have no vectors to show"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class View:
    """Points of one embedding table: tokens or positions.

    Attributes
    ----------
    what : str
        ``tokens`` or ``positions``.
    labels : list of str
        Labels of the points, with invisible characters made visible.
    classes : list of int or None
        Indices into CLASSES, or len(CLASSES) for an untrained token; positions have none.
    points : float32 array, shape (n, 2 or 3)
        Projected vectors.
    shares : float64 array
        Fraction of the variance that each component explains; empty with t-SNE.
    ids, cosines : arrays, shape (n, k)
        Nearest neighbours in all dimensions, nearest first, and their cosines.
    width, total : int
        Number of dimensions; number of vectors in the table, of which the first n are shown.
    notes : list of str
        Remarks for the reader of the page.
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
        """Describe the points: their number, their width, and the fraction of their variance in the picture."""
        n = len(self.labels)
        text = f"{n:,} of {self.total:,}" if n < self.total else f"{n:,}"
        rare = 0 if self.classes is None else self.classes.count(len(CLASSES))
        text += f", {self.width} wide" + (f", {rare:,} untrained ones hidden" if rare else "")
        if self.shares.size:
            first = self.shares[:3]
            each = ", ".join(f"{100 * share:.1f}" for share in first)
            text += f"; {first.size} components explain {each} % of the variance"
        return text


@dataclass(frozen=True, eq=False)
class EmbeddingsPage(Page):
    """Page of one or two views; a notebook shows it below the cell.

    Attributes
    ----------
    views : list of View
    method : str
        ``pca`` or ``tsne``.
    title : str
        Name of the model.
    notes : list of str
        Remarks on what is not shown.
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
        return {"title": self.title, "method": names[self.method], "classNames": [*CLASSES, UNTRAINED], "views": views}

    def _heading(self) -> str:
        return f"Embeddings: {self.title}"

    def __repr__(self) -> str:
        views = ", ".join(f"{len(view.labels)} {view.what}" for view in self.views)
        return f"<EmbeddingsPage: {views}, {self.method}>"


def table_sizes(model: GPT, tokenizer: Tokenizer, method: str, what: str, max_tokens: int | None) -> dict[str, int]:
    """Return the number of points of each view.

    Parameters
    ----------
    model, tokenizer, method, what, max_tokens
        See `embeddings`.

    Returns
    -------
    dict of str to int

    Raises
    ------
    ValueError
        Positions are requested, and the model has none.
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
        Tokenizer of the model.
    method : str
        ``pca``: principal components; ``tsne``: t-SNE in two dimensions.
    what : str
        ``tokens``, ``positions``, or ``all``: tokens, and positions if the model has any.
    perplexity : float, optional
        Perplexity of t-SNE: the effective number of neighbours, less than the number of points. None: 30, or a third
        of the points.
    seed : int
        Random seed of t-SNE.
    max_tokens : int, optional
        Number of tokens to show, the first by id. None: all with pca, MOST_TSNE_TOKENS with tsne.
    title : str
        Name of the model.
    progress : function (name of the view, done, n), optional
        Called while neighbours are computed.

    Returns
    -------
    EmbeddingsPage

    Raises
    ------
    ValueError
        A value is out of range, the model has no positions, or an embedding is not finite.
    ImportError
        scikit-learn, which t-SNE needs, is missing.
    """
    _check(method, what, perplexity, seed, max_tokens)
    sizes = table_sizes(model, tokenizer, method, what, max_tokens)
    for name, n in sizes.items() if method == "tsne" else ():
        check_perplexity("[embeddings] 'perplexity'", perplexity, name, n)
    views = [
        _view(model, tokenizer if name == "tokens" else None, n, method, perplexity, seed, progress)
        for name, n in sizes.items()
    ]
    return EmbeddingsPage(views, method, title, _left_out(model, what))


def _view(
    model: GPT,
    tokenizer: Tokenizer | None,
    n: int,
    method: str,
    perplexity: float | None,
    seed: int,
    progress: Progress | None,
) -> View:
    """Make the view of the first n tokens; without a tokenizer, of the first n positions."""
    name = "positions" if tokenizer is None else "tokens"
    table = (_positions(model) if tokenizer is None else model.wte).weight.data
    total = len(table) if tokenizer is None else min(tokenizer.vocab_size, len(table))
    vectors = _finite(table[:n], name)
    rare = untrained(vectors) if tokenizer is not None else np.zeros(n, bool)
    points, shares, notes = _project(vectors, method, perplexity, seed, rare)
    near = projection.neighbours(vectors, NEIGHBOURS, None if progress is None else partial(progress, name))
    labels, classes = _named(tokenizer, n)
    if classes is not None:
        classes = [len(CLASSES) if rare[i] else kind for i, kind in enumerate(classes)]
    notes = [*_cut(name, n, total), *_rare(int(rare.sum()), method), *notes]
    return View(name, labels, classes, points, shares, *near, table.shape[1], total, notes)


def untrained(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Find untrained tokens: those that do not occur in the training text, so that their vectors stayed close together.

    Parameters
    ----------
    vectors : float32 array, shape (n, C)

    Returns
    -------
    bool array, shape (n,)
        All False if there are fewer than FEWEST_UNTRAINED such tokens or no others.

    Notes
    -----
    Initial vectors are N(0, 0.02). With tied weights, all tokens that never occur receive nearly the same gradient,
    through the softmax. With untied weights they receive none. In both cases they keep their initial distances and lie
    around a common point c, at a distance of about r = 0.02 sqrt(C). This distance has a standard deviation of
    0.02 / sqrt(2), so that nearly all of them are within four deviations above r. c is the mean of the densest such
    group, found from a sample of the tokens.
    """
    n, C = vectors.shape
    x = vectors.astype(np.float64)
    reach = INITIAL_DEVIATION * (math.sqrt(C) + 4 / math.sqrt(2))
    squares = (x * x).sum(1)
    sample = np.arange(0, n, max(1, n // SAMPLE))
    distances = squares[sample, None] + squares - 2 * (x[sample] @ x.T)
    near = distances <= 2 * reach**2  # both vectors deviate from c, and their variances add
    group = near[near.sum(1).argmax()] if n else np.zeros(0, bool)
    found = np.linalg.norm(x - x[group].mean(0), axis=1) <= reach if group.any() else group
    enough = found.sum() >= FEWEST_UNTRAINED and not found.all()
    return found if enough else np.zeros(n, bool)


def _rare(count: int, method: str) -> list[str]:
    """Make the remark on untrained tokens, if there are any."""
    if not count:
        return []
    fitted = "The components are computed from the other tokens. " if method == "pca" else ""
    return [
        f"{count:,} untrained tokens are hidden: they occur rarely or never in the training text, so their vectors "
        f"stayed close together. {fitted}The button 'untrained' shows them."
    ]


def _cut(name: str, n: int, total: int) -> list[str]:
    text = f"The first {n:,} of {total:,} {name} by id are shown; neighbours are searched among these."
    return [text] if n < total else []


def _left_out(model: GPT, what: str) -> list[str]:
    return [f"Positions are not shown: {NO_POSITIONS}."] if model.wpe is None and what == "all" else []


def _finite(vectors: npt.NDArray[np.float32], name: str) -> npt.NDArray[np.float32]:
    if not np.isfinite(vectors).all():
        raise ValueError(f"[embeddings] 'model' must have finite embeddings, got NaN or infinity among its {name}")
    return vectors


def _named(tokenizer: Tokenizer | None, n: int) -> tuple[list[str], list[int] | None]:
    """Return labels and class indices of the first n tokens; without a tokenizer, of the first n positions."""
    if tokenizer is None:
        return [str(i) for i in range(n)], None
    return [label(tokenizer, i) for i in range(n)], [CLASSES.index(classify(tokenizer, i)) for i in range(n)]


def _positions(model: GPT) -> Embedding:
    if model.wpe is None:
        raise ValueError(f"no position embeddings: {NO_POSITIONS}")
    return model.wpe


def check_perplexity(called: str, perplexity: float | None, what: str, n: int) -> None:
    """Raise ValueError if n points are too few for t-SNE; `called` is the name of the perplexity in the message."""
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
    if not 0 <= seed < 2**32:  # the range of NumPy's generator inside scikit-learn
        raise ValueError(f"[embeddings] 'seed' must be in 0 ... 2^32 - 1, got {seed}")
    if max_tokens is not None and max_tokens < 1:
        raise ValueError(f"[embeddings] 'max_tokens' must be at least 1, got {max_tokens}")


def _project(
    vectors: npt.NDArray[np.float32], method: str, perplexity: float | None, seed: int, rare: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64], list[str]]:
    """Return points, fractions of the variance, and remarks for the reader."""
    if method == "pca":
        points, shares = projection.pca(vectors, fit=~rare if rare.any() else None)
        return points, shares, []
    chosen = projection.usual_perplexity(len(vectors)) if perplexity is None else perplexity
    points, divergence = projection.tsne(vectors, chosen, seed)
    note = f"t-SNE with perplexity {chosen:g} and seed {seed}; divergence {divergence:.2f}. "
    note += "t-SNE keeps neighbours together; axes, sizes of groups and distances between groups have no meaning."
    return points, np.empty(0), [note]
