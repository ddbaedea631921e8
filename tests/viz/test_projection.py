"""Principal components against scikit-learn's, neighbours against all cosines, and properties of t-SNE."""

import sys

import numpy as np
import pytest

from tinygpt.viz import projection

SHAPES = [(1, 4), (2, 5), (3, 1), (7, 7), (40, 3), (5, 40), (200, 16)]


def vectors(n, width, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, width)) * np.linspace(1, 4, width) + 3).astype(np.float32)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape[0] > 3])
def test_components_are_those_of_scikit_learn(shape):
    """Catches a matrix that is not centred, directions in the wrong order, and wrong shares of variance.

    Each direction is compared up to its sign. The bound allows the rounding of coordinates to float32, 2^-24 of the
    largest, and a factor for the float64 sums before it.
    """
    decomposition = pytest.importorskip("sklearn.decomposition")
    x = vectors(*shape)
    points, shares = projection.pca(x, 3)
    kept = min(3, *shape)
    reference = decomposition.PCA(kept, svd_solver="full").fit(x.astype(np.float64))
    expected = reference.transform(x.astype(np.float64))
    for k in range(kept):
        sign = np.sign(points[:, k] @ expected[:, k])
        np.testing.assert_allclose(sign * points[:, k], expected[:, k], atol=1e-6 * np.abs(expected).max())
    np.testing.assert_allclose(shares[:kept], reference.explained_variance_ratio_, rtol=1e-9)
    assert (points[:, kept:] == 0).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_all_components_keep_all_distances(shape):
    """Catches a lost or repeated direction, and shares of variance that do not add up to 1."""
    x = vectors(*shape).astype(np.float64)
    points, shares = projection.pca(x, min(shape))
    far = np.linalg.norm(x[:, None] - x[None], axis=2)
    np.testing.assert_allclose(
        np.linalg.norm(points[:, None].astype(np.float64) - points[None], axis=2), far, atol=1e-5 * (far.max() or 1)
    )
    assert shares.sum() == pytest.approx(1 if shape[0] > 1 else 0)


def test_a_direction_has_one_sign():
    """Catches a plot that is mirrored when the same vectors come in another order."""
    x = vectors(30, 6)
    np.testing.assert_allclose(projection.pca(x)[0], projection.pca(x[::-1])[0][::-1], atol=1e-4)


def test_equal_vectors_have_no_variance():
    """Catches a division by a variance of 0."""
    points, shares = projection.pca(np.full((5, 4), 2.5, np.float32))
    assert (points == 0).all()
    assert (shares == 0).all()


@pytest.mark.parametrize("rows", [1, 3, 50, 1000])
def test_neighbours_are_the_nearest_of_all(rows, monkeypatch):
    """Catches a point among its own neighbours, a skipped chunk, dot products for cosines, and a wrong order."""
    x = vectors(50, 6) - 3
    monkeypatch.setattr(projection, "CHUNK_BYTES", rows * 4 * len(x))
    seen = []
    ids, cosines = projection.neighbours(x, 7, lambda done, n: seen.append((done, n)))
    unit = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    near = unit @ unit.T
    np.fill_diagonal(near, -2)
    for i in range(len(x)):
        best = np.sort(near[i])[::-1][:7]
        np.testing.assert_allclose(near[i, ids[i]], best, atol=1e-6)
        np.testing.assert_allclose(cosines[i], best, atol=1e-6)
        assert i not in ids[i]
        assert len(set(ids[i].tolist())) == 7
    assert [done for done, _ in seen] == [min(end, 50) for end in range(rows, 50 + rows, rows)]
    assert {n for _, n in seen} == {50}


def test_ties_are_ordered_by_id():
    """Catches ties in arbitrary order, and more neighbours than there are vectors."""
    x = np.ones((6, 3), np.float32)
    ids, cosines = projection.neighbours(x, 3)
    assert ids.tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2], [0, 1, 2], [0, 1, 2]]
    np.testing.assert_allclose(cosines, 1, atol=1e-6)
    assert projection.neighbours(x, 10)[0].shape == (6, 5)
    assert projection.neighbours(x[:1], 10)[0].shape == (1, 0)


def test_length_does_not_change_a_cosine():
    """Catches squares that overflow or underflow float32, and NaN for a vector of zeros."""
    x = np.array([[1, 0], [1e-30, 1e-31], [1e30, 1e29], [0, 0], [0, -1]], np.float32)
    ids, cosines = projection.neighbours(x, 4)
    assert np.isfinite(cosines).all()
    assert ids[1, 0] == 2
    assert cosines[1, 0] == pytest.approx(1)
    assert (cosines[3] == 0).all()


def test_tsne_keeps_groups_and_the_seed():
    """Catches points assigned to the wrong rows, and an ignored seed."""
    pytest.importorskip("sklearn")
    groups = np.repeat(np.eye(3, 5, dtype=np.float32) * 20, 10, axis=0) + vectors(30, 5, 1) / 10
    points, divergence = projection.tsne(groups, 5.0, 1)
    assert points.shape == (30, 2)
    assert np.isfinite(points).all()
    assert divergence > 0
    nearest = np.linalg.norm(points[:, None] - points[None], axis=2) + np.diag(np.full(30, np.inf))
    assert (nearest.argmin(1) // 10 == np.arange(30) // 10).all()
    np.testing.assert_array_equal(projection.tsne(groups, 5.0, 1)[0], points)


def test_tsne_of_equal_vectors_is_finite():
    """Catches an initialisation that divides by a standard deviation of 0."""
    pytest.importorskip("sklearn")
    assert np.isfinite(projection.tsne(np.ones((9, 4), np.float32), 2.0)[0]).all()


def test_the_default_perplexity_is_allowed():
    """Catches a default perplexity too large for a few points."""
    for n in range(projection.FEWEST_FOR_TSNE, 200):
        assert 1 <= projection.usual_perplexity(n) < n
    assert projection.usual_perplexity(1000) == 30


def test_the_extra_is_named(monkeypatch):
    """Catches an error that names an extra pip does not know."""
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(ImportError, match=r"pip install 'tinygpt\[viz\]'"):
        projection.tsne(np.ones((9, 4), np.float32), 2.0)
