"""Projection of vectors to two or three dimensions, and nearest neighbours in all dimensions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tinygpt import kernels
from tinygpt.kernels.adaptive import Adaptive

Floats = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]

CHUNK_BYTES = 64 * 2**20  # limit of the cosines in memory; all cosines of 50 thousand tokens would take 10 GB
SAMPLED = 16  # one of so many columns gives a lower bound for the k-th largest cosine of a row
FEWEST_FOR_TSNE = 4
USUAL_PERPLEXITY = 30.0  # van der Maaten and Hinton 2008: between 5 and 50


class Components(NamedTuple):
    """Result of `pca`."""

    points: Floats
    """(n, dims): coordinates along the directions of largest variance."""
    shares: npt.NDArray[np.float64]
    """(min(n, C),): share of the variance along each direction, largest first; the sum is 1."""


def pca(vectors: npt.ArrayLike, dims: int = 3, fit: npt.NDArray[np.bool_] | None = None) -> Components:
    """Compute principal components: the eigenvectors of the covariance matrix.

    Parameters
    ----------
    vectors : array, shape (n, C)
    dims : int
        Number of coordinates to keep. If there are fewer directions, the remaining coordinates are 0.
    fit : bool array, shape (n,), optional
        Vectors from which mean and directions are computed; all vectors are projected. None: all.

    Returns
    -------
    Components

    Notes
    -----
    With (X - mean)^T (X - mean) = V L V^T the coordinates are (X - mean) V, and direction k has the variance
    L_k / (n - 1) (Jolliffe 2002, section 1.1). For 50 thousand vectors this C x C problem is a hundred times cheaper
    than a singular value decomposition of X - mean. It halves the number of correct digits, which doubles can afford.
    The sign of a direction is arbitrary; the largest entry of each is made positive, so that the same vectors give the
    same picture.
    """
    x = np.asarray(vectors, np.float64)
    chosen = x if fit is None else x[fit]
    mean = chosen.mean(0)
    centred = chosen - mean
    variance, v = np.linalg.eigh(centred.T @ centred)  # ascending; rounding may leave tiny negative ones
    variance, v = np.maximum(variance[::-1], 0)[: min(x.shape)], v[:, ::-1]
    signs = np.where(np.take_along_axis(v, np.abs(v).argmax(0)[None], 0)[0] < 0, -1.0, 1.0)
    points = np.zeros((len(x), dims))
    kept = min(dims, variance.size)
    points[:, :kept] = (x - mean) @ (v[:, :kept] * signs[:kept])
    return Components(points.astype(np.float32), variance / (variance.sum() or 1.0))


def usual_perplexity(n: int) -> float:
    """Return the default perplexity for n points: 30, or a third of the points if that is less."""
    return min(USUAL_PERPLEXITY, max(1.0, (n - 1) / 3))


def tsne(vectors: npt.ArrayLike, perplexity: float, seed: int = 0) -> tuple[Floats, float]:
    """Project to two dimensions with t-SNE (van der Maaten and Hinton 2008), computed by scikit-learn.

    Parameters
    ----------
    vectors : array, shape (n, C)
        At least FEWEST_FOR_TSNE vectors.
    perplexity : float
        Effective number of neighbours of each point; less than n.
    seed : int

    Returns
    -------
    points : float32 array, shape (n, 2)
    divergence : float
        Final Kullback-Leibler divergence between the neighbourhoods before and after projection.

    Raises
    ------
    ImportError
        scikit-learn is not installed; the message names the extra to install.

    Notes
    -----
    It starts from the first two principal components, scaled to a standard deviation of 1e-4 as in scikit-learn.
    If all vectors are equal, there are no components, and the points start at random places.
    """
    need_sklearn()
    from sklearn.manifold import TSNE

    x = np.asarray(vectors, np.float32)
    start = pca(x, 2).points
    deviation = float(start[:, 0].std())
    if deviation > 0:
        start = start / np.float32(deviation) * np.float32(1e-4)
    else:
        start = np.random.default_rng(seed).standard_normal((len(x), 2), np.float32) * np.float32(1e-4)
    solver = TSNE(n_components=2, perplexity=perplexity, init=start, learning_rate="auto", random_state=seed)
    points = solver.fit_transform(x)
    return np.asarray(points, np.float32), float(solver.kl_divergence_)


def need_sklearn() -> None:
    """Raise ImportError, naming the extra, if scikit-learn is missing."""
    try:
        import sklearn.manifold  # noqa: F401 - report a missing package before any work is done
    except ImportError:
        raise ImportError("t-SNE needs scikit-learn: pip install 'tinygpt[viz]'") from None


def neighbours(
    vectors: npt.ArrayLike, k: int, progress: Progress | None = None
) -> tuple[npt.NDArray[np.int32], Floats]:
    """Find the k nearest neighbours of every vector by cosine, without itself.

    Parameters
    ----------
    vectors : array, shape (n, C)
    k : int
        Number of neighbours; n - 1 if there are fewer.
    progress : function (done, n), optional
        Called after every chunk of rows.

    Returns
    -------
    ids : int32 array, shape (n, min(k, n - 1))
        Nearest first; of equally near ones, the lower id first.
    cosines : float32 array, the same shape
        A vector of zeros has cosine 0 with all others.
    """
    x = _unit(np.asarray(vectors, np.float32))
    n = len(x)
    k = max(0, min(k, n - 1))
    ids, cosines = np.empty((n, k), np.int32), np.empty((n, k), np.float32)
    rows = max(1, CHUNK_BYTES // (4 * max(1, n)))
    with Adaptive() as threads:
        for start in range(0, n if k else 0, rows):
            stop = min(start + rows, n)
            with threads.step():
                near = kernels.matmul(x[start:stop], x, trans_b=True)
            near[np.arange(stop - start), np.arange(start, stop)] = -np.inf
            ids[start:stop], cosines[start:stop] = _largest(near, k)
            if progress is not None:
                progress(stop, n)
    return ids, np.clip(cosines, -1, 1)


def _unit(x: Floats) -> Floats:
    """Scale rows to length 1; rows of zeros stay."""
    # Scale the largest entry to 1 first, because squares of tiny or huge numbers leave the range of float32.
    largest = np.abs(x).max(1, initial=0, keepdims=True)
    scaled = x / np.where(largest > 0, largest, np.float32(1))
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    return np.asarray(scaled / np.where(length > 0, length, np.float32(1)), np.float32)


def _largest(near: Floats, k: int) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return columns and values of the k largest entries of every row, largest first; ties by column.

    The k-th largest of a sample of columns is a lower bound for the k-th largest of the row. Only the entries above it,
    about SAMPLED k of them, are sorted.
    """
    rows, n = near.shape
    sample = near[:, ::SAMPLED] if n >= SAMPLED * k else near
    bound = np.partition(sample, sample.shape[1] - k, axis=1)[:, sample.shape[1] - k, None]
    found = np.flatnonzero(near >= bound)  # several times faster than np.nonzero with two axes
    (row, column), value = np.divmod(found, n), near.reshape(-1)[found]
    order = np.lexsort((column, -value, row))
    first = np.searchsorted(row, np.arange(rows))  # the entries are listed row by row, and so is the sort
    chosen = order[first[:, None] + np.arange(k)]
    return column[chosen], value[chosen]
