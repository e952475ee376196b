"""Cluster indices by hand and against scikit-learn; t-SNE where it is installed."""

import sys

import numpy as np
import pytest

from affect_jax.errors import UserError
from affect_jax.metrics import clusters


def test_two_classes_by_hand():
    # Centres (0, 0) and (10, 0); every point is 1 from its own.
    points = np.array([[-1, 0], [1, 0], [9, 0], [11, 0], [50, 50]], float)
    labels = np.array([0, 0, 3, 3, -1])
    assert clusters.davies_bouldin(points, labels) == pytest.approx(0.2)
    # Between: 4 points 5 from the middle, 1 degree of freedom; within: 4 over 2.
    assert clusters.calinski_harabasz(points, labels) == pytest.approx(100 / 2)


def test_degenerate_classes():
    same = np.array([[0.0], [0.0], [1.0], [1.0]])
    assert clusters.davies_bouldin(same, np.array([0, 0, 1, 1])) == 0.0
    assert clusters.calinski_harabasz(same, np.array([0, 0, 1, 1])) == float("inf")
    assert clusters.davies_bouldin(same, np.array([0, 1, 0, 1])) == float("inf")
    for function in (clusters.davies_bouldin, clusters.calinski_harabasz):
        with pytest.raises(ValueError, match="at least 2 classes"):
            function(same, np.array([0, 0, 0, -1]))
        with pytest.raises(ValueError, match="more points than classes"):
            function(same, np.arange(4))


def test_equal_to_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 200)
    points = rng.normal(size=(200, 7)) + 0.7 * labels[:, None]
    assert clusters.davies_bouldin(points, labels) == pytest.approx(
        metrics.davies_bouldin_score(points, labels), rel=1e-10
    )
    assert clusters.calinski_harabasz(points, labels) == pytest.approx(
        metrics.calinski_harabasz_score(points, labels), rel=1e-10
    )


def test_sample_takes_labelled_rows_once():
    labels = np.array([0, -1, 1, 1, 0, -1, 2])
    np.testing.assert_array_equal(clusters.sample(labels, 10), [0, 2, 3, 4, 6])
    some = clusters.sample(labels, 3)
    assert len(set(some)) == 3 and (labels[some] >= 0).all()
    np.testing.assert_array_equal(some, clusters.sample(labels, 3))


def test_tsne_keeps_far_groups_apart():
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 15)
    points = rng.normal(size=(30, 5)) + 100.0 * labels[:, None]
    places = clusters.tsne(points)
    assert places.shape == (30, 2)
    nearest = np.linalg.norm(places[:, None] - places[None], axis=-1) + 1e9 * np.eye(30)
    np.testing.assert_array_equal(labels[nearest.argmin(axis=1)], labels)
    np.testing.assert_array_equal(places, clusters.tsne(points))


def test_the_extra_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(UserError, match=r"affect_jax\[analysis\]"):
        clusters.tsne(np.zeros((10, 2)))
